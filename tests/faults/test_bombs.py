"""Each refused file takes at most 1 GiB; the table is printed by `python -m tests.faults.bombs`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.bombs import BOMBS, LIMIT_MIB, Bomb, measured
from tests.faults.peak import Peak, peaks_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss and RLIMIT_AS of Linux")
REFUSALS = {"ImageError", "ModelError", "UsageError"}


@pytest.mark.parametrize("torch", [False, True], ids=["runtime", "torch"])
def test_refused_within_a_gibibyte(torch: bool, tmp_path: Path) -> None:
    if torch:
        pytest.importorskip("torch")
    bombs = tuple(bomb for bomb in BOMBS if bomb.torch == torch)
    wrong = [
        f"{bomb.name}: {peak.mib} MiB, {peak.seconds:.1f} s, {peak.error}: {peak.message[:200]}"
        for bomb, _, peak in measured(bombs, tmp_path)
        if peak.mib > LIMIT_MIB
        or "\n" in peak.message
        or not (bomb.name in peak.message if peak.error in REFUSALS else _may_pass(bomb, peak))
    ]
    assert not wrong, "\n".join(wrong)


def _may_pass(bomb: Bomb, peak: Peak) -> bool:
    return not bomb.refused and not peak.error


def test_the_measure_sees_memory() -> None:
    small, large, failed = peaks_of(
        ["pass", "bytearray(300 << 20)", "bytearray(100 << 30)"], modules=("numclip_runtime",)
    )
    assert large.mib >= small.mib + 290
    assert (small.error, failed.error) == ("", "MemoryError")
