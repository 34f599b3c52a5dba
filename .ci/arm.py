"""Run the runtime on emulated ARM CPUs: `make arm-test`. Needs Debian.

    python .ci/arm.py values                # INT8 with and without KleidiAI, on six kinds of CPU
    python .ci/arm.py tests                 # tests/runtime; or what pytest is told
    QEMU_CPU=neoverse-n1 python .ci/arm.py tests tests/runtime/test_load.py

QEMU, Python and its libraries come from Debian into build/arm, packages from PyPI; nothing is
installed. `values` fails where KleidiAI makes a difference that it should not make. With --plugin
it also counts the instructions of one inference. A count is not a time: instructions differ in
what they cost, and an emulator shows neither caches nor clocks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
HOME = ROOT / "build" / "arm"
SUITE, PYTHON = "trixie", "3.13"  # its QEMU is 10.0; with 7.2, SME's products are wrong
LIBRARIES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libbz2-1.0", "libffi8"),
    *("liblzma5", "libssl3t64", "libzstd1", "libsqlite3-0", "libuuid1", "libreadline8t64"),
    *("libtinfo6", "libncursesw6"),
)
TAGS = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 26, 17)] + ["manylinux2014_aarch64"]
TOOLS = ("pytest", "hypothesis")
# name of QEMU -> what its CPU has for INT8
CPUS = {
    "cortex-a72": "neither dot products nor i8mm",
    "neoverse-n1": "dot products",
    "neoverse-v1": "dot products, i8mm",
    "max,sme=off": "dot products, i8mm, SVE2",
    "max": "SME, vectors of 256 bits",
    "max,sme-default-vector-length=64": "SME, vectors of 512 bits",
}
IMAGES, REPEATS = 4, 2  # of PREDICT
APART, ROUNDED = 0.1, 0.5  # label units of 101, from this machine's; KleidiAI rounds differently
Counted: TypeAlias = tuple[list[float], int]
# Arguments: model, whether KleidiAI is used ("True", "False")
PREDICT = """
import json, os, sys
import numpy as np
from PIL import Image
import numclip_runtime.backends.onnxruntime as backend
from numclip_runtime import load

model, kleidiai = sys.argv[1:]
backend.may_have_sme = lambda: kleidiai == "False"
random = np.random.default_rng(0)
with load(model, threads=1, device="cpu") as predictor:
    pixels = random.integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
    images = [Image.fromarray(each.repeat(32, 0).repeat(32, 1)) for each in pixels]
    inputs = [predictor.preprocess(image)[None] for image in images][: int(os.environ["RUNS"])]
    print(json.dumps([predictor.predict_inputs(each)[0].value for each in inputs]))
"""


def run(*command: object, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it writes to stdout."""
    words = [str(word) for word in command]
    environment = os.environ | (env or {})
    return subprocess.run(
        words, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def download(folder: Path) -> None:
    """Unpack QEMU for this machine, and Python for ARM, from Debian's archive."""
    shown = "$(ORIGIN) $(COMPONENT) $(REPO_URI)"
    lines = run("apt-get", "indextargets", "--format", shown, "Created-By: Packages").splitlines()
    archives = [line.split()[2] for line in lines if line.startswith("Debian main ")]
    if not archives:
        sys.exit("apt-get knows no archive of Debian; run this in Debian, after apt-get update.")
    apt = folder / "apt"
    for name in ("lists/partial", "archives/partial", "sources", "debs"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources" / "debian.sources").write_text(
        f"Types: deb\nURIs: {archives[0]}\nSuites: {SUITE}\nComponents: main\nSigned-By: {key}\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::State "{apt}"; Dir::State::status "{apt}/status"; Dir::State::lists "{apt}/lists";'
        f'Dir::Cache "{apt}"; Dir::Etc::sourcelist "/dev/null";'
        f'Dir::Etc::sourceparts "{apt}/sources"; Dir::Etc::preferencesparts "/dev/null";'
        'APT::Architectures {"amd64"; "arm64";}; APT::Sandbox::User "";'
    )
    python = [f"python{PYTHON}{part}" for part in ("", "-minimal")]
    python += [f"libpython{PYTHON}-{part}" for part in ("minimal", "stdlib")]
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True)
    wanted = ["qemu-user:amd64", *(f"{name}:arm64" for name in (*python, *LIBRARIES))]
    command = ["apt-get", "-qq", "download", *wanted]
    subprocess.run(command, cwd=apt / "debs", env=environment, check=True)
    for package in (apt / "debs").glob("*.deb"):
        run("dpkg-deb", "-x", package, folder / ("host" if "amd64" in package.name else "root"))
    (folder / "host/usr/bin/qemu-aarch64").rename(HOME / "qemu-aarch64")
    (folder / "root/lib").symlink_to("usr/lib")  # which an installed Debian has
    cpus = folder / "root/sys/devices/system/cpu"  # onnxruntime asks for them
    cpus.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text("0\n")
    (folder / "root").rename(HOME / "root")


