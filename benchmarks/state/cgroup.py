"""CPU quota of the control group: a container's share of the machine's cores."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.state.files import read_int, read_table, read_text


def read_quota(root: Path) -> tuple[float | None, int | None]:
    """Return the quota in cores, and how often it stopped the process's group so far.

    The tightest limit counts, from the process's group up to the root. None: no limit, or not told.

    Args:
        root: Folder that stands for `/`.
    """
    tightest: float | None = None
    stops: int | None = None
    for folder in _groups(root):
        quota = _quota(folder)
        if quota is not None and (tightest is None or quota < tightest):
            tightest, stops = quota, read_table(folder / "cpu.stat").get("nr_throttled")
    return tightest, stops


def _groups(root: Path) -> list[Path]:
    """Return the folders of the process's group and of its parents, version 2 and version 1."""
    text = read_text(root / "proc/self/cgroup") or ""
    folders = []
    for controllers, path in re.findall(r"^\d+:([^:]*):(.*)$", text, re.MULTILINE):
        if controllers == "":  # version 2 has one tree
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            bases = [root / "sys/fs/cgroup" / name for name in (controllers, "cpu")]
        else:
            continue
        group = Path(path.lstrip("/"))
        # Inside a container the path can be that of the host, which isn't mounted: its parents
        # end at the mount itself, which is the container's own group.
        folders += [base / part for base in bases for part in (group, *group.parents)]
    return list(dict.fromkeys(folders))


def _quota(folder: Path) -> float | None:
    limit = re.fullmatch(r"(\d+) (\d+)", read_text(folder / "cpu.max") or "")  # version 2
    if limit is not None:
        return int(limit[1]) / int(limit[2])
    quota, period = (read_int(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and quota > 0 and period else None
