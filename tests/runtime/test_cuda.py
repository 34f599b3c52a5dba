"""The driver through ctypes, against a stand-in library that is stricter than a GPU."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from numclip_runtime import NumclipError
from numclip_runtime.cuda.api import SIGNATURES, CudaApi, CudaError
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.resources import DeviceBuffer, Event, PinnedBuffer, Stream
from tests.runtime.standin import SOURCE, StandinDriver


@pytest.fixture
def cuda(standin: StandinDriver) -> Iterator[CudaContext]:
    context = CudaContext(library=standin.path)
    yield context
    standin.forget()
    standin.kernels.clear()  # they refer to what the test made
    gc.collect()
    context.close()


class Doubler:
    """Uploads 6 numbers, doubles them on the "GPU" and downloads them."""

    def __init__(self, cuda: CudaContext, standin: StandinDriver, *, capturable: bool = True):
        self.cuda, self.standin, self.capturable = cuda, standin, capturable
        self.stream = Stream(cuda)
        self.source = PinnedBuffer(cuda, (2, 3), np.float32)
        self.target = PinnedBuffer(cuda, (2, 3), np.float32)
        self.device = DeviceBuffer(cuda, 24)

    def kernel(self) -> None:
        memory = (ctypes.c_float * 6).from_address(self.device.handle)
        memory[:] = [2 * number for number in memory]

    def enqueue(self) -> None:
        self.stream.upload(self.source.array, self.device)
        status = self.standin.enqueue(self.kernel, self.stream.handle, capturable=self.capturable)
        if status:
            raise CudaError("the kernel cannot be captured", status)
        self.stream.download(self.device, self.target.array)

    def close(self) -> None:
        for part in (self.stream, self.source, self.target, self.device):
            part.close()


def test_upload_compute_download(cuda: CudaContext, standin: StandinDriver) -> None:
    doubler = Doubler(cuda, standin)
    doubler.source.array[:] = [[1, 2, 3], [4, 5, 6]]
    doubler.target.array[:] = 0
    with cuda.current():
        doubler.enqueue()
        assert doubler.target.array.sum() == 0  # work on a stream is asynchronous
        doubler.stream.synchronize()
    assert doubler.target.array.tolist() == [[2, 4, 6], [8, 10, 12]]
    assert standin.alive == {"device": 1, "pinned": 2, "stream": 1, "context": 1}
    doubler.close()
    doubler.close()  # idempotent
    assert standin.alive == {"context": 1}
    cuda.close()
    cuda.close()
    assert standin.alive == {}


def test_graph_repeats_what_was_captured(cuda: CudaContext, standin: StandinDriver) -> None:
    doubler = Doubler(cuda, standin)
    doubler.target.array[:] = 0
    with cuda.current():
        standin.forget()
        graph = doubler.stream.capture(doubler.enqueue)
        assert [call for call in standin.calls if "Ctx" not in call] == [
            "cuStreamBeginCapture_v2",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphDestroy",
        ]
        doubler.stream.synchronize()
        assert doubler.target.array.sum() == 0  # captured, not run
        for number in (1, 7):
            doubler.source.array[:] = number
            doubler.stream.launch(graph)
            doubler.stream.synchronize()
            assert (doubler.target.array == 2 * number).all()
    assert standin.alive["graph exec"] == 1
    graph.close()
    assert graph.closed
    assert "graph exec" not in standin.alive


def test_failed_capture_leaves_a_stream_that_works(
    cuda: CudaContext, standin: StandinDriver
) -> None:
    doubler = Doubler(cuda, standin, capturable=False)
    doubler.source.array[:] = 3
    with cuda.current():
        with pytest.raises(CudaError, match="cannot be captured"):
            doubler.stream.capture(doubler.enqueue)
        doubler.enqueue()
        doubler.stream.synchronize()
        assert (doubler.target.array == 6).all()
        standin.fail("cuGraphInstantiateWithFlags", 2)
        with pytest.raises(CudaError, match="cuGraphInstantiateWithFlags failed"):
            doubler.stream.capture(lambda: None)
        with pytest.raises(CudaError, match="operation not permitted when stream is capturing"):
            doubler.stream.capture(doubler.stream.synchronize)
    assert not {"graph", "graph exec"} & set(standin.alive)


def test_what_is_not_closed_is_freed_when_collected(standin: StandinDriver) -> None:
    cuda = CudaContext(library=standin.path)
    doubler = Doubler(cuda, standin)
    del cuda
    assert standin.alive["context"] == 1  # kept by what was made in it
    view = doubler.source.array[1]
    view[:] = 5
    del doubler
    assert standin.alive == {"pinned": 1, "context": 1}  # kept by the view
    assert view.tolist() == [5, 5, 5]
    del view
    assert standin.alive == {}


def test_what_is_not_closed_is_freed_at_exit(standin: StandinDriver) -> None:
    code = f"""
