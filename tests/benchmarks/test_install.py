"""Measuring an install, offline: a wheel made on the spot stands for ours."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import numclip_runtime
from benchmarks import install
from benchmarks.install import (
    Install,
    Package,
    import_ms,
    inspect_packages,
    install_table,
    measure_install,
)
from numclip_runtime.errors import NumclipError

ONE = Install(
    "3.13.0", [Package("big", "2.0", 60.04), Package("small", "1", 0.3)], 9.71, 3.02, None, 60.34
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Return a wheel whose only module holds 1,000,000 bytes, and takes 50 ms to import."""
    path = tmp_path / "heavy-1.5-py3-none-any.whl"
    code = "import time\ntime.sleep(0.05)\n"
    info = "heavy-1.5.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("heavy.py", code.ljust(1_000_000, "#"))
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: heavy\nVersion: 1.5\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


def test_install_into_fresh_environments(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    monkeypatch.setattr(install, "IMPORTS", ("heavy",))
    monkeypatch.setattr(install, "RUNS", 3)
    one = measure_install(sys.executable, str(wheel), ["--no-index", "--no-deps"])
    assert one.python == sys.version.split()[0]
    (package,) = one.packages  # neither pip nor what this environment holds
    assert (package.name, package.version) == ("heavy", "1.5")
    assert 1.0 < one.mb < 1.01  # the module, its bytecode, and a few lines of metadata
    assert one.cold_s > 0
    assert one.warm_s > 0
    assert one.import_ms is not None
    assert one.import_ms >= 50


def test_packages_come_largest_first() -> None:
    version, packages = inspect_packages(Path(sys.executable))
    assert version == sys.version.split()[0]
    sizes = [package.mb for package in packages]
    assert sizes == sorted(sizes, reverse=True)
    assert {"numpy", "pillow", "onnxruntime"} <= {package.name.lower() for package in packages}


def test_no_import_time_where_a_module_is_missing() -> None:
    assert import_ms(Path(sys.executable), ["json", "no_such_module"]) is None


def test_table_sums_the_packages_up() -> None:
    header, row, _, *packages = install_table([ONE]).splitlines()
    assert header.split() == ["Python", "packages", "MB", "cold", "s", "warm", "s", "imports", "ms"]
    assert row.split() == ["3.13.0", "2", "60.3", "9.7", "3.0", "-"]
    assert packages == ["   60.0 MB  big 2.0", "    0.3 MB  small 1"]


@pytest.mark.parametrize(
    ("python", "message"),
    [("no-such-python", "no-such-python: no such command"), (sys.executable, "failed (ERROR: ")],
)
def test_what_cannot_be_installed_is_an_error(python: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    with pytest.raises(NumclipError) as caught:
        measure_install(python, str(tmp_path / "missing.whl"), ["--no-index"])
    assert message in str(caught.value)


def test_command_installs_this_checkout_and_writes_all_figures(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    command = [sys.executable, "--pip=--no-index", "--pip=--no-deps", "--json"]
    result = CliRunner().invoke(install.main, [*command, str(tmp_path / "x.json")])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("wheel: ")
    (one,) = json.loads((tmp_path / "x.json").read_text())["results"]
    (package,) = one["packages"]
    assert (package["name"], package["version"]) == ("numclip", numclip_runtime.__version__)
    assert one["mb"] == package["mb"] < 5  # and bytecode
    assert one["import_ms"] is None  # nothing that it imports was installed


def test_script_runs_from_the_repository() -> None:
    script = Path(install.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
    )
    assert "PYTHON..." in done.stdout
