"""The notebooks run from the first cell to the last, with one epoch in place of many."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from examples.tasks.draw import TASKS, write_task
from numclip import load_task
from numclip.data.readers import read_samples
from numclip_runtime.preprocess import load_rgb

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "tasks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    for name in ("examples", "pyproject.toml"):  # what it writes lands in tmp_path/demo
        (tmp_path / name).symlink_to(ROOT / name)
    text = path.read_text("utf-8")
    assert text.count("EPOCHS = 40") == 1
    quick = text.replace("EPOCHS = 40", "EPOCHS = 1")
    book = nbformat.reads(quick, as_version=4)  # type: ignore[no-untyped-call]
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = "".join(output.get("text", "") for output in outputs)
    assert "Error" not in shown
    assert "Traceback" not in shown
    assert any("image/png" in output.get("data", {}) for output in outputs)
    if path.stem == "first_model":
        assert "the 90 % interval holds the true number in" in shown
        assert any("text/html" in output.get("data", {}) for output in outputs)
    else:
        lines = shown.splitlines()
        assert all(any(line.startswith(f"{name} ") for line in lines) for name in TASKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path: Path) -> None:
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", TASKS)
def test_a_made_task_fills_its_bins(name: str, tmp_path: Path) -> None:
    write_task(name, tmp_path, train=200, val=3, test=2)
    task = load_task(tmp_path / "task.toml")
    samples = read_samples(tmp_path / "train.csv", task)
    assert {task.bin_of(sample.label) for sample in samples} == set(range(len(task.phrases)))
    assert len({load_rgb(sample.image).tobytes() for sample in samples}) == 200
    write_task(name, tmp_path / "again", train=200, val=3, test=2)
    for part in ("train.csv", "test.csv", "images/test-001.png"):
        assert (tmp_path / part).read_bytes() == (tmp_path / "again" / part).read_bytes()
