"""`numclip-run doctor`: the machine, the providers, and whether a model can run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from numclip_runtime.app.doctor.packages import PACKAGES, installed_packages
from numclip_runtime.app.doctor.providers import TINY_MODEL, ProviderCheck, check_providers
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver
from tests.runtime.conftest import invoke


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="module")
def tried() -> tuple[list[ProviderCheck], str | None]:
    return check_providers()


@pytest.fixture(autouse=True)
def tried_once(
    monkeypatch: pytest.MonkeyPatch, tried: tuple[list[ProviderCheck], str | None]
) -> None:
    """Try the providers, in processes that take a second, once for all tests of this process."""
    monkeypatch.setattr("numclip_runtime.app.doctor.command.check_providers", lambda: tried)


def test_model_that_can_run(tiny: Path) -> None:
    result = invoke("doctor", tiny)
    assert result.exit_code == 0
    assert result.stdout.endswith(f"\nThis machine can run {tiny}.\n")
    lines = (re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    rows = {line[0]: line[-1] for line in lines}
    assert rows["task"] == "brightness, 0 to 30 points in 3 bins"
    assert rows["precision"] == "fp32"
    assert rows["input"] == "RGB, 8 x 8"
    assert rows["runs with"] == "onnxruntime, CPUExecutionProvider"
    assert rows["a grey image"] == "reads 15.0501 points"
    assert rows["CPUExecutionProvider"] == "works"


def test_json_says_the_same(tiny: Path) -> None:
    result = invoke("doctor", "--json", tiny)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["can_run"] is True
    assert found["model"]["facts"]["precision"] == "fp32"
    assert set(found["packages"]) == set(PACKAGES)
    assert {"name": "CPUExecutionProvider", "problem": None} in found["providers"]
    assert found["machine"]["cores"] >= 1


def test_without_a_model() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "\nThis machine can run models.\n" in result.stdout
    assert "Azure" not in result.stdout  # it sends images to a server


def test_model_of_others(foreign: Path) -> None:
    result = invoke("doctor", foreign)
    assert result.exit_code == 1
    verdict, problem = result.stdout.splitlines()[-2:]
    assert verdict == f"This machine cannot run {foreign}."
    assert problem.startswith(f"Problem: {foreign}: holds no numclip metadata")
    assert problem.endswith("make the file with `numclip-export --ckpt x.pt`.")


def test_broken_model_ends_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"half a download")
    result = invoke("doctor", tmp_path / "a.onnx")
    assert result.exit_code == 1
    verdict, problem, advice = result.stdout.splitlines()[-3:]
    assert verdict == f"This machine cannot run {tmp_path / 'a.onnx'}."
    assert problem.startswith("Problem: ")
    assert advice == "Try: Copy the file again, or export it again with numclip-export."


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["gone.onnx"], "Error: gone.onnx: no such file"),
        (["."], "Error: .: is a folder; give the model file inside it.\n"),
        (["a", "b"], "unexpected extra argument"),
        (["--what"], "No such option"),
    ],
)
def test_wrong_use(args: list[str], message: str) -> None:
    result = invoke("doctor", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_doctor_is_the_first_word_only(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctor").write_bytes((photos / "dark.png").read_bytes())
    result = invoke(tiny, "doctor")  # an image of this name
    assert (result.exit_code, json.loads(result.stdout)["path"]) == (0, "doctor")
    result = invoke("./doctor", photos)  # a model of this name: not a good one
    assert result.exit_code == 2
    assert "unknown kind of model" in result.stderr
    assert "Usage: main doctor [OPTIONS] [MODEL]" in invoke("doctor", "-h").stdout


@pytest.mark.parametrize("openvino", [None, "2026.4.1"])
def test_missing_onnxruntime(tmp_path: Path, tiny: Path, openvino: str | None) -> None:
    """A Python that has no onnxruntime: the advice is the command that installs it."""
    write(tmp_path, {"onnxruntime/__init__.py": "raise ImportError('none')"})
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import numclip_runtime.app.doctor.command as command\n"
        f"found = {{**command.installed_packages(), 'openvino': {openvino!r}}}\n"
        "command.installed_packages = lambda: found\n"
        "from numclip_runtime.app.cli import main; main()"
    )

    def doctor(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "doctor", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    done = doctor(tiny)
    assert done.returncode == 1
    assert "Problem: onnxruntime is not installed.\n" in done.stdout
    assert "Try: pip install 'numclip[" in done.stdout
    assert (f"numclip-run --backend openvino {tiny} IMAGES" in done.stdout) == bool(openvino)

    done = doctor()
    if openvino:  # a backend of its own
        assert done.returncode == 0
        assert "\nThis machine can run models.\n" in done.stdout
    else:
        assert done.returncode == 1
        assert "\nThis machine cannot run any model.\nProblem: No inference" in done.stdout


def test_the_tiny_model_is_what_its_comments_say() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(TINY_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == TINY_MODEL
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_providers_are_tried_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A provider that is listed, and then falls back, crashes or raises, does not work."""
    fake = (
        "import sys, os\n"
        "ready = False\n"
        "def preload_dlls():\n"
        "    global ready\n"
        "    ready = True\n"
        "    print('noise')\n"
        "def get_available_providers(): return ['Good', 'Falls', 'Crashes', 'Raises']\n"
        "class InferenceSession:\n"
        "    def __init__(self, model, providers):\n"
        "        assert ready, 'pip has the libraries of CUDA, and they are not loaded'\n"
        "        self.name = providers[0]\n"
        "        if self.name == 'Crashes': os.kill(os.getpid(), 11)\n"
        "        if self.name == 'Raises': raise RuntimeError('no stream')\n"
        "    def run(self, names, feeds):\n"
        "        import numpy\n"
        "        return [numpy.maximum(feeds['x'], 0)]\n"
        "    def get_providers(self):\n"
        "        if self.name == 'Good': return ['Good', 'CPU']\n"
        "        print('\\x1b[1;31m2026 [E:onnx] x.cc Failed to load library p.so with error: '\n"
        "              'libcublas.so.12: cannot open shared object file\\x1b[m', file=sys.stderr)\n"
        "        print('later noise', file=sys.stderr)\n"
        "        return ['CPU']\n"
    )
    write(tmp_path, {"onnxruntime.py": fake})
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    checks, reason = check_providers()
    assert reason is None
    assert {check.name: check.problem for check in checks} == {
        "Good": None,
        "Falls": "libcublas.so.12: cannot open shared object file",
        "Crashes": "crashed (signal 11)",
        "Raises": "RuntimeError: no stream",
    }


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from numclip_runtime.app.doctor.command import diagnose\n"
        "diagnose()\n"
        "heavy = 'torch tensorrt tensorrt_rtx onnxruntime openvino av pyarrow'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_packages() -> None:
    found = installed_packages()
    assert found["numpy"] is not None
    assert found["onnxruntime"] or found["onnxruntime-gpu"]


