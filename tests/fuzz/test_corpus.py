"""The fuzz targets on their seeds and on the inputs that once failed, without a fuzzer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from tests.fuzz.harness import CORPUS, TARGETS, FindingError, refusals
from tests.fuzz.run import write_seeds

pytest.importorskip("torch")


@pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")  # commands do not show it
@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_regressions(name: str, tmp_path: Path) -> None:
    write_seeds(name, tmp_path)
    target = import_module(f"tests.fuzz.targets.{name}").target
    inputs = sorted(tmp_path.iterdir())
    assert len(inputs) >= 3
    for path in inputs:
        data = path.read_bytes()
        for cut in (data, data[: len(data) // 2], data[:-1], data + b"\0"):
            target(cut)


def test_every_module_is_a_target() -> None:
    modules = {path.stem for path in (Path(__file__).parent / "targets").glob("*.py")}
    assert modules == set(TARGETS)
    assert {path.name for path in CORPUS.iterdir()} <= modules


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


def test_a_long_message_is_a_finding() -> None:
    from numclip_runtime import UsageError

    with refusals():
        raise UsageError("x: no such file.")
    with pytest.raises(FindingError, match="a message of 5000 characters"), refusals():
        raise UsageError("x" * 5000)
