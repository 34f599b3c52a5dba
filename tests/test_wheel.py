"""The wheel holds the three packages, their data files, and nothing else."""

import importlib.metadata
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import numclip_runtime

ROOT = Path(__file__).parent.parent
PACKAGES = {"numclip", "numclip_export", "numclip_runtime"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_puts_only_the_three_packages_into_site_packages(names: list[str]) -> None:
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_wheel_holds_every_source_and_data_file(names: list[str], package: str) -> None:
    folder = next(f for f in (ROOT, ROOT / "export", ROOT / "runtime") if (f / package).is_dir())
    files = {
        path.relative_to(folder).as_posix()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == {name for name in names if name.startswith(f"{package}/")}
    assert f"{package}/py.typed" in files


@pytest.fixture
def release() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "release.py"))


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        (
            "CITATION.cff",
            "version: 1.2.3",
            "version: 1.2.2",
            "is of version 1.2.2, the package of 1.2.3",
        ),
        ("CITATION.cff", "date-released", "# date", "needs `date-released: YYYY-MM-DD`"),
        ("CHANGELOG.md", "## [1.2.3]", "## [Unreleased]", "no heading `## [1.2.3] - YYYY-MM-DD`"),
    ],
)
def test_a_release_that_contradicts_itself(
    tmp_path: Path, release: dict[str, Any], file: str, before: str, after: str, said: str
) -> None:
    (tmp_path / "runtime" / "numclip_runtime").mkdir(parents=True)
    (tmp_path / "runtime" / "numclip_runtime" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\ndate-released: 2030-01-31\n")
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.3] - 2030-01-31\n")
    assert release["disagreements"](tmp_path) == []
    (tmp_path / file).write_text((tmp_path / file).read_text("utf-8").replace(before, after))
    (problem,) = release["disagreements"](tmp_path)
    assert problem.startswith(f"{file}: ")
    assert said in problem


def test_the_version_has_one_home(release: dict[str, Any]) -> None:
    assert importlib.metadata.version("numclip") == numclip_runtime.__version__
    cited = release["found"](r"^version: (.+)", ROOT / "CITATION.cff")
    assert cited == numclip_runtime.__version__
