"""Which artefact of a bundle runs: the order, what falls out of it, and what is never opened."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime import (
    GpuRequiredError,
    MissingDependencyError,
    ModelError,
    UsageError,
    load,
    read_metadata,
)
from numclip_runtime.app.doctor import bundle_check
from numclip_runtime.app.doctor.bundle_check import ArtefactCheck, table_of
from numclip_runtime.backends import (
    DEFAULTS,
    OpenOptions,
    bundle_choice,
    bundle_opening,
    open_backend,
)
from numclip_runtime.backends.bundle_choice import Surroundings, candidates
from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from numclip_runtime.backends.tensorrt.module import installed_version
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver, probe_cuda
from numclip_runtime.model_files.bundle import Bundle, read_bundle
from numclip_runtime.model_files.given import BUNDLE_MANIFEST, is_bundle
from tests.runtime.bundles import FILES, change_manifest, make_bundle
from tests.runtime.conftest import invoke, records
from tests.runtime.opener import Opener
from tests.runtime.standin import StandinDriver
from tests.runtime.test_backend_choice import Session, gpu_build  # noqa: F401  a fixture

NO_DRIVER = CudaDriver(problem="no NVIDIA driver")
CPU_PROVIDERS = ("CPUExecutionProvider",)
GPU_PROVIDERS = ("CUDAExecutionProvider", *CPU_PROVIDERS)
VNNI = Surroundings(NO_DRIVER, (), None, ("avx2", "avx512_vnni"))
OLD = replace(VNNI, cpu_flags=("avx2",))
CPU_ORDER = ["m.cpu.int8.onnx", "m.cpu.onnx", "m.onnx", "m.fp16.onnx"]


def gpu(capability: int, providers: tuple[str, ...] = GPU_PROVIDERS) -> Surroundings:
    driver = CudaDriver((CudaDevice("A GPU", capability),), (13, 0))
    return Surroundings(driver, providers, None, ("avx2", "avx512_vnni"))


@pytest.fixture
def bundle(tmp_path: Path, tiny: Path) -> Path:
    make_bundle(tmp_path / "fleet", tiny)
    return tmp_path / "fleet"


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let TensorRT-RTX seem installed, in the version of the plans."""
    monkeypatch.setattr(bundle_choice, "installed", lambda module: module == "tensorrt_rtx")
    monkeypatch.setattr(bundle_choice, "installed_version", lambda module: "1.7.1.116")
    return monkeypatch


def order(folder: Path, here: Surroundings, options: OpenOptions = DEFAULTS) -> list[str]:
    """Return what would be tried, as "file" on the CPU and "file on cuda"."""
    return [
        way.artefact.file + (" on cuda" if way.device == "cuda" else "")
        for way in candidates(read_bundle(folder), options, here)
        if way.problem is None
    ]


def problems(folder: Path, here: Surroundings, options: OpenOptions = DEFAULTS) -> dict[str, str]:
    ways = candidates(read_bundle(folder), options, here)
    return {f"{way.artefact.file} {way.device}": way.problem for way in ways if way.problem}


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: VNNI)


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (VNNI, CPU_ORDER),
        (replace(VNNI, cpu_flags=("asimddp",)), CPU_ORDER),
        (OLD, ["m.cpu.onnx", "m.onnx", "m.cpu.int8.onnx", "m.fp16.onnx"]),
        (gpu(86), ["m.rtx-86.plan on cuda", "m.fp16.onnx on cuda", "m.onnx on cuda", *CPU_ORDER]),
        (gpu(120), ["m.rtx-120.plan on cuda", "m.fp16.onnx on cuda", "m.onnx on cuda", *CPU_ORDER]),
        (gpu(90), ["m.fp16.onnx on cuda", "m.onnx on cuda", *CPU_ORDER]),
        (gpu(86, CPU_PROVIDERS), ["m.rtx-86.plan on cuda", *CPU_ORDER]),
    ],
    ids=["vnni", "arm", "old cpu", "86", "120", "90", "86, onnxruntime for CPUs"],
)
def test_the_order(
    bundle: Path, rtx: pytest.MonkeyPatch, here: Surroundings, expected: list[str]
) -> None:
    assert order(bundle, here) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "cpu"}, CPU_ORDER),
        ({"device": "cuda"}, ["m.rtx-86.plan on cuda", "m.fp16.onnx on cuda", "m.onnx on cuda"]),
        ({"require_gpu": True}, ["m.rtx-86.plan on cuda", "m.fp16.onnx on cuda", "m.onnx on cuda"]),
        ({"backend": "tensorrt"}, ["m.rtx-86.plan on cuda"]),
        ({"backend": "onnxruntime"}, ["m.fp16.onnx on cuda", "m.onnx on cuda", *CPU_ORDER]),
        ({"backend": "openvino"}, CPU_ORDER),
        ({"bf16": True}, ["m.cpu.onnx", "m.onnx"]),
        ({"backend": "onnxruntime-tensorrt"}, []),  # this onnxruntime has CUDA alone
    ],
)
def test_options_narrow_the_choice(
    bundle: Path, rtx: pytest.MonkeyPatch, options: dict[str, Any], expected: list[str]
) -> None:
    assert order(bundle, gpu(86), OpenOptions(**options)) == expected