import atexit, ctypes
library = ctypes.CDLL({standin.path!r})
atexit.register(lambda: print([library.standin_live(i) for i in range(7)]))  # runs last
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.resources import *
cuda = CudaContext(library={standin.path!r})
kept = [Stream(cuda), Event(cuda), PinnedBuffer(cuda, (2,), 'f4'), DeviceBuffer(cuda, 9)]
print([library.standin_live(i) for i in range(7)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1, 1, 1, 1, 0, 0, 1]", "[0, 0, 0, 0, 0, 0, 0]"]
    assert done.stderr == ""


def test_a_driver_that_has_shut_down_has_freed_all(
    cuda: CudaContext, standin: StandinDriver
) -> None:
    buffer = DeviceBuffer(cuda, 8)
    standin.fail("cuCtxPushCurrent_v2", 4)  # CUDA_ERROR_DEINITIALIZED
    buffer.close()
    assert standin.alive["device"] == 1
    with cuda.current():
        cuda.api.call("cuMemFree_v2", buffer.handle)


def test_contexts_are_pushed_and_popped(cuda: CudaContext, standin: StandinDriver) -> None:
    with cuda.current(), cuda.current():
        assert standin.pushed == 2
    with pytest.raises(ZeroDivisionError), cuda.current():
        _ = 1 / 0
    standin.fail("cuMemAlloc_v2", 2)
    with pytest.raises(CudaError):
        DeviceBuffer(cuda, 8)
    assert standin.pushed == 0


def test_each_thread_needs_the_context(cuda: CudaContext, standin: StandinDriver) -> None:
    stream, messages = Stream(cuda), []

    def work() -> None:
        try:
            stream.synchronize()
        except CudaError as error:
            messages.append(str(error))
        with cuda.current():
            stream.synchronize()

    with cuda.current():
        stream.synchronize()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert messages == [
        "CUDA: cuStreamSynchronize failed: invalid device context "
        "(CUDA_ERROR_INVALID_CONTEXT, 201)."
    ]


def test_out_of_memory(cuda: CudaContext, standin: StandinDriver) -> None:
    for make in (lambda: DeviceBuffer(cuda, 1 << 40), lambda: PinnedBuffer(cuda, (1 << 40,), "u1")):
        with pytest.raises(CudaError, match=r"out of memory \(CUDA_ERROR_OUT_OF_MEMORY, 2\); use"):
            make()
    assert standin.alive == {"context": 1}


def test_errors(cuda: CudaContext, standin: StandinDriver) -> None:
    stream = Stream(cuda)
    stream.close()
    with cuda.current():
        with pytest.raises(CudaError, match=r"invalid resource handle .*, 400\)") as error:
            stream.synchronize()
        assert error.value.status == 400
        standin.fail("cuStreamSynchronize", 987)
        with pytest.raises(CudaError, match=r"unknown error \(unknown error, 987\)"):
            stream.synchronize()
    assert issubclass(CudaError, NumclipError)
    assert issubclass(CudaError, RuntimeError)


def test_events_time_a_stream(cuda: CudaContext) -> None:
    stream, start, end = Stream(cuda), Event(cuda), Event(cuda)
    with cuda.current():
        start.record(stream)
        end.record(stream)
        with pytest.raises(CudaError):  # not yet
            end.milliseconds_since(start)
        stream.synchronize()
        end.synchronize()
        assert end.milliseconds_since(start) == 1.0


def test_driver_that_cannot_be_used(
    standin: StandinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CudaError, match=r"^no NVIDIA driver, libno\.so cannot be loaded\.$"):
        CudaApi("libno.so")
    with pytest.raises(CudaError, match="lacks cuInit; update it to one for CUDA 11"):
        CudaApi("libm.so.6")
    with pytest.raises(CudaError, match=r"cuDeviceGet failed: .*, 101\)"):
        CudaContext(1, library=standin.path)
    monkeypatch.setenv("STANDIN_DEVICES", "0")
    with pytest.raises(CudaError, match=r"cuInit failed: .*, 100\)"):
        CudaContext(library=standin.path)


C_TYPES: dict[str, Any] = {
    "unsigned long long": ctypes.c_uint64,
    "CUdeviceptr": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "unsigned": ctypes.c_uint,
    **dict.fromkeys(
        ("int", "CUresult", "CUdevice", "CUdevice_attribute", "CUstreamCaptureMode"), ctypes.c_int
    ),
    "float": ctypes.c_float,
    "char *": ctypes.c_char_p,
    "void *": ctypes.c_void_p,
    **dict.fromkeys(
        ("CUcontext", "CUstream", "CUevent", "CUgraph", "CUgraphExec"), ctypes.c_void_p
    ),
}


def c_type(parameter: str) -> Any:
    """Return the ctypes type of a C parameter such as `const char **text`."""
    words = re.sub(r"\w+$", "", parameter.replace("const ", "")).strip()
    if words in C_TYPES:
        return C_TYPES[words]
    return ctypes.POINTER(C_TYPES[words[:-1].strip()])


def test_signatures_are_those_of_the_c_source() -> None:
    """The C source compiles against NVIDIA's cuda.h; see its first lines."""
    declared = {
        name: tuple(map(c_type, re.split(r",\s*", parameters)))
        for name, parameters in re.findall(
            r"^CUresult (cu\w+)\(([^)]*)\) \{", SOURCE.read_text("utf-8"), re.MULTILINE
        )
    }
    assert {name: declared[name] for name in SIGNATURES} == SIGNATURES
