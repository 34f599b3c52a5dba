"""How the house is kept: size of packages, one home per name, layers, public names, old paths."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "numclip": ROOT / "numclip",
    "numclip_runtime": ROOT / "runtime/numclip_runtime",
    "numclip_export": ROOT / "export/numclip_export",
    "benchmarks": ROOT / "benchmarks",
}
MAX_MODULES = 16
MAX_LINES = 300
# Modules that only begin a command, or keep a path alive which people import
RE_EXPORTS = {
    "export/numclip_export/entry.py",
    "numclip/entry.py",
    "runtime/numclip_runtime/cli.py",
    "runtime/numclip_runtime/ray.py",
    "runtime/numclip_runtime/report.py",
    "runtime/numclip_runtime/spark.py",
}
# Names that every script or command has: each is the entry point of its own file.
ENTRY_POINTS = {"main"}

# From the ground up. A unit (a module or a package at the first level of its package) imports only
# units of lower floors, in functions and for type checking as well.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "numclip_runtime": (
        ("errors", "posix"),
        ("replacing", "signals", "system"),
        ("console", "cuda", "fields", "files"),
        ("commands", "images", "task"),
        ("calibration", "monitor"),
        ("metadata", "results"),
        ("model_files", "preprocess"),
        ("backends", "remote"),
        ("pipeline",),
        ("predictor",),
        ("jobs",),
        ("app",),
        ("serve",),
        ("cli", "ray", "report", "spark"),
    ),
    "numclip": (
        ("entry", "torchvision_compat", "weights"),
        ("data", "model"),
        ("checkpoint", "tasks"),
        ("evaluation", "importers"),
        ("training",),
        ("distillation",),
        ("cli",),
    ),
    "numclip_export": (
        ("cosine", "entry", "images", "vision"),
        ("fold",),
        ("graph",),
        ("engine",),
        ("card", "options", "parity"),
        ("flags", "precision"),
        ("exported_file",),
        ("int8", "report"),
        ("verified_engine",),
        ("export",),
        ("delivery",),
        ("cli",),
    ),
}


def modules_of(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
        and path.relative_to(ROOT).as_posix() not in RE_EXPORTS
    ]


def crowded(counts: Mapping[str, int]) -> list[str]:
    return [f"{name}: {count} modules" for name, count in counts.items() if count > MAX_MODULES]


def twice(names: Sequence[tuple[str, str]]) -> list[str]:
    """Return "name: place, place" for each name that has two places or more."""
    counts = Counter(name for name, _ in names)
    return [
        f"{name}: {', '.join(place for other, place in names if other == name)}"
        for name, count in sorted(counts.items())
        if count > 1
    ]


def public_definitions(source: str) -> Iterator[str]:
    """Yield the names without a leading underscore that a module defines at its top level."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            targets = [name for target in node.targets for name in ast.walk(target)]
            names = [name.id for name in targets if isinstance(name, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def imported_names(source: str) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) for each import, wherever it stands; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def upward(source: str, unit: str, package: str, floors: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each import in a file of `unit` that does not go to a lower floor."""
    floor = {name: number for number, names in enumerate(floors) for name in names}
    others = [
        (name.split(".")[1], line)
        for name, line in imported_names(source)
        if name.startswith(f"{package}.")
    ]
    return [
        f"line {line}: {unit} imports {other}, which is not on a lower floor"
        for other, line in dict.fromkeys(others)  # a line may import several names of one unit
        if other != unit and floor.get(other, -1) >= floor[unit]
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_is_crowded(package: str) -> None:
    counts = Counter(
        path.parent.relative_to(ROOT).as_posix() for path in modules_of(PACKAGES[package])
    )
    assert not crowded(counts)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_long(package: str) -> None:
    lines = {p: len(p.read_text("utf-8").splitlines()) for p in modules_of(PACKAGES[package])}
    long = {p.relative_to(ROOT).as_posix(): n for p, n in lines.items() if n > MAX_LINES}
    assert not long


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_share_a_name(package: str) -> None:
    modules = modules_of(PACKAGES[package])
    assert not twice([(p.name, p.relative_to(ROOT).as_posix()) for p in modules])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_defined_twice(package: str) -> None:
    names = [
        (name, path.relative_to(ROOT).as_posix())
        for path in modules_of(PACKAGES[package])
        for name in set(public_definitions(path.read_text("utf-8"))) - ENTRY_POINTS
    ]
    assert not twice(names)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down(package: str) -> None:
    folder, found = PACKAGES[package], []
    units = {p.relative_to(folder).parts[0].removesuffix(".py") for p in folder.rglob("*.py")}
    floors = FLOORS[package]
    assert units - {"__init__", "__main__"} == {name for floor in floors for name in floor}
    for path in sorted(folder.rglob("*.py")):
        unit = path.relative_to(folder).parts[0].removesuffix(".py")
        if unit not in ("__init__", "__main__"):
            place = path.relative_to(ROOT)
            found += [
                f"{place}, {problem}"
                for problem in upward(path.read_text("utf-8"), unit, package, floors)
            ]
    assert not found, "\n".join(found)


def imported_modules(source: str, modules: set[str]) -> set[str]:
    """Return the ones of `modules` that a module imports, wherever it does so."""
    names = {name for name, _ in imported_names(source)}
    return (names | {name.rpartition(".")[0] for name in names}) & modules


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; empty if there is none."""
    left = dict(imports)
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        if not free:
            return sorted(left)
        left = {name: others for name, others in left.items() if name not in free}
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    folder = PACKAGES[package]
    names = {
        ".".join((package, *p.relative_to(folder).with_suffix("").parts)): p
        for p in modules_of(folder)
    }
    imports = {
        name: imported_modules(path.read_text("utf-8"), set(names)) - {name}
        for name, path in names.items()
    }
    assert not circle(imports)


@pytest.mark.parametrize("package", ["numclip", "numclip_runtime", "numclip_export"])
def test_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "numclip.cli", "--help"],  # as torchrun starts it
        ["-c", "from numclip.cli import main; main(['--help'])"],
        ["-c", "from numclip_runtime.cli import main; main(['--help'])"],
        ["-c", "from numclip_export.cli import main; main(['--help'])"],
        ["-c", "from numclip_runtime.report import write_report"],
        ["benchmarks/latency.py", "--help"],
        ["benchmarks/folder.py", "--help"],
        ["benchmarks/memory.py", "--help"],
        ["benchmarks/object_store.py", "--help"],
        ["benchmarks/decode.py", "--help"],
        ["benchmarks/distillation.py", "--help"],
        ["benchmarks/install.py", "--help"],
        ["benchmarks/timeline.py", "--help"],
        ["benchmarks/training.py", "--help"],
        ["benchmarks/serve.py", "--help"],
    ],
    ids=lambda command: command[-1] if command[0] == "-c" else command[-2],
)
def test_paths_that_people_type(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--help" not in command or "Usage:" in done.stdout


def test_the_guards_catch() -> None:
    assert crowded({"a": 17, "b": 16}) == ["a: 17 modules"]
    assert twice([("a.py", "x/a.py"), ("b.py", "b.py"), ("a.py", "a.py")]) == ["a.py: x/a.py, a.py"]
    source = "A = 1\nB: int = 2\n_C = 3\ndef f(): g = 1\nclass D: e = 1\nX, Y = 1, 2\n"
    assert list(public_definitions(source)) == ["A", "B", "f", "D", "X", "Y"]
    floors = (("errors",), ("task", "files"), ("app",))
    for text in ("from p.app import x", "import p.files", "from p import app"):
        assert upward(f"def f():\n    {text}", "task", "p", floors) == [
            f"line 2: task imports {text.split('.')[-1].split()[0] if '.' in text else 'app'}, "
            "which is not on a lower floor"
        ]
    assert imported_modules("def f():\n    from p import a, b", {"p.a", "p.c"}) == {"p.a"}
    assert circle({"a": {"b"}, "b": set(), "c": {"a"}}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert upward("from p.errors import x\nfrom p.task import y", "task", "p", floors) == []