def test_reasons(bundle: Path, rtx: pytest.MonkeyPatch) -> None:
    assert problems(bundle, gpu(90)) == {
        "m.rtx-86.plan cuda": "made for compute capability 8.6, and A GPU has 9.0",
        "m.rtx-120.plan cuda": "made for compute capability 12.0, and A GPU has 9.0",
    }
    assert problems(bundle, VNNI)["m.rtx-86.plan cuda"] == "no NVIDIA driver"
    rtx.setattr(bundle_choice, "installed_version", lambda module: "1.6.0.3")
    assert problems(bundle, gpu(86))["m.rtx-86.plan cuda"] == (
        "built by TensorRT-RTX 1.7.1.116, and installed is 1.6.0.3"
    )
    rtx.setattr(bundle_choice, "installed", lambda module: False)
    assert problems(bundle, gpu(86))["m.rtx-86.plan cuda"] == "TensorRT-RTX is not installed"
    missing = problems(bundle, gpu(86, CPU_PROVIDERS))["m.fp16.onnx cuda"]
    assert missing.startswith("this onnxruntime was built without CUDAExecutionProvider")
    why = candidates(read_bundle(bundle), DEFAULTS, VNNI)[0].why
    assert why == "int8, for which this CPU has avx512_vnni"


def test_what_was_optimised_by_onnxruntime_does_not_go_to_openvino(bundle: Path) -> None:
    change_manifest(bundle, made_for="onnxruntime 1.32.0")
    options = OpenOptions(backend="openvino")
    assert problems(bundle, VNNI, options)["m.onnx cpu"] == "made for onnxruntime 1.32.0"


@pytest.mark.usefixtures("without_gpu")
def test_a_bundle_is_loaded_like_a_model(bundle: Path, tiny: Path) -> None:
    with load(bundle) as predictor, load(tiny) as alone:
        assert predictor.choice == (
            "m.cpu.int8.onnx of this bundle: int8, for which this CPU has avx512_vnni"
        )
        assert alone.choice is None
        assert predictor.backend.notes == []
        copy = pickle.loads(pickle.dumps(predictor))
        image = bytes(alone_image())
        assert copy.predict(image).value == alone.predict(image).value
        assert copy.choice == predictor.choice
    assert read_metadata(bundle).task == read_metadata(tiny).task


def alone_image() -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (8, 8), (200, 90, 10)).save(file, "png")
    return file.getvalue()


@pytest.mark.usefixtures("without_gpu")
def test_each_removed_in_turn(bundle: Path) -> None:
    """The manifest still lists it: the next one runs, and a note says why."""
    for count, name in enumerate(CPU_ORDER):
        with load(bundle) as predictor:
            assert str(predictor.choice).startswith(f"{name} of this bundle")
            assert predictor.backend.notes == [
                f"{bundle}: {gone} was passed over (it is missing); {name} runs."
                for gone in CPU_ORDER[:count]
            ]
        (bundle / name).unlink()
    with pytest.raises(ModelError, match="nothing in this bundle can run here:\n") as caught:
        load(bundle)
    assert set(caught.value.lines) == {
        "",
        *(f"  {name}: it is missing" for name in CPU_ORDER),
        *(f"  m.rtx-{number}.plan: no NVIDIA driver" for number in (86, 120)),
    }


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("damage", ["changed", "empty", "text", "longer"])
@pytest.mark.parametrize("name", CPU_ORDER)
def test_a_tampered_file_is_refused_and_the_next_one_is_not_tried(
    bundle: Path, name: str, damage: str
) -> None:
    for before in CPU_ORDER[: CPU_ORDER.index(name)]:
        (bundle / before).unlink()
    content = (bundle / name).read_bytes()
    changed = {
        "changed": content[:-1] + b"#",
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1",
        "longer": content + b"\x12\x01x",
    }[damage]
    (bundle / name).write_bytes(changed)
    (bundle / f"{name}.sha256").write_text(hashlib.sha256(changed).hexdigest())  # of no help
    with pytest.raises(ModelError, match=rf"{name}: its SHA-256 is \w+, and bundle") as caught:
        load(bundle)
    assert type(caught.value) is ModelError


