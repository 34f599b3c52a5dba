"""Moving a model's memory to huge pages: of real memory, where this kernel can."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from numclip_runtime import load, posix
from numclip_runtime.backends.huge_pages import AFTER, HugePages
from numclip_runtime.posix import MADV_COLLAPSE

SIZE = 48 << 20  # bytes


def memory() -> mmap.mmap:
    """Return private memory as an allocator gets it, every page in use."""
    found = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(found, np.uint8)[:] = 7
    return found


def huge_mib() -> float:
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"AnonHugePages:\s+(\d+)", text)[0]) / 1024


def can_move() -> bool:
    size = posix.huge_page_size()
    if sys.platform != "linux" or size is None:
        return False
    block = mmap.mmap(-1, 3 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = np.frombuffer(block, np.uint8)
    numbers[:] = 1
    start = -(-numbers.ctypes.data // size) * size
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return bool(madvise(start, size, MADV_COLLAPSE) == 0)


needs_kernel = pytest.mark.skipif(not can_move(), reason="this kernel cannot move to huge pages")


@pytest.fixture
def pages() -> Iterator[tuple[HugePages, mmap.mmap]]:
    found = HugePages()
    block = memory()
    found.opened()
    yield found, block
    found.close()


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name == "numclip-pages":
            thread.join(60)
            assert not thread.is_alive()


@needs_kernel
def test_memory_moves_once_the_model_is_used(pages: tuple[HugePages, mmap.mmap]) -> None:
    found, block = pages
    before = huge_mib()
    found.ran(AFTER - 1)
    wait()
    assert huge_mib() <= before + 4
    found.ran(1)
    wait()
    assert huge_mib() >= before + 0.8 * SIZE / 2**20
    assert (np.frombuffer(block, np.uint8) == 7).all()
    found.ran(AFTER)  # not a second time
    assert not [t for t in threading.enumerate() if t.name == "numclip-pages"]


@needs_kernel
def test_a_closed_model_is_left_alone(pages: tuple[HugePages, mmap.mmap]) -> None:
    found, _ = pages
    before = huge_mib()
    found.close()
    found.ran(AFTER)
    wait()
    assert huge_mib() <= before + 4


@pytest.mark.parametrize("text", [None, "much\n"])
def test_a_kernel_without_huge_pages(
    pages: tuple[HugePages, mmap.mmap],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
) -> None:
    path = tmp_path / "hpage_pmd_size"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(posix, "PAGE_SIZE", path)
    pages[0].ran(AFTER)
    wait()


@pytest.mark.posix("reads Linux' list of mappings")
def test_what_was_there_before_is_left_alone() -> None:
    block = memory()
    pages = HugePages()
    pages.opened()
    start = np.frombuffer(block, np.uint8).ctypes.data
    for first, end in pages._ranges:
        assert end <= start or first >= start + SIZE


def test_elsewhere_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert posix.writable_mappings() == []


def test_without_proc_nothing_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "MAPS", tmp_path / "maps")
    pages = HugePages()
    pages.opened()
    assert pages._ranges == []


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_run_counts_its_images(
    tiny: Path, backend: Literal["onnxruntime", "openvino"]
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    with load(tiny, backend=backend, device="cpu") as predictor:
        predictor.predict_batch([np.zeros((8, 8), np.uint8)] * 3)
        pages = getattr(predictor.backend, "_pages")  # noqa: B009
        assert pages._images == 3
    assert pages._stopped
