"""Part a: the runtime's ctypes code for the CUDA driver, without any package of CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench.gpu.checks import Check, Settings, expect, loaded_packages, tried
from benchmarks.bench.gpu.copy_checks import (
    broken_capture,
    close_all,
    copies,
    copy_rates,
    graph_of_copies,
    pattern,
    sentence_of,
    shared_with_torch,
    streams,
)
from numclip_runtime.cuda.api import CudaError
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.cuda.resources import DeviceBuffer, PinnedBuffer, Stream
from numclip_runtime.errors import NumclipError

_TOO_MUCH = 1 << 50  # bytes; no GPU has them
_FORK_S = 20.0  # a child of fork that has not ended then hangs


def check_driver(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield the checks; `settings` are those of `Settings`."""
    given = Settings(**settings)
    yield tried("driver and GPU", partial(_probe, given))
    cuda = CudaContext(library=given.library)
    checks: tuple[tuple[str, Callable[[CudaContext], dict[str, Any] | None]], ...] = (
        ("copies, bit for bit", partial(copies, given)),
        ("two streams and events", streams),
        ("graph of copies", graph_of_copies),
        ("capture that fails", broken_capture),
        ("errors are sentences", partial(_errors, given)),
        ("threads", _threads),
        ("two contexts", partial(_two_contexts, given)),
        ("speed of copies", partial(copy_rates, given)),
        ("memory shared with torch", partial(shared_with_torch, given)),
        ("fork", partial(_fork, given)),
        ("copies after it all", partial(copies, given)),
    )
    for name, work in checks:
        yield tried(name, partial(work, cuda))
    yield tried("closing", cuda.close)
    yield tried("unclosed things at exit", partial(_exit, given))
    yield loaded_packages()


def _probe(settings: Settings) -> dict[str, Any]:
    found = probe_cuda(settings.library)
    expect(found.problem is None, f"probe_cuda: {found.problem}")
    devices = [f"{device.name}, {device.compute_capability / 10}" for device in found.devices]
    return {"cuda": found.version and ".".join(map(str, found.version)), "devices": devices}


def _errors(settings: Settings, cuda: CudaContext) -> dict[str, Any]:
    sentences = {
        "memory of the GPU": sentence_of(lambda: DeviceBuffer(cuda, _TOO_MUCH)),
        "pinned memory": sentence_of(lambda: PinnedBuffer(cuda, (_TOO_MUCH,), np.uint8)),
        "no such GPU": sentence_of(lambda: CudaContext(1000, library=settings.library)),
        "no such library": sentence_of(lambda: CudaContext(library="libno.so")),
    }
    out_of_memory = sentences["memory of the GPU"]
    expect("free memory" in out_of_memory, f"it names no way out: {out_of_memory}")
    return sentences


def _threads(cuda: CudaContext) -> dict[str, Any]:
    """A thread without the context gets an error, four with it copy at the same time."""
    stream, sentences, wrong = Stream(cuda), [], []

    def without() -> None:
        try:
            sentences.append(sentence_of(stream.synchronize))
        except AssertionError as error:
            sentences.append(f"none: {error}")

    def copy(seed: int) -> None:
        try:
            own, device = Stream(cuda), DeviceBuffer(cuda, 1 << 20)
            host = PinnedBuffer(cuda, (1 << 20,), np.uint8)
            for turn in range(10):
                host.array[:] = there = pattern(1 << 20, 10 * seed + turn)
                with cuda.current():
                    own.upload(host.array, device)
                    host_back = np.zeros(1 << 20, np.uint8)
                    own.download(device, host_back)
                    own.synchronize()
                if not (host_back == there).all():
                    wrong.append(f"thread {seed}, turn {turn}: bytes differ")
            close_all(host, device, own)
        except CudaError as error:
            wrong.append(f"thread {seed}: {error}")

    for target, arguments in ((without, [()]), (copy, [(seed,) for seed in range(4)])):
        threads = [threading.Thread(target=target, args=given) for given in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stream.close()
    expect(not wrong, "; ".join(wrong))
    return {"without the context": sentences[0]}


def _two_contexts(settings: Settings, cuda: CudaContext) -> None:
    """A second retain of the primary context sees the same memory; its release leaves the first."""
    second = CudaContext(library=settings.library)
    device, stream = DeviceBuffer(cuda, 64), Stream(second)
    back = np.zeros(64, np.uint8)
    with second.current():
        stream.upload(pattern(64), device)
        stream.download(device, back)
        stream.synchronize()
    expect(bool((back == pattern(64)).all()), "the second context reads other bytes")
    stream.close()
    second.close()
    first = Stream(cuda)
    with cuda.current():
        first.synchronize()
    close_all(first, device)


def _fork(settings: Settings, cuda: CudaContext) -> dict[str, Any]:
    """A child of fork gets an error and ends; the parent's context is unharmed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            DeviceBuffer(cuda, 64)
            said = "no error"
        except NumclipError as error:
            said = str(error)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    hung = threading.Timer(_FORK_S, os.kill, (child, 9))
    hung.start()
    _, status = os.waitpid(child, 0)
    hung.cancel()
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    expect(status == 0, f"the child ended with status {status}; -9 or 9: it hung")
    if not settings.rehearse:  # the stand-in does not know of forks
        expect("CUDA: " in said, f"the child of fork got no sentence of CUDA, but: {said}")
    return {"child": said}


def _exit(settings: Settings) -> dict[str, Any]:
    """A process that closes nothing ends without a word."""
    code = (
        "from numclip_runtime.cuda.context import CudaContext\n"
        "from numclip_runtime.cuda.resources import *\n"
        f"cuda = CudaContext(library={settings.library!r})\n"
        "kept = [Stream(cuda), Event(cuda)]\n"
        "kept += [PinnedBuffer(cuda, (2,), 'f4'), DeviceBuffer(cuda, 9)]\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    expect(
        (done.returncode, done.stderr) == (0, ""),
        f"exit code {done.returncode}, and on stderr: {done.stderr[-500:]}",
    )
    return {}
