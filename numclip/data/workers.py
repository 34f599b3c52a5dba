"""Processes that load images: what they need, and what it means when one of them ends."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from numclip_runtime import ImageError, UsageError
from numclip_runtime.errors import first_line, lacks_memory

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2  # batches per process, torch's default
_NO_PROCESS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def check_shared_memory(
    loads: Sequence[tuple[int, int]], crop: int, workers: int, processes: int = 1
) -> None:
    """Refuse more shared memory than there is; torch dies of it with a bus error.

    Args:
        loads: Number of images and size of a batch, for loaders that do not run at the same time.
        crop: Side of the network's input, pixels.
        workers: Loading processes of each training process; 0 needs none.
        processes: Training processes on this machine.

    Raises:
        UsageError: naming --workers, and docker's --shm-size of 64 MB.
    """
    if not workers or sys.platform != "linux":
        return
    needed = processes * max(
        min(math.ceil(images / batch), PREFETCHED * workers + 1) * min(images, batch)
        for images, batch in loads
    )
    needed *= 3 * crop * crop * 4  # float32
    try:
        status = os.statvfs(SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
    except OSError:
        free = 0
    if needed > free:
        raise UsageError(
            f"{workers} processes that load images need {math.ceil(needed / 1e6):,} MB of shared "
            f"memory, {SHARED_MEMORY} has {free // 10**6:,} MB; give --workers 0, a smaller "
            "--batch-size, or a container more of it (docker run --shm-size 1g)."
        )


def quiet_when_left(_: int) -> None:
    """Let a process that loads images say nothing when the one that trains has gone; run in it.

    That one fetches the descriptors of a batch from a thread of `multiprocessing` here. A signal
    may end it meanwhile, after its own sentence, and the thread would print a traceback below.
    """
    report = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (EOFError, ConnectionError)):
            report(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def loading_faults(workers: int) -> Iterator[None]:
    """Turn what a loading process reports or dies of into one sentence.

    Raises:
        ImageError: if an image cannot be read.
        UsageError: if a process cannot be started or has ended, or memory does not suffice.
    """
    try:
        yield
    except ImageError as error:  # from a loading process with its whole traceback
        raise ImageError(str(error).strip().rpartition("ImageError: ")[2]) from None
    except OSError as error:
        if not workers or error.errno not in _NO_PROCESS:
            raise
        raise UsageError(
            f"cannot start a process that loads images ({error.strerror}); give --workers 0."
        ) from None
    except RuntimeError as error:
        text = str(error)
        if workers and ("DataLoader worker" in text or "ancdata" in text or "open files" in text):
            raise UsageError(
                f"a process that loads images has ended ({first_line(error)[:200]}); memory, "
                "shared memory or open files do not suffice. Give fewer --workers, or --workers 0."
            ) from None
        if lacks_memory(error):
            raise UsageError(
                f"not enough memory ({first_line(error)[:200]}); lower --batch-size or --workers."
            ) from None
        raise