@pytest.mark.parametrize(
    ("installed", "cuda", "model", "advice"),
    [
        ("onnxruntime", None, "", "Try: The GPU, with ONNX files: pip uninstall onnxruntime && "),
        ("onnxruntime", None, "a.plan", ""),
        ("onnxruntime-gpu", "libx.so: cannot open shared object", "", "Try: The libraries of CUDA"),
        ("onnxruntime-gpu", "works", "", ""),
    ],
)
def test_a_gpu_that_onnxruntime_does_not_use(
    installed: str,
    cuda: str | None,
    model: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine's part, its packages and providers are given; the advice is under test."""
    where = "numclip_runtime.app.doctor.command."
    checks = [ProviderCheck("CPUExecutionProvider", None)]
    if cuda is not None:
        checks.insert(0, ProviderCheck("CUDAExecutionProvider", None if cuda == "works" else cuda))
    driver = CudaDriver((CudaDevice("NVIDIA GeForce RTX 3090", 86),), (13, 0))
    packages = {**dict.fromkeys(PACKAGES), installed: "1.31.1"}
    monkeypatch.setattr(where + "probe_cuda", lambda: driver)
    monkeypatch.setattr(where + "installed_packages", lambda: packages)
    monkeypatch.setattr(where + "check_providers", lambda: (checks, None))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    if model:
        (tmp_path / model).touch()
    last = invoke("doctor", *([tmp_path / model] if model else [])).stdout.splitlines()[-1]
    assert last.startswith(advice) if advice else not last.startswith("Try: ")
