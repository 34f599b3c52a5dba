"""What can be chosen about an engine, and which builder is taken; no TensorRT is needed here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from numclip_export.engine.bindings import load_binding
from numclip_export.engine.build_options import EngineOptions
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver

GPU = CudaDriver((CudaDevice("GPU", 87),), (12, 6))
NO_GPU = CudaDriver(problem="no NVIDIA driver")


@pytest.mark.parametrize(
    ("given", "fixed", "expected"),
    [
        ({}, None, (1, 8, 32)),
        ({}, 4, (4, 4, 4)),
        ({"max_batch": 4}, None, (1, 4, 4)),
        ({"min_batch": 12}, None, (12, 12, 32)),
        ({"min_batch": 64}, None, (64, 64, 64)),
        ({"min_batch": 1, "opt_batch": 1, "max_batch": 1}, None, (1, 1, 1)),
        ({"min_batch": 4, "max_batch": 4}, 4, (4, 4, 4)),
    ],
)
def test_batches(given: dict[str, int], fixed: int | None, expected: tuple[int, int, int]) -> None:
    assert EngineOptions(**given).batches(fixed) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"min_batch": 9, "opt_batch": 8},
        {"opt_batch": 33},
        {"min_batch": 5, "max_batch": 4},
        {"min_batch": 0},
    ],
)
def test_batches_out_of_order(given: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="batches must be 1 <= --min-batch <= --opt-batch"):
        EngineOptions(**given)  # type: ignore[arg-type]


def test_compute_capabilities_are_a_set() -> None:
    assert EngineOptions(compute_capabilities=(89, 86, 89)).compute_capabilities == (86, 89)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cuda"}, "unknown --target 'cuda'"),
        ({"workspace_mib": 0}, "--workspace-mib must be at least 1"),
    ],
)
def test_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions("tensorrt-rtx", version_compatible=True), "no version-compatible engines"),
        (EngineOptions("tensorrt-rtx", hardware_compatible=True), "--hardware-compatible out"),
        (EngineOptions("tensorrt", compute_capabilities=(86,)), "--compute-capability out"),
    ],
)
def test_what_a_builder_cannot_do(options: EngineOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_binding(options, GPU)


def packages(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Make the two TensorRT modules what the sources say; those not given are not installed."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)  # undone at the end, whatever is loaded
        if name in sources:
            monkeypatch.delitem(sys.modules, name)
            (folder / f"{name}.py").write_text(sources[name])
    monkeypatch.syspath_prepend(folder)


VERSION = """
__version__ = '10.3.0'
class ComputeCapability: __members__ = {'SM86': 0}
"""


@pytest.mark.parametrize(
    ("options", "installed", "driver", "expected"),
    [
        (EngineOptions(), ("tensorrt", "tensorrt_rtx"), GPU, ("tensorrt", 87)),
        (EngineOptions(), ("tensorrt", "tensorrt_rtx"), NO_GPU, ("tensorrt-rtx", None)),
        (EngineOptions(), ("tensorrt_rtx",), GPU, ("tensorrt-rtx", 87)),
        (
            EngineOptions(compute_capabilities=(86,)),
            ("tensorrt", "tensorrt_rtx"),
            GPU,
            ("tensorrt-rtx", 87),
        ),
        (EngineOptions("tensorrt-rtx"), ("tensorrt", "tensorrt_rtx"), GPU, ("tensorrt-rtx", 87)),
    ],
)
def test_choice_of_builder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: EngineOptions,
    installed: tuple[str, ...],
    driver: CudaDriver,
    expected: tuple[str, int | None],
) -> None:
    packages(tmp_path, monkeypatch, **dict.fromkeys(installed, VERSION))
    binding = load_binding(options, driver)
    assert (binding.builder, binding.compute_capability) == expected
    assert binding.version == "10.3.0"
    assert binding.module is sys.modules[expected[0].replace("-", "_")]


@pytest.mark.parametrize("target", ["auto", "tensorrt"])
def test_tensorrt_is_not_even_loaded_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    packages(tmp_path, monkeypatch, tensorrt="raise SystemExit('crash')")
    with pytest.raises(UsageError, match=r"and here is no NVIDIA driver; build on the device"):
        load_binding(EngineOptions(target), NO_GPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("auto", r"no TensorRT is installed\. .*numclip\[rtx\].*numclip\[tensorrt\].*JetPack"),
        ("tensorrt", r"tensorrt is not installed; .*pip install 'numclip\[tensorrt\]'.*JetPack"),
        ("tensorrt-rtx", r"tensorrt_rtx is not installed; .*pip install 'numclip\[rtx\]'"),
    ],
)
def test_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    packages(tmp_path, monkeypatch)
    with pytest.raises(MissingDependencyError, match=message):
        load_binding(EngineOptions(target), GPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", ["import no_such_libs", "raise OSError('libnvinfer.so.10: cannot open')"]
)
def test_installed_but_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    packages(tmp_path, monkeypatch, tensorrt=source)
    with pytest.raises(MissingDependencyError, match="tensorrt is installed but does not load"):
        load_binding(EngineOptions("tensorrt"), GPU)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_the_real_one() -> None:
    binding = load_binding(EngineOptions("tensorrt-rtx"))
    assert binding.module.Builder
    assert binding.version == binding.module.__version__
