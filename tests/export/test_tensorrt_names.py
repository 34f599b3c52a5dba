"""Every TensorRT name that numclip uses exists in all versions that it supports.

TensorRT's own engines cannot be built without a GPU, but a misspelt or removed name would fail
there first. So the names are read off the source (AST) and looked up in tests/data/
tensorrt_names.json, which tests/data/make_tensorrt_names.py makes by importing the Python packages
of TensorRT 10.3 (JetPack 6) to 11.4 and TensorRT-RTX 1.4 to 1.7.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "export" / "numclip_export" / "engine"
BACKEND = ROOT / "runtime" / "numclip_runtime" / "backends" / "tensorrt"
LISTING: dict[str, Any] = json.loads((ROOT / "tests/data/tensorrt_names.json").read_text("utf-8"))
VERSIONS = list(LISTING["only"])

# What a variable or attribute of this name holds, everywhere in both packages.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "tensor": "ITensor",
    "image": "ITensor",
    "parser_error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "execution": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
}
# Files for one builder only. RTX also has what is used on it alone; see `set_compute_capabilities`.
RTX_ONLY = {"bindings.py", "rtx.py"}
OWN = {"__version__", "__name__", "__members__", "__init__"}  # Python's
# Files in which a name above is something else.
NOT_TENSORRT = {"build_options.py", "turing.py"}
# Files that the package that only runs engines must serve as well.
RUNNER = tuple(file for file in BACKEND.glob("*.py") if file.name not in RTX_ONLY)


def names_in(version: str, owner: str) -> set[str]:
    return {*LISTING["everywhere"].get(owner, ()), *LISTING["only"][version].get(owner, ())}


def used(source: str) -> Iterator[tuple[str, str]]:
    """Yield (class, name) for what a source takes from TensorRT; ("", class) for the classes."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner == "trt":
            yield "", node.attr
        elif owner.startswith("trt."):
            yield owner.removeprefix("trt."), node.attr
        elif owner.endswith("info.engine"):  # EngineFacts
            continue
        elif (variable := owner.rpartition(".")[2].lstrip("_")) in CLASSES:
            yield CLASSES[variable], node.attr


def used_in(*, rtx: bool) -> set[tuple[str, str]]:
    """Return what is used on every builder, or what on TensorRT-RTX only."""
    files = [f for f in ENGINE.glob("*.py") if f.name not in NOT_TENSORRT]
    files += [*RUNNER, BACKEND / "rtx.py"]
    return used_by(f for f in files if (f.name in RTX_ONLY) == rtx)


def used_by(files: Iterable[Path]) -> set[tuple[str, str]]:
    """Return what files use."""
    names = {name for file in files for name in used(file.read_text("utf-8"))}
    return {(owner, name) for owner, name in names if name not in OWN}


def missing(version: str, names: set[tuple[str, str]]) -> list[str]:
    lost = {f"{owner or 'trt'}.{name}" for owner, name in names if not exists(version, owner, name)}
    return sorted(lost)


def exists(version: str, owner: str, name: str) -> bool:
    return name in names_in(version, owner) or f"{owner}.{name}" in LISTING["everywhere"]


@pytest.mark.parametrize("version", VERSIONS)
def test_listed_versions_have_every_name(version: str) -> None:
    assert missing(version, used_in(rtx=False)) == []
    if version.startswith("tensorrt_rtx"):
        assert missing(version, used_in(rtx=True)) == []


@pytest.mark.parametrize("version", LISTING["lean"])
def test_the_lean_package_has_what_runs_engines(version: str) -> None:
    offered = LISTING["lean"][version]
    names = used_by(RUNNER)
    assert [f"{o}.{n}" for o, n in names if n not in offered[o] and f"{o}.{n}" not in offered] == []
    assert ("Runtime", "engine_host_code_allowed") in names


def test_installed_version_has_every_name() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for owner, name in used_in(rtx=False) | used_in(rtx=True):
        place = trt
        for part in owner.split(".") if owner else ():
            place = getattr(place, part)
        assert hasattr(place, name), f"{owner or 'trt'}.{name}"


def test_names_are_found() -> None:
    names = used_in(rtx=False)
    assert {  # one of each way to use a name
        ("", "IProgressMonitor"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),  # what TensorRT 10 needs to be told
        ("ILogger.Severity", "ERROR"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IBuilderConfig", "progress_monitor"),
        ("INetworkDefinition", "name"),
        ("ParserError", "node_operator"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("DataType", "UINT8"),
    } <= names
    rtx_names = used_in(rtx=True)
    assert set(CLASSES.values()) <= {owner for owner, _ in names | rtx_names}
    assert ("IBuilderConfig", "num_compute_capabilities") in rtx_names
    assert ("ICudaEngine", "create_runtime_config") in rtx_names


def test_the_monitor_has_the_methods_of_every_version() -> None:
    tree = ast.parse((ENGINE / "progress.py").read_text("utf-8"))
    (monitor,) = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "Monitor")
    methods = {n.name for n in monitor.body if isinstance(n, ast.FunctionDef)} - {"__init__"}
    assert methods == set(LISTING["everywhere"]["IProgressMonitor"])


@pytest.mark.parametrize(
    ("source", "version", "lost"),
    [
        ("config.int8_calibrator = 1", "tensorrt 11.4.0.106", ["IBuilderConfig.int8_calibrator"]),
        ("config.int8_calibrator = 1", "tensorrt 10.3.0", []),
        ("trt.BuilderFlag.FP16", "tensorrt 11.0.0.114", ["BuilderFlag.FP16"]),
        ("f(binding.parser.parse_fromfile(p))", "tensorrt 10.3.0", ["OnnxParser.parse_fromfile"]),
        ("trt.ComputeCapability.SM86", "tensorrt 10.16.1.11", ["trt.ComputeCapability"]),
        ("trt.ComputeCapability.SM86", "tensorrt_rtx 1.4.0.76", []),
    ],
)
def test_a_lost_name_is_noticed(source: str, version: str, lost: list[str]) -> None:
    found = missing(version, set(used(source)))
    assert [name for name in found if not name.startswith("ComputeCapability.")] == lost