def install(qemu: Path) -> Path:
    """Make an environment with the runtime's wheel in it; return its Python."""
    venv, root = HOME / "venv", HOME / "root"
    shutil.rmtree(venv, ignore_errors=True)
    site, python = venv / f"lib/python{PYTHON}/site-packages", venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\n")
    real = root / "usr/bin" / f"python{PYTHON}"
    python.write_text(f'#!/bin/sh\nexec "{qemu}" -L "{root}" -0 "$0" "{real}" "$@"\n')
    python.chmod(0o755)
    with tempfile.TemporaryDirectory() as dist:
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist)
        (wheel,) = Path(dist).glob("*.whl")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site]
        pip += ["--constraint", "constraints.txt", "--only-binary", ":all:"]
        platforms = [word for tag in TAGS for word in ("--platform", tag)]
        run(*pip, "--python-version", PYTHON, *platforms, f"{wheel}[cpu]", *TOOLS)
    for script in (site / "bin").iterdir():  # for this machine's Python
        text = re.sub(r"^#!.*", f"#!{python}", script.read_text("utf-8"), count=1)
        (python.parent / script.name).write_text(text, "utf-8")
        (python.parent / script.name).chmod(0o755)
    return python


def run_tests(python: Path, words: list[str]) -> int:
    """Run the runtime's tests, and return pytest's exit code."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        sys.exit(
            "The stand-in for CUDA's driver is compiled: apt-get install gcc-aarch64-linux-gnu"
        )
    (python.parent / "cc").unlink(missing_ok=True)
    (python.parent / "cc").symlink_to(compiler)
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(words or ["tests/runtime"]),
    ]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, check=False)
    return done.returncode


def predict(python: object, model: Path, kleidiai: bool, **environment: str) -> list[float]:
    """Return a model's values for IMAGES made images, each run by itself."""
    given = {"RUNS": str(IMAGES)} | environment
    values: list[float] = json.loads(run(python, "-c", PREDICT, model, kleidiai, env=given))
    return values