@pytest.mark.usefixtures("without_gpu")
def test_a_file_that_does_not_open_is_passed_over(tmp_path: Path, tiny: Path) -> None:
    """Its content is what the manifest states, and this machine cannot run it."""
    folder = tmp_path / "fleet"
    bundle = make_bundle(folder, tiny)
    broken = folder / "m.cpu.int8.onnx"
    broken.write_bytes(tiny.read_bytes()[:200])
    digest = hashlib.sha256(broken.read_bytes()).hexdigest()
    artefacts = [
        replace(one, sha256=digest) if one.file == broken.name else one for one in bundle.artefacts
    ]
    manifest = replace(bundle, artefacts=tuple(artefacts)).to_json()
    (folder / BUNDLE_MANIFEST).write_text(manifest, "utf-8")
    with load(folder) as predictor:
        (note,) = predictor.backend.notes
        assert note.startswith(f"{folder}: m.cpu.int8.onnx was passed over (")
        assert note.endswith("; m.cpu.onnx runs.")


@pytest.mark.usefixtures("without_gpu")
def test_no_memory_passes_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tight(file: Any, options: OpenOptions) -> Any:
        if file.path.name == "m.cpu.int8.onnx":
            raise MemoryError
        return open_backend(file, options)

    monkeypatch.setattr(bundle_opening, "open_backend", tight)
    with load(bundle) as predictor:
        assert predictor.backend.notes == [
            f"{bundle}: m.cpu.int8.onnx was passed over (not enough memory); m.cpu.onnx runs."
        ]


@pytest.mark.usefixtures("without_gpu")
def test_sha256_pins_the_bundle_or_one_file(bundle: Path) -> None:
    found = read_bundle(bundle)
    of_manifest = hashlib.sha256((bundle / BUNDLE_MANIFEST).read_bytes()).hexdigest()
    assert found.sha256 == of_manifest
    with load(bundle, sha256=of_manifest.upper()) as predictor:
        assert str(predictor.choice).startswith("m.cpu.int8.onnx")
    (fp32,) = (one for one in found.artefacts if one.file == "m.onnx")
    with load(bundle, sha256=fp32.sha256) as predictor:
        assert str(predictor.choice).startswith("m.onnx")
    with pytest.raises(ModelError, match=r"neither bundle\.json, whose SHA-256 is"):
        load(bundle, sha256="0" * 64)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"require_gpu": True}])
def test_a_gpu_that_is_required_and_missing(bundle: Path, options: dict[str, Any]) -> None:
    with pytest.raises(GpuRequiredError, match="nothing in this bundle can run here") as caught:
        load(bundle, **options)
    assert "  m.onnx: a GPU is required" in caught.value.lines
    with pytest.raises(UsageError, match="the CPU was chosen, and the other options need a GPU"):
        load(bundle, device="cpu", backend="tensorrt")


def test_onnxruntime_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "onnxruntime is not installed; install with: pip install 'numclip[cpu]'"
    here = replace(VNNI, onnxruntime=text)
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: here)
    with pytest.raises(MissingDependencyError, match=r"numclip\[cpu\]"):
        load(bundle)


@pytest.mark.posix("links")
@pytest.mark.usefixtures("without_gpu")
def test_links_may_not_leave_the_folder(bundle: Path, tmp_path: Path) -> None:
    inside, outside = bundle / "m.cpu.int8.onnx", tmp_path / "elsewhere.onnx"
    outside.write_bytes(inside.read_bytes())
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(ModelError, match="is a link that leads out of the bundle"):
        load(bundle)
    inside.unlink()
    (bundle / ".data").mkdir()
    outside.rename(bundle / ".data" / "1")
    inside.symlink_to(".data/1")  # as a volume of Kubernetes has
    whole = tmp_path / "link"
    whole.symlink_to(bundle)
    with load(whole) as predictor:
        assert str(predictor.choice).startswith(inside.name)


