"""The packages of numclip import downwards only, so that there is no circle among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import numclip

ROOT = Path(numclip.__file__).parent
LAYERS = [  # lowest first; those in one row do not import each other
    {"torchvision_compat"},
    {"data", "weights"},
    {"model", "tasks"},
    {"checkpoint"},
    {"evaluation", "importers"},
    {"training"},
    {"cli"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the packages of numclip that a file imports, in functions too, but not for types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numclip."):
            yield str(node.module).split(".")[1]
        yield from imported(node)


def upward(source: str, package: str) -> list[str]:
    found = {name for name in imported(ast.parse(source)) if name != package}
    return sorted(name for name in found if LAYER_OF[name] >= LAYER_OF[package])


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_no_import_goes_up(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if package != "__init__":  # names the public names of all, and imports none
        assert upward(path.read_text("utf-8"), package) == []


def test_the_check_finds_imports_that_go_up() -> None:
    later = "def f():\n    from numclip.training.fit import fit"
    assert upward(later, "evaluation") == ["training"]
    assert upward("from numclip.data.readers import read_samples", "weights") == ["data"]
    typed = "if TYPE_CHECKING:\n    from numclip.checkpoint import Checkpoint"
    assert upward(typed, "data") == []
