"""How many CPU cores this process may keep busy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable_cores(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Count the cores that the affinity mask and the container's CPU quota leave, at least 1.

    `os.cpu_count()` is the machine's: in a container of 2 CPUs on a server of 64 it says 64, and 64
    threads that share 2 CPUs are slower than 2. A part of a core counts as one.

    Args:
        root: Where Linux mounts its control groups; there are none elsewhere.
        membership: The file that says which of them this process is in.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root, membership))]))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Yield each quota that applies, in cores: that of the own group and of those around it."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root  # version 1: a tree for each controller
        inside = PurePosixPath(group.lstrip("/"))
        # In a container the group may be named as the host sees it, and not be there: its limits
        # are then those of the root.
        for folder in (inside, *inside.parents):
            with suppress(OSError, ValueError):  # no such file, or "max": no limit
                if controllers:
                    quota = (base / folder / "cpu.cfs_quota_us").read_text()
                    period = (base / folder / "cpu.cfs_period_us").read_text()
                else:
                    quota, period = (base / folder / "cpu.max").read_text().split()
                if int(quota) > 0:  # -1: no limit
                    yield int(quota) / int(period)


def cores_per_run(threads: int | None, *, throughput: bool) -> int | None:
    """Return how many threads onnxruntime gets for one inference on the CPU.

    Args:
        threads: What the user says.
        throughput: One, so that as many run at a time as there are cores; else all.

    Returns:
        None where onnxruntime may choose. It takes the machine's cores, whatever this process may
        use of them, so where these are fewer it is told.
    """
    if threads is not None or throughput:
        return threads or 1
    cores = usable_cores()
    return None if cores == os.cpu_count() else cores
