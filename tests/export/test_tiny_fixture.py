"""The committed fixture models are what their script makes."""

from pathlib import Path

import pytest

from tests.data.make_tiny import tiny_files

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["tiny.onnx", "foreign.onnx"])
def test_script_makes_the_committed_bytes(name: str) -> None:
    assert tiny_files()[name] == (DATA / name).read_bytes(), "run: python tests/data/make_tiny.py"
