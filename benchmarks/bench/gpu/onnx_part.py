"""Part b: ONNX files on onnxruntime's CUDA provider against torch on the CPU and on the GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.bench.gpu.checks import (
    Check,
    CheckSkippedError,
    Settings,
    expect,
    loaded_packages,
    tried,
)
from benchmarks.bench.gpu.proof_models import CHECKPOINT, PROOF_FILES, photos_of
from numclip_runtime import ImageError, Predictor, load
from numclip_runtime.backends import Backend
from numclip_runtime.errors import NumclipError

_LARGEST = 64  # of the batch sizes that are compared: 1, 8 and this
_STREAMED = 512  # photos, the same ones again and again
_COMMAND_S = 120.0
# Of a photo's values on CPU and GPU, of the label range: the CPU computes the float16 file with
# other roundings, and INT8 with other kernels
_ALLOWED = {"fp32": 1e-5, "fp16": 4e-3, "int8": 2e-2}
_PROVIDER = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def check_onnx(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks; `settings` are those of `Settings`."""
    given = Settings(**settings)
    reference = _Lazy(given)
    yield tried("torch on the CPU", lambda: {"images": len(reference.get().values)})
    for precision in PROOF_FILES:
        yield tried(f"{precision}: parity", partial(_parity, given, reference, precision))
    yield tried("torch on the GPU", partial(_torch, given, reference))
    for precision in PROOF_FILES:
        yield tried(f"{precision}: stream of photos", partial(_stream, given, precision))
    yield tried("fp16: images from pinned memory", partial(_pinned, given, reference))
    yield tried("numclip-run --require-gpu", partial(_command, given))
    yield tried("fork with an open session", partial(_fork, given))
    yield loaded_packages()


