"""Build a release in dist/, and prove it: `make release`.

    python .ci/release.py               # refuses unless version, changelog and citation agree
    python .ci/release.py --rehearse    # the same steps, whatever they say

Both archives are built and checked with twine. The wheel that the sdist builds holds the same files
as the one that is built here. The runtime's tests run on the wheel in an environment of its own. It
uploads nothing; the last lines say how to.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
VERSION = ROOT / "runtime" / "numclip_runtime" / "__init__.py"


def found(pattern: str, file: Path) -> str | None:
    """Return what a pattern's group finds in a file, at the start of a line."""
    match = re.search(pattern, file.read_text("utf-8"), re.MULTILINE)
    return match and match[1]


def disagreements(root: Path = ROOT) -> list[str]:
    """Return a sentence for everything that does not know of the version to be released."""
    version = found(r'^__version__ = "(.+)"', root / VERSION.relative_to(ROOT))
    cited = found(r"^version: (.+)", root / "CITATION.cff")
    problems = []
    if cited != version:
        problems.append(f"CITATION.cff: is of version {cited}, the package of {version}.")
    if found(r"^date-released: (\d{4}-\d\d-\d\d)$", root / "CITATION.cff") is None:
        problems.append("CITATION.cff: needs `date-released: YYYY-MM-DD`.")
    if (
        found(rf"^## \[({re.escape(str(version))})\] - \d{{4}}-\d\d-\d\d$", root / "CHANGELOG.md")
        is None
    ):
        problems.append(
            f"CHANGELOG.md: has no heading `## [{version}] - YYYY-MM-DD`; rename [Unreleased]."
        )
    return problems


def run(*command: object, folder: Path = ROOT) -> None:
    """Print and run a command."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    subprocess.run(words, cwd=folder, check=True)


def build(kind: str, source: Path, dist: Path) -> Path:
    """Build an archive, and return it."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", dist, folder=source)
    (archive,) = dist.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind])
    return archive


def contents(wheel: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist()}


def main() -> int:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="whatever the changelog says")
    rehearse = parser.parse_args().rehearse
    if (problems := disagreements()) and not rehearse:
        print("\n".join(problems), file=sys.stderr)
        return 2
    shutil.rmtree(DIST, ignore_errors=True)
    wheel, sdist = (build(kind, ROOT, DIST) for kind in ("wheel", "sdist"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = folder.iterdir()
        again = build("wheel", source, folder)
        if contents(again) != contents(wheel):
            differ = sorted(dict(contents(again).items() ^ contents(wheel).items()))
            print(f"{sdist.name}: builds another wheel: {', '.join(differ)}", file=sys.stderr)
            return 1
        # the tests that travel with the sdist, on the wheel that it builds
        tests = [sys.executable, source / ".ci/wheel_tests.py", "--constraint", "--wheel", again]
        run(*tests, folder=source)
    print("\nReady in dist/:")
    for path in (wheel, sdist):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    version = found(r'^__version__ = "(.+)"', VERSION)
    print(f"Next: git tag v{version}, push the tag, and twine upload {wheel} {sdist}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"This failed: {' '.join(error.cmd)}")