@pytest.mark.posix("a pipe")
@pytest.mark.usefixtures("without_gpu")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(bundle: Path) -> None:
    (bundle / "m.cpu.int8.onnx").unlink()
    os.mkfifo(bundle / "m.cpu.int8.onnx")
    with load(bundle) as predictor:
        (note,) = predictor.backend.notes
        assert "m.cpu.int8.onnx was passed over" in note
    lines, _ = bundle_check.check_artefacts(read_bundle(bundle))
    assert [line.why for line in lines if "is a pipe" in line.why]


def test_the_driver_is_not_asked_for_a_cpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_choice, "probe_cuda", lambda: pytest.fail("asked"))
    load(bundle, device="cpu").close()


@pytest.mark.parametrize(
    "name", ["../m.onnx", "/etc/m.onnx", "a/m.onnx", "a\\m.onnx", "C:m.onnx", "..", "", "m.pt"]
)
def test_names_are_those_of_files_in_the_folder(bundle: Path, name: str) -> None:
    change_manifest(bundle, file=name)
    with pytest.raises(ModelError, match="is not the name of a model in the folder"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", "is not the manifest of a numclip bundle"),
        (b"[]", "is not the manifest of a numclip bundle"),
        (b"{", "this manifest cannot be read"),
        (b"\xff", "this manifest cannot be read"),
        (b'{"format": "numclip bundle", "schema_version": 2}', "manifest schema 2 is unknown"),
        (b'{"format": "numclip bundle", "schema_version": 1}', "its numclip metadata cannot be"),
        (b" " * (1 << 20) + b"{}", "is larger than"),
    ],
)
def test_damaged_manifests(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / BUNDLE_MANIFEST).write_bytes(text)
    assert is_bundle(tmp_path)
    for call in (load, read_metadata):
        with pytest.raises(ModelError, match=message):
            call(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "12"}, "is not a SHA-256"),
        ({"size": "large"}, "'size' must be a whole number"),
        ({"device": "tpu"}, "'device' must be one of any, cpu, gpu"),
        ({"file": "m.plan"}, "a plan has an engine"),
        ({"file": "m.fp16.onnx"}, "a file stands twice"),
    ],
)
def test_damaged_artefacts(bundle: Path, changes: dict[str, Any], message: str) -> None:
    change_manifest(bundle, **changes)
    with pytest.raises(ModelError, match=message):
        read_bundle(bundle)


def test_a_newer_field_is_left_out(bundle: Path) -> None:
    change_manifest(bundle, colour="blue")
    assert read_bundle(bundle).artefacts[0].file == "m.onnx"


def test_a_manifest_reads_what_it_wrote(tmp_path: Path, tiny: Path) -> None:
    written = make_bundle(tmp_path, tiny)
    assert replace(read_bundle(tmp_path), sha256="") == written


