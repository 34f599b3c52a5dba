"""Who may import whom, read from the source: see the table of packages in the README."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_PARTY = {"numclip", "numclip_export", "numclip_runtime", "benchmarks", "examples", "tests"}
# folder -> first-party packages that it may import, anywhere in a file
ALLOWED = {
    "runtime/numclip_runtime": {"numclip_runtime"},
    "numclip": {"numclip", "numclip_runtime"},
    "export/numclip_export": {"numclip_export", "numclip", "numclip_runtime"},
    "benchmarks": {"benchmarks", "numclip_runtime", "numclip", "numclip_export"},
}
# folder -> third-party and first-party packages that it may import outside functions; the standard
# library always. What is not listed costs seconds, or is not there on a device.
LIGHT = {
    "runtime/numclip_runtime": {"numclip_runtime", "numpy", "PIL", "click"},
    "benchmarks": {"benchmarks", "numclip_runtime", "numpy", "PIL", "click"},
}


def imports(node: ast.AST, *, loading: bool = True) -> Iterator[tuple[str, int, bool]]:
    """Yield (top-level package, line, whether it runs when the module loads)."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        loading = False
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        loading = False
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name.partition(".")[0], node.lineno, loading
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0], node.lineno, loading
    for child in ast.iter_child_nodes(node):
        yield from imports(child, loading=loading)


def violations(source: str, folder: str) -> list[str]:
    """Return one line for each import in `source` that a file of `folder` must not have."""
    found = []
    for package, line, loading in imports(ast.parse(source)):
        if package in FIRST_PARTY and package not in ALLOWED[folder]:
            found.append(f"line {line}: {folder} must not import {package}")
        elif (
            loading
            and folder in LIGHT
            and package not in LIGHT[folder]
            and package not in sys.stdlib_module_names
        ):
            found.append(f"line {line}: {folder} may import {package} inside functions only")
    return found


@pytest.mark.parametrize("folder", list(ALLOWED))
def test_import_rules(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    found = [
        f"{path.relative_to(ROOT)}, {problem}"
        for path in files
        for problem in violations(path.read_text(encoding="utf-8"), folder)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("folder", "source", "problem"),
    [
        ("runtime/numclip_runtime", "import numclip.task", "must not import numclip"),
        (
            "runtime/numclip_runtime",
            "def f():\n    from numclip import x",
            "must not import numclip",
        ),
        (
            "runtime/numclip_runtime",
            "import os, onnxruntime as ort",
            "onnxruntime inside functions",
        ),
        ("runtime/numclip_runtime", "class A:\n    import torch", "torch inside functions only"),
        (
            "runtime/numclip_runtime",
            "try:\n    import torch\nexcept ImportError: 1",
            "torch inside",
        ),
        ("numclip", "def f():\n    import numclip_export.fold", "must not import numclip_export"),
        ("numclip", "from benchmarks.latency import x", "must not import benchmarks"),
        ("export/numclip_export", "from tests.data import x", "must not import tests"),
        ("benchmarks", "import numclip", "may import numclip inside functions only"),
        ("benchmarks", "from torch import nn", "may import torch inside functions only"),
    ],
)
def test_checker_catches(folder: str, source: str, problem: str) -> None:
    (found,) = violations(source, folder)
    assert problem in found


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        (
            "runtime/numclip_runtime",
            "import json, PIL.Image\nfrom numclip_runtime.task import Task",
        ),
        ("runtime/numclip_runtime", "from . import task\nfrom .task import Task"),
        ("runtime/numclip_runtime", "def f():\n    import onnxruntime"),
        ("runtime/numclip_runtime", "if TYPE_CHECKING:\n    import tensorrt"),
        ("numclip", "import torch\nfrom numclip_runtime import Task"),
        ("export/numclip_export", "import onnx\nimport numclip, numclip_runtime"),
        ("benchmarks", "import numclip_runtime\ndef f():\n    import torch, numclip"),
    ],
)
def test_checker_allows(folder: str, source: str) -> None:
    assert violations(source, folder) == []
