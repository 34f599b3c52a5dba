"""Checks of the driver's copies, streams, events and graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bench.gpu.checks import CheckSkippedError, Settings, expect
from numclip_runtime.cuda.api import CudaError
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.resources import DeviceBuffer, Event, PinnedBuffer, Stream

_SIZES = (1, 4095, 1 << 20, (64 << 20) + 3)  # bytes of the copies that are compared
_RATE_BYTES, _RATE_RUNS = 64 << 20, 10  # of the copies that are timed


def copies(settings: Settings, cuda: CudaContext) -> dict[str, Any]:
    """Copy there and back, from and to pinned and pageable memory, and compare every byte."""
    stream, sizes = Stream(cuda), _SIZES[:-1] if settings.rehearse else _SIZES
    for nbytes in sizes:
        device, pinned = DeviceBuffer(cuda, nbytes), PinnedBuffer(cuda, (nbytes,), np.uint8)
        bytes_there, pageable = pattern(nbytes), np.zeros(nbytes, np.uint8)
        pinned.array[:] = bytes_there
        with cuda.current():
            stream.upload(pinned.array, device)
            stream.download(device, pageable)
            stream.synchronize()
            expect(bool((pageable == bytes_there).all()), f"{nbytes} bytes differ: pinned there")
            other = pattern(nbytes, 1)
            stream.upload(other, device)
            stream.download(device, pinned.array)
            stream.synchronize()
            expect(bool((pinned.array == other).all()), f"{nbytes} bytes differ: pageable there")
        device.close()
        pinned.close()
    stream.close()
    return {"bytes": list(sizes)}


def streams(cuda: CudaContext) -> dict[str, Any]:
    """Two streams keep their own order; events lie in order."""
    both = [Stream(cuda), Stream(cuda)]
    buffers = [DeviceBuffer(cuda, 1 << 20) for _ in both]
    hosts = [PinnedBuffer(cuda, (1 << 20,), np.uint8) for _ in range(4)]
    events = [Event(cuda) for _ in range(4)]
    for number, host in enumerate(hosts):
        host.array[:] = number
    with cuda.current():
        for i, stream in enumerate(both):
            events[2 * i].record(stream)
            for _ in range(20):
                stream.upload(hosts[i].array, buffers[i])
            stream.download(buffers[i], hosts[2 + i].array)
            events[2 * i + 1].record(stream)
        for stream in both:
            stream.synchronize()
        events[3].synchronize()
        times = [events[2 * i + 1].milliseconds_since(events[2 * i]) for i in range(2)]
    for i in range(2):
        expect(bool((hosts[2 + i].array == i).all()), f"stream {i}: another's bytes came back")
        expect(times[i] > 0, f"stream {i}: its events are {times[i]} ms apart")
    close_all(*events, *hosts, *buffers, *both)
    return {"ms": [round(time, 4) for time in times]}


def graph_of_copies(cuda: CudaContext) -> dict[str, Any]:
    """A captured upload and download runs as often as it is launched, with new bytes each time."""
    stream, device = Stream(cuda), DeviceBuffer(cuda, 4096)
    source, target = PinnedBuffer(cuda, (4096,), np.uint8), PinnedBuffer(cuda, (4096,), np.uint8)

    def work() -> None:
        stream.upload(source.array, device)
        stream.download(device, target.array)

    target.array[:] = 99
    with cuda.current():
        graph = stream.capture(work)
        stream.synchronize()
        expect(bool((target.array == 99).all()), "the capture ran the work")
        for number in range(3):
            source.array[:] = number
            stream.launch(graph)
            stream.synchronize()
            expect(bool((target.array == number).all()), f"launch {number}: other bytes")
    close_all(graph, source, target, device, stream)
    return {"launches": 3}


def broken_capture(cuda: CudaContext) -> dict[str, Any]:
    """A capture that cannot be is an error, and the stream goes on."""
    stream, device = Stream(cuda), DeviceBuffer(cuda, 16)
    back = np.zeros(16, np.uint8)
    with cuda.current():
        sentence = sentence_of(partial(stream.capture, stream.synchronize))
        stream.upload(pattern(16), device)
        stream.download(device, back)
        stream.synchronize()
    expect(bool((back == pattern(16)).all()), "the stream does not work after a broken capture")
    close_all(device, stream)
    return {"sentence": sentence}


def copy_rates(settings: Settings, cuda: CudaContext) -> dict[str, Any]:
    """Time copies by the device's events, GB/s."""
    if settings.rehearse:
        raise CheckSkippedError("the stand-in's copies have no speed")
    stream, device = Stream(cuda), DeviceBuffer(cuda, _RATE_BYTES)
    pinned = PinnedBuffer(cuda, (_RATE_BYTES,), np.uint8)
    pinned.array[:] = 1
    start, end = Event(cuda), Event(cuda)
    ways: dict[str, Callable[[], None]] = {
        "upload": lambda: stream.upload(pinned.array, device),
        "download": lambda: stream.download(device, pinned.array),
    }
    found = {}
    with cuda.current():
        for name, copy in ways.items():
            times = []
            for _ in range(_RATE_RUNS):
                start.record(stream)
                copy()
                end.record(stream)
                stream.synchronize()
                times.append(end.milliseconds_since(start))
            found[f"{name}_gb_s"] = round(_RATE_BYTES / median(times) / 1e6, 2)
    close_all(start, end, pinned, device, stream)
    return found


def shared_with_torch(settings: Settings, cuda: CudaContext) -> dict[str, Any]:
    """Memory that torch allocated is read by our stream: both use the primary context."""
    if settings.rehearse:
        raise CheckSkippedError("torch has no GPU here")
    import torch

    there = torch.arange(1 << 16, device="cuda", dtype=torch.int32)
    torch.cuda.synchronize()
    stream, back = Stream(cuda), np.zeros(1 << 16, np.int32)
    with cuda.current():
        cuda.api.call(
            "cuMemcpyDtoHAsync_v2", back.ctypes.data, there.data_ptr(), back.nbytes, stream.handle
        )
        stream.synchronize()
    expect(
        bool((back == np.arange(1 << 16)).all()), "our stream reads other bytes than torch wrote"
    )
    stream.close()
    free, total = torch.cuda.mem_get_info()
    return {"free_mb": round(free / 1e6), "total_mb": round(total / 1e6)}


def pattern(nbytes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return so many random bytes."""
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def sentence_of(work: Callable[[], object]) -> str:
    """Return the sentence of the error that this must raise."""
    try:
        work()
    except CudaError as error:
        return str(error)
    raise AssertionError("no error was raised")


def close_all(*resources: Any) -> None:
    """Close resources, in this order."""
    for resource in resources:
        resource.close()
