"""Where memory runs out, a command says so, whichever library noticed and whatever came of it."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from numclip_runtime import GpuError, ModelError, UsageError
from numclip_runtime.console import exit_on_error

CAUSES = (
    MemoryError(),
    MemoryError("Unable to allocate 5.00 GiB for an array"),
    RuntimeError("could not create a primitive"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory:"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation"),
    RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"),
)


def fail(error: Exception, cause: Exception | None) -> None:
    try:
        if cause is not None:
            raise cause
    except Exception:
        raise error from None
    raise error


def said(error: Exception, capsys: pytest.CaptureFixture[str], cause: Exception | None) -> str:
    with pytest.raises(SystemExit) as leaving, exit_on_error():
        fail(error, cause)
    assert leaving.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("error", CAUSES, ids=repr)
def test_every_librarys_words_become_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert said(error, capsys, None) == "Error: not enough memory.\n"


@pytest.mark.parametrize("cause", CAUSES, ids=repr)
def test_also_if_our_own_error_took_its_place(
    capsys: pytest.CaptureFixture[str], cause: Exception
) -> None:
    error = ModelError("x.onnx: not a model that onnxruntime can load (unknown).")
    assert said(error, capsys, cause) == "Error: not enough memory.\n"


@pytest.mark.parametrize(
    ("error", "cause", "sentence"),
    [
        (UsageError("not enough memory (x); lower it."), CAUSES[3], None),
        (GpuError("x.onnx: CUDA failed (out of memory)."), RuntimeError("out of memory"), None),
        (UsageError("out of memory.csv: no such file."), None, None),
        (OSError(errno.EIO, "Bad", "bad_alloc"), None, "bad_alloc: Bad."),
        (UsageError("no."), OSError(errno.ENOENT, "No", "bad_alloc"), None),
    ],
    ids=repr,
)
def test_other_sentences_stay(
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    cause: Exception | None,
    sentence: str | None,
) -> None:
    assert said(error, capsys, cause) == f"Error: {sentence or error}\n"


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a fault"), exit_on_error():
        raise RuntimeError("a fault")


@pytest.mark.posix("limits memory")
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
def test_it_is_said_when_not_a_byte_is_left() -> None:
    """Objects of all sizes fill the address space, and stay there until the process has ended."""
    result = subprocess.run(
        [sys.executable, "-c", FULL], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (2, "Error: not enough memory.\n")
    assert result.stdout == "finalized\n"


FULL = """
import resource, weakref
import click
from numclip_runtime.console import Command

@click.command(cls=Command)
def main():
    global kept
    weakref.finalize(main, print, "finalized")
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
    kept = None
    for size in (1 << 22, 1 << 18, 1 << 14, 1 << 10, 0):
        try:
            while True:
                kept = (kept, bytearray(size)) if size else (kept,)
        except MemoryError:
            pass
    kept = (kept, bytearray(1 << 22))

main()
"""