class TestGpu:
    """With stand-ins for the driver, TensorRT and a build of onnxruntime for GPUs."""

    @pytest.fixture
    def folder(
        self, tmp_path: Path, tiny: Path, open_plan: Opener, rtx: pytest.MonkeyPatch
    ) -> Path:
        library = open_plan.driver.path
        for module, kind in (
            ("numclip_runtime.backends.onnxruntime.OnnxRuntimeBackend", OnnxRuntimeBackend),
            ("numclip_runtime.backends.tensorrt.backend.TensorRTBackend", TensorRTBackend),
        ):
            rtx.setattr(module, partial(kind, library=library))
        rtx.setattr(bundle_choice, "probe_cuda", lambda: probe_cuda(library))
        rtx.setenv("STANDIN_CAPABILITY", "86")
        make_bundle(tmp_path / "fleet", tiny)
        return tmp_path / "fleet"

    @pytest.fixture
    def cuda(self, gpu_build: type[Session]) -> type[Session]:  # noqa: F811
        """Let onnxruntime seem built for GPUs, and installed."""
        sys.modules["onnxruntime"].__spec__ = ModuleSpec("onnxruntime", None)
        return gpu_build

    def test_the_plan_runs(self, folder: Path, open_plan: Opener) -> None:
        open_plan.install("tensorrt_rtx", "1.7.1.116")
        with load(folder) as predictor:
            assert predictor.backend.name == "tensorrt"
            assert predictor.choice == (
                "m.rtx-86.plan of this bundle: fp16 plan for compute capability 8.6"
            )
            assert predictor.backend.notes == []

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            ({"refuses": "Version tag does not match"}, "Version tag does not match"),
            ({"executions": 0}, "out of memory"),
        ],
    )
    def test_a_plan_that_does_not_open_is_passed_over(
        self,
        folder: Path,
        open_plan: Opener,
        cuda: type[Session],
        behaviour: dict[str, Any],
        reason: str,
    ) -> None:
        open_plan.install("tensorrt_rtx", "1.7.1.116", **behaviour)
        with load(folder) as predictor:
            assert predictor.backend.provider == "CUDAExecutionProvider"
            (note,) = predictor.backend.notes
            assert note.startswith(f"{folder}: m.rtx-86.plan was passed over (")
            assert reason in note
            assert note.endswith("; m.fp16.onnx on the GPU runs.")

    def test_a_wrong_version_names_the_file_to_build_from(
        self,
        folder: Path,
        open_plan: Opener,
        cuda: type[Session],
    ) -> None:
        open_plan.install("tensorrt_rtx", "1.8.0.1")  # and its package does not say so
        with load(folder) as predictor:
            (note,) = predictor.backend.notes
            assert "numclip-export --onnx m.fp16.onnx --target tensorrt-rtx" in note

    def test_the_cpu_is_never_silent_where_a_gpu_is(self, folder: Path, open_plan: Opener) -> None:
        for plan in folder.glob("*.plan"):
            plan.unlink()
        open_plan.install("tensorrt_rtx", "1.7.1.116")
        with load(folder) as predictor:
            assert predictor.backend.device == "cpu"
            gone, reason = predictor.backend.notes
            assert gone == (
                f"{folder}: m.rtx-86.plan was passed over (it is missing); "
                f"{str(predictor.choice).split()[0]} runs."
            )
            assert reason.startswith(f"{folder}: runs on the CPU: ")
        with load(folder, device="cpu") as predictor:
            assert predictor.backend.notes == []

    def test_cuda_that_does_not_start_goes_on_to_the_cpu(
        self,
        folder: Path,
        open_plan: Opener,
        cuda: type[Session],
    ) -> None:
        cuda.fails = "no libcudnn.so.9"
        open_plan.install("tensorrt_rtx", "1.7.1.116", refuses="no")
        with load(folder) as predictor:
            assert predictor.backend.device == "cpu"
            notes = " ".join(predictor.backend.notes)
            for name in ("m.rtx-86.plan", "m.fp16.onnx on the GPU", "m.onnx on the GPU"):
                assert f"{name} was passed over (" in notes
        with pytest.raises(GpuRequiredError, match="nothing in this bundle can run here"):
            load(folder, require_gpu=True)


@pytest.mark.usefixtures("without_gpu")
class TestCommand:
    def test_run(self, bundle: Path, photos: Path) -> None:
        result = invoke(bundle, photos, "-v")
        assert result.exit_code == 0, result.stderr
        assert len(records(result)) == 3
        assert result.stderr.startswith("m.cpu.int8.onnx of this bundle: int8, for which this CPU")
        (bundle / "m.cpu.int8.onnx").unlink()
        result = invoke(bundle, photos)
        assert result.stderr == (
            f"Note: {bundle}: m.cpu.int8.onnx was passed over (it is missing); m.cpu.onnx runs.\n"
        )

    def test_order_of_the_words(self, bundle: Path, photos: Path, tiny: Path) -> None:
        for first, model in ((photos, tiny), (photos, bundle)):
            result = invoke(first, model)
            assert result.exit_code == 2
            assert f"is a folder; the model comes first: `main {model} {photos}`" in result.stderr
        result = invoke(photos, photos)
        assert "is a folder; give the model file inside it" in result.stderr

    @pytest.mark.parametrize("name", [BUNDLE_MANIFEST, "m.onnx", "m.rtx-86.plan", "m.onnx.sha256"])
    def test_no_output_replaces_a_part_of_it(self, bundle: Path, photos: Path, name: str) -> None:
        (bundle / "m.onnx.sha256").touch()
        result = invoke(bundle, photos, "-o", bundle / name, "--format", "json")
        assert result.exit_code == 2
        assert "is also the model" in result.stderr

    def test_nothing_runs_is_a_list(self, bundle: Path, photos: Path) -> None:
        result = invoke(bundle, photos, "--require-gpu")
        assert result.exit_code == 2
        first, *rest = result.stderr.splitlines()
        assert first == f"Error: {bundle}: nothing in this bundle can run here:"
        assert sorted(rest) == sorted(
            [
                *(f"  {name}: a GPU is required" for name in FILES),
                *(f"  m.rtx-{number}.plan: no NVIDIA driver" for number in (86, 120)),
            ]
        )


