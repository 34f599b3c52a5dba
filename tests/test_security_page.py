"""SECURITY.md names a test beside each promise, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED.findall(PAGE))
def test_the_named_test_exists(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions(ROOT / path)


def test_each_promise_names_a_test() -> None:
    promises = PAGE.partition("## What is promised")[2].partition("## What is not promised")[0]
    parts = promises.split("\n\n**")[1:]
    assert len(parts) >= 8
    assert [part[:40] for part in parts if not NAMED.search(part)] == []


def test_the_other_files_named_exist() -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file()