def count(python: Path, plugin: Path, model: Path, kleidiai: bool, cpu: str) -> Counted:
    """Return the values, and the instructions of one inference: the start cancels out.

    Of REPEATS runs the one with the fewest counts: some spend a billion more in their start.
    """
    fewest = []
    for runs in (IMAGES // 2, IMAGES):
        totals = []
        for _ in range(REPEATS):
            with tempfile.NamedTemporaryFile("r") as log:
                logged = {"QEMU_LOG": "plugin", "QEMU_LOG_FILENAME": log.name, "QEMU_CPU": cpu}
                counted = logged | {"QEMU_PLUGIN": f"{plugin},inline=on"}
                values = predict(python, model, kleidiai, RUNS=str(runs), **counted)
                found = re.search(r"total insns: (\d+)", log.read())
            if found is None:
                sys.exit(f"{plugin} counted nothing; is it QEMU's libinsn.so?")
            totals.append(int(found[1]))
        fewest.append(min(totals))
    return values, (fewest[1] - fewest[0]) // (IMAGES - IMAGES // 2)


def largest(values: list[float], others: list[float]) -> float:
    """Return the largest difference, in label units."""
    return round(max(abs(one - other) for one, other in zip(values, others, strict=True)), 6)


def compare(
    python: Path, model: Path, plugin: Path | None, cpus: list[str]
) -> tuple[list[dict[str, Any]], int]:
    """Return a row for each CPU, with KleidiAI and without, and how many are wrong."""
    here = predict(sys.executable, model, kleidiai=False)
    exact = model.with_name(model.name.replace(".int8", ""))
    exact_values = predict(sys.executable, exact, kleidiai=False) if exact.is_file() else None
    rows, wrong = [], 0
    for cpu in cpus:
        instructions = CPUS[cpu]
        without: list[float] = []
        for kleidiai in (False, True):
            counted = None
            if plugin is None:
                values = predict(python, model, kleidiai, QEMU_CPU=cpu)
            else:
                values, counted = count(python, plugin, model, kleidiai, cpu)
            row: dict[str, Any] = {"model": model.name, "cpu": cpu, "has": instructions}
            row |= {"kleidiai": kleidiai, "from_here": largest(values, here)}
            if exact_values is not None:
                row["from_fp32"] = largest(values, exact_values)
            without = without or values
            row["from_without"] = largest(values, without)
            if counted is not None:
                row["instructions"] = counted
            sme = kleidiai and "SME" in instructions
            bad = row["from_here"] > (ROUNDED if sme else APART) or (
                row["from_without"] != 0 and not sme
            )
            wrong += bad
            rows.append(row)
            print("WRONG" if bad else "ok", json.dumps(row), flush=True)
    return rows, wrong


def main() -> int:
    """Make the environment if it is not there, and run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["values", "tests"])
    parser.add_argument("--model", type=Path, action="append", help="an INT8 file; default: made")
    parser.add_argument("--qemu", type=Path, help="qemu-aarch64; default: Debian's")
    parser.add_argument("--plugin", type=Path, help="its libinsn.so: count instructions")
    parser.add_argument("--cpu", choices=CPUS, action="append", help="default: all")
    parser.add_argument("--json", type=Path, help="keep the rows of `values`")
    given, words = parser.parse_known_args()
    if words and given.what == "values":
        parser.error(f"unknown: {words[0]}")
    if not (HOME / "root").is_dir():
        HOME.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HOME) as folder:
            download(Path(folder))
    qemu = (given.qemu or HOME / "qemu-aarch64").resolve()
    emulator = run(qemu, "--version").splitlines()[0]
    print(emulator)
    python = install(qemu)
    if given.what == "tests":
        return run_tests(python, words)
    from benchmarks.bench.machine.environment import script_report
    from benchmarks.bench.models import full_size

    made = [] if given.model else full_size("ViT-B-32").models
    models = given.model or [path for path in made if ".int8." in path.name]
    plugin = given.plugin and given.plugin.resolve()
    with script_report(given.json, sys.argv) as write:
        checked = [
            compare(python, model.resolve(), plugin, given.cpu or list(CPUS)) for model in models
        ]
        shown = (
            "import onnxruntime, platform as p; print(p.python_version(), onnxruntime.__version__)"
        )
        emulated = dict(
            zip(("python", "onnxruntime"), run(python, "-c", shown).split(), strict=True)
        )
        write(
            emulator=emulator,
            emulated=emulated,
            unit="label units of 101; instructions of one inference, batch 1, 1 thread: not a time",
            images=IMAGES,
            rows=[row for rows, _ in checked for row in rows],
        )
    return int(any(wrong for _, wrong in checked))


if __name__ == "__main__":
    sys.exit(main())
