"""A few faults of every class for every command; `make faults` runs the whole matrix."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, missing, run_command
from tests.faults.disturb import CHANGES, changed, kills, limited
from tests.faults.harness import Fault, Result, Server, compiler, files_of, problems
from tests.faults.matrix import SPOTS, Spot, injected, rotated
from tests.faults.run import table

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the shim is for Linux's dynamic linker"),
    pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) for the shim"),
]
SMOKE = ("run", "run-json", "export", "train", "eval")


@pytest.fixture(params=SMOKE)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if absent := missing(COMMANDS[request.param]):
        pytest.skip(f"{absent[0]} is not installed")
    with Server(request.param, tmp_path) as started:
        yield started


def failures(results: Iterator[tuple[str, Result]]) -> list[str]:
    return [
        f"{what}: {'; '.join(result.problems)} | {result.stderr.strip()[-300:]}"
        for what, result in results
        if result.problems
    ]


def test_a_few_faults_of_each_class(server: Server) -> None:
    """One server per command: starting it takes as long as twenty faults."""
    name = server.base.stem
    turn = SMOKE.index(name)
    server.done()
    assert failures(_calls(server, rotated(SPOTS[name], turn)[turn % 2 :: 2])) == []
    assert failures(kills(server, 4)) == []
    few = [("RLIMIT_NOFILE", 6), ("RLIMIT_AS", server.address_space + (8 << 20))]
    assert failures((what, limited(server, what, n)) for what, n in few) == []
    some = CHANGES[turn % 4 :: 4]
    assert failures((c.__name__, changed(server, c, 0.3, 7)) for c in some) == []


def _calls(server: Server, spots: Sequence[Spot]) -> Iterator[tuple[str, Result]]:
    """One error of each call on each kind of file, at its first call."""
    struck = 0
    for i, spot in enumerate(spots):
        fault = Fault(spot.call, spot.errors[0], 1, spot.path)
        result = injected(server, fault, spot.named, old=i % 2 == 1)
        struck += result.struck
        yield str(fault), result
    assert struck >= 4  # else the shim is not in the way


def test_the_harness_sees_what_it_looks_for(tmp_path: Path) -> None:
    """Each kind of violation, made by hand, is found."""
    command = run_command("out.jsonl")
    command.prepare(tmp_path)
    before = files_of(tmp_path)

    def found(code: int, stderr: str = "", *, killed: bool = False) -> list[str]:
        result = Result(code, "", stderr)
        return problems(command, result, tmp_path, before, killed=killed)

    assert found(2, "Error: model.onnx: no.") == []
    assert found(2) == ["exit code 2 without a word"]
    assert found(3) == ["exit code 3"]
    assert found(-11, killed=False) == ["exit code -11"]
    assert found(2, "Traceback (most") == ["stderr says 'Traceback'"]
    assert "out.jsonl: exit code 0, and it is not there" in found(0)
    (tmp_path / "out.jsonl").write_text('{"value": 1}\n{"val')
    assert found(2, "Error: x.") == [
        "out.jsonl: not whole (ValueError: the last line is incomplete)"
    ]
    (tmp_path / "out.jsonl").write_text('{"value": 1}\n')
    assert found(0) == ["exit code 0, and 1 of 8 records"]
    assert found(2, "Stopped: 3 of 8 images done and kept.\nError: out.") == [
        "3 records are said to be kept, 1 are there"
    ]
    (tmp_path / ".out.1.part.jsonl").touch()
    assert found(2, "Error: x.") == [".out.1.part.jsonl: left without a word"]
    assert found(2, "Error: x; kept in .out.1.part.jsonl.") == []
    assert found(-9, killed=True) == []
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "photos/0.png").unlink()
    assert found(-9, killed=True) == [
        "model.onnx: an input was changed",
        "photos/0.png: is gone",
    ]


def test_table() -> None:
    counts = {"write EIO": Counter(refused=2, done=1), "kill": Counter(violation=1)}
    assert table(counts).splitlines()[-1].split() == ["all", "1", "2", "1"]


def test_faults_are_told_apart() -> None:
    assert str(Fault("write", "ENOSPC", 3, "out.", sticky=True)) == (
        "ENOSPC at write 3 and all later of out."
    )