class _Lazy:
    """The checkpoint's outputs on 64 images, computed by torch on the CPU when first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: Any = None

    def get(self) -> Any:
        if self._found is None:
            from numclip.checkpoint import load_checkpoint
            from numclip_export.images import verify_images
            from numclip_export.parity import Reference

            folder = Path(self._settings.models)
            checkpoint = load_checkpoint(folder / CHECKPOINT)
            images = verify_images(checkpoint, folder / "photos")
            self._found = Reference(checkpoint, images, max_batch=_LARGEST)
        return self._found


@contextmanager
def _opened(settings: Settings, precision: str) -> Iterator[Predictor]:
    path = Path(settings.models) / PROOF_FILES[precision]
    required = not settings.rehearse
    device: Any = settings.device
    with load(path, device=device, require_gpu=required) as predictor:
        expected = _PROVIDER[settings.device]
        found = predictor.backend.provider
        expect(found == expected, f"it runs on {found} and not on {expected}")
        yield predictor


def _parity(settings: Settings, reference: _Lazy, precision: Any) -> dict[str, Any]:
    """Judge a file as the export does: value errors in label units, at three batch sizes."""
    with _opened(settings, precision) as predictor:
        backend, kind = predictor.backend, predictor.metadata.input
        judged = reference.get().judge(backend.run, precision, kind=kind)
        times = _latencies(backend, reference.get().images.of_kind(kind), judged.batch_sizes)
        facts = {
            "provider": backend.provider,
            "device": backend.device,
            "notes": list(backend.notes),
            "unit": predictor.metadata.task.unit,
            **{
                name: getattr(judged, name)
                for name in (
                    *("max_value_error", "mean_value_error", "value_tolerance"),
                    *("max_prob_error", "prob_tolerance", "judged_by", "images"),
                )
            },
            "ms": times,
        }
    expect(judged.passed, f"{precision}: {judged.difference}")
    return facts


def _latencies(backend: Backend, images: Any, sizes: tuple[int, ...]) -> dict[str, float]:
    """Return the median time of a run at each batch size, ms, copies included."""
    found = {}
    for size in sizes:
        batch, times = np.ascontiguousarray(images[:size]), []
        for _ in range(13):
            start = perf_counter()
            backend.run(batch)
            times.append(1e3 * (perf_counter() - start))
        found[str(size)] = round(float(np.median(times[3:])), 3)
    return found


def _torch(settings: Settings, reference: _Lazy) -> dict[str, Any]:
    """Judge torch itself on the GPU, and each file against it; TF32 is off in all."""
    import torch

    from benchmarks.bench.baselines.torch_baselines import TorchBackend

    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions is on
    wanted = reference.get()
    inputs = wanted.images.inputs
    network = TorchBackend(Path(settings.models) / CHECKPOINT, device=settings.device)
    judged = wanted.judge(network.run, "fp32")
    values = network.run(inputs)[0]
    found: dict[str, Any] = {"max_value_error": judged.max_value_error, "device": network.device}
    for precision in PROOF_FILES:
        with _opened(settings, precision) as predictor:
            images = wanted.images.of_kind(predictor.metadata.input)
            errors = np.abs(predictor.backend.run(images)[0] - values)
        found[f"{precision} against it, max"] = float(errors.max())
        found[f"{precision} against it, mean"] = float(errors.mean())
    expect(judged.passed, f"torch on the GPU: {judged.difference}")
    return found


def _stream(settings: Settings, precision: str) -> dict[str, Any]:
    """Compare a stream of photos with single predictions on the CPU by the same file."""
    photos = photos_of(Path(settings.models))
    with load(Path(settings.models) / PROOF_FILES[precision], device="cpu") as single:
        single.predict(photos[0])  # what is lazy has then happened
        start = perf_counter()
        expected = [single.predict(path).value for path in photos]
        cpu_ms = 1e3 * (perf_counter() - start) / len(photos)
        label_range = single.metadata.task.label_range
    many = (photos * -(-_STREAMED // len(photos)))[: 64 if settings.rehearse else _STREAMED]
    with _opened(settings, precision) as predictor:
        for _ in predictor.stream(photos):  # what is lazy has then happened
            pass
        start = perf_counter()
        results = list(predictor.stream(many))
        seconds = perf_counter() - start
    values = [float("nan") if isinstance(r, ImageError) else r.value for r in results]
    wanted = np.resize(expected, len(many))
    error = float(np.abs(np.array(values) - wanted).max())
    allowed = _ALLOWED[precision] * label_range
    expect(error <= allowed, f"largest difference to the CPU {error:.4g}, allowed {allowed:.4g}")
    return {
        "images_per_s": round(len(many) / seconds, 1),
        "max_difference": error,
        "cpu_ms": round(cpu_ms, 2),  # of a photo by itself, all cores
    }


def _pinned(settings: Settings, reference: _Lazy) -> dict[str, Any]:
    """Time runs whose images lie in the driver's pinned memory beside runs from numpy's own."""
    from numclip_runtime.cuda.context import CudaContext
    from numclip_runtime.cuda.resources import PinnedBuffer

    cuda = CudaContext(library=settings.library)
    with _opened(settings, "fp16") as predictor:
        run = predictor.backend.run
        images = np.ascontiguousarray(reference.get().images.of_kind(predictor.metadata.input))
        pinned = PinnedBuffer(cuda, images.shape, images.dtype)
        pinned.array[:] = images
        difference = float(np.abs(run(pinned.array)[0] - run(images)[0]).max())
        times: dict[str, list[float]] = {"pageable": [], "pinned": []}
        for _ in range(13):
            for name, batch in (("pageable", images), ("pinned", pinned.array)):
                start = perf_counter()
                run(batch)
                times[name].append(1e3 * (perf_counter() - start))
        pinned.close()
        allowed = _ALLOWED["fp16"] * predictor.metadata.task.label_range
    cuda.close()
    expect(difference <= allowed, f"the values differ by {difference:.4g}")
    found = {name: round(float(np.median(each[3:])), 3) for name, each in times.items()}
    return {"batch": len(images), "ms": found}


def _command(settings: Settings) -> dict[str, Any]:
    """Run `numclip-run` as a user does, and compare its records with the CPU's."""
    model = Path(settings.models) / PROOF_FILES["fp32"]
    photos = photos_of(Path(settings.models))[:8]
    refused = {}
    flags = ["--require-gpu"]
    if settings.rehearse:
        refused = {"refused": _run_command(model, photos, flags, code=2)}
        flags = ["--device", "cpu"]
    lines = _run_command(model, photos, [*flags, "--format", "jsonl"], code=0).splitlines()
    with load(model, device="cpu") as predictor:
        tolerance = _ALLOWED["fp32"] * predictor.metadata.task.label_range
        wanted = [predictor.predict(photo).value for photo in photos]
    values = [json.loads(line)["value"] for line in lines]
    error = float(np.abs(np.subtract(values, wanted)).max())
    expect(error <= tolerance, f"records differ from the CPU's by {error:.4g}")
    return {"max_difference": error, **refused}


def _run_command(model: Path, photos: list[str], flags: list[str], *, code: int) -> str:
    command = [sys.executable, "-m", "numclip_runtime", str(model), *photos, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_S)
    expect(
        done.returncode == code,
        f"exit code {done.returncode}, not {code}: {done.stderr[-500:]}",
    )
    if code:
        expect(
            done.stderr.count("\n") == 1, f"more than a sentence on stderr: {done.stderr[-500:]}"
        )
    return done.stderr.strip() if code else done.stdout


def _fork(settings: Settings) -> dict[str, Any]:
    """A child of fork opens the model again, or gets a sentence; the parent goes on."""
    if not hasattr(os, "fork"):
        raise CheckSkippedError("this system has no fork")
    photo = photos_of(Path(settings.models))[0]
    with _opened(settings, "fp32") as predictor:
        before = predictor.predict(photo).value
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = "something else"
            try:
                said = f"equal: {predictor.predict(photo).value == before}"
            except NumclipError as error:
                said = f"sentence: {error}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            finally:
                os.write(writer, said.encode())
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(child, 0)
        after = predictor.predict(photo).value
    # CUDA does not work in a child of fork; on the CPU the model does
    fine = said == "equal: True" or (not settings.rehearse and said.startswith("sentence: "))
    expect(fine, f"the child of fork: {said}")
    expect(before == after, f"the parent gives {after} after the fork, and {before} before")
    return {"child": said}