def doctor(*args: object) -> Any:
    return invoke("doctor", *args)


def test_the_doctor_prints_the_choice(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    for module in ("backends.bundle_opening", "app.doctor.bundle_check"):
        monkeypatch.setattr(
            f"numclip_runtime.{module}.read_surroundings", lambda options=DEFAULTS: VNNI
        )
    (bundle / "m.cpu.onnx").unlink()
    (bundle / "m.onnx").write_bytes(b"changed")
    result = doctor(bundle)
    assert result.exit_code == 0, result.stdout
    table = result.stdout.partition("artefact  ")[2].splitlines()[1:]
    assert [" ".join(line.split()) for line in table[:8] if line[:1].strip()] == [
        "m.cpu.int8.onnx cpu yes int8, for which this CPU has avx512_vnni",
        "m.fp16.onnx cpu yes fp16 made for GPUs, which a CPU computes slowly",
        "m.cpu.onnx cpu no missing",
        "m.onnx cpu no its SHA-256 is not the one in bundle.json",
        "m.rtx-86.plan cuda no no NVIDIA driver",
        "m.rtx-120.plan cuda no no NVIDIA driver",
        "tensorrt - no no GPU here",
    ]
    assert "m.cpu.int8.onnx of this bundle" in result.stdout
    assert f"Note: {bundle / 'm.cpu.onnx'}: missing." in result.stdout
    found = json.loads(doctor(bundle, "--json").stdout)
    assert found["model"]["artefacts"][0]["file"] == "m.cpu.int8.onnx"
    (bundle / "m.cpu.int8.onnx").write_bytes(tiny.read_bytes())  # the chosen one: an error
    assert doctor(bundle).exit_code == 1


def test_the_table_fits_80_columns() -> None:
    lines = [
        ArtefactCheck("a" * 60, "cuda", False, "word " * 40),
        ArtefactCheck("tensorrt-rtx:86+120", "-", False, "/" + "x" * 200),
        ArtefactCheck("a.onnx", "cpu", True, "bidi \u202e mark"),
    ]
    printed = list(table_of(lines))
    assert all(len(line) <= 80 and line.isprintable() for line in printed)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "gone")
    assert not is_bundle("x" * 5000)
    assert not is_bundle("nul\0")
    (tmp_path / BUNDLE_MANIFEST).mkdir()
    assert not is_bundle(tmp_path)
    with pytest.raises(ModelError, match="is a folder; give the model file inside it"):
        load(tmp_path)


def test_all_files_of_a_bundle(bundle: Path) -> None:
    found: Bundle = read_bundle(bundle)
    names = {os.path.relpath(path, bundle) for path in found.files}
    assert {BUNDLE_MANIFEST, "report.json", "m.onnx", "m.rtx-86.plan.sha256"} <= names


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (86, {"m.rtx-86.plan": "yes", "m.rtx-120.plan": "no"}),
        (120, {"m.rtx-86.plan": "no", "m.rtx-120.plan": "yes"}),
        (90, {"m.rtx-86.plan": "no", "m.rtx-120.plan": "no"}),
    ],
)
def test_the_doctor_on_machines_with_a_gpu(
    bundle: Path, standin: StandinDriver, capability: int, expected: dict[str, str]
) -> None:
    """A stand-in driver states the compute capability; not verified on hardware."""
    pytest.importorskip("tensorrt_rtx")
    here = {
        "LD_LIBRARY_PATH": str(Path(standin.path).parent),
        "STANDIN_CAPABILITY": f"{capability}",
    }
    script = (
        "import json, pathlib\n"
        "from dataclasses import asdict\n"
        "from numclip_runtime.app.doctor.bundle_check import check_artefacts\n"
        "from numclip_runtime.model_files.bundle import read_bundle\n"
        f"lines, _ = check_artefacts(read_bundle(pathlib.Path({str(bundle)!r})))\n"
        "print(json.dumps([asdict(line) for line in lines]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = json.loads(done.stdout)
    plans = {line["file"]: line for line in lines if line["file"].endswith(".plan")}
    version = installed_version("tensorrt_rtx")
    if version == "1.7.1.116":
        found = {name: "yes" if line["runs"] else "no" for name, line in plans.items()}
        assert found == expected
    point = f"{capability / 10:.1f}"
    for name, runs in expected.items():
        if runs == "no":
            assert plans[name]["why"].endswith(f", and Stand-in GPU 0 has {point}")
