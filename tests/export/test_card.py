"""The model card: what it says is what the report says, and what lies beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from numclip_export.card import md, model_card
from numclip_export.cli import main
from numclip_runtime.files import sha256
from tests.export.fragile import save_fragile

DATA = Path(__file__).parents[1] / "data"
ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| ([\d.]+) \| `([0-9a-f]{16})` \|$", re.MULTILINE)
INT8 = {
    "file": "x.int8.onnx",
    "precision": "int8",
    "form": "dynamic",
    "int8_layers": 12,
    "calibration": {"source": "validation", "images": 48},
    "accuracy": {"images": 77, "mae_fp32": 2.5, "mae_int8": 2.625},
    "speed": {
        "backend": "onnxruntime X",
        "baseline": "fp32",
        "baseline_ms": 9.5,
        "int8_ms": 4.25,
        "batch": 1,
    },
}
UNMEASURED = {"accuracy": None, "speed": None, "speed_note": "no engine of it runs here"}


@pytest.fixture
def report() -> dict[str, Any]:
    """Return a report of an fp16 export with an engine; its phrases and unit look like markup."""
    loaded: dict[str, Any] = json.loads((DATA / "card.report.json").read_text("utf-8"))
    return loaded


def test_golden(report: dict[str, Any]) -> None:
    """To see what changed: write `model_card(report)` there and look at the diff."""
    assert model_card(report) == (DATA / "card.md").read_text("utf-8")


def int8(report: dict[str, Any]) -> dict[str, Any]:
    half = report["artefacts"][1]
    parity = half["parity"] | {"judged_by": "mean", "value_tolerance": 0.15}
    return report | {"artefacts": [report["artefacts"][0], half | INT8 | {"parity": parity}]}


def unproved(report: dict[str, Any]) -> dict[str, Any]:
    whole = report["artefacts"][0] | {"verified": False, "parity": None}
    before = report["checkpoint"] | {"metrics": {}, "calibration": None}
    del report["engine"]
    return report | {"artefacts": [whole], "checkpoint": before}


def of_groups(report: dict[str, Any]) -> dict[str, Any]:
    before = report["checkpoint"]
    return report | {"checkpoint": before | {"calibration": before["calibration"] | {"groups": 6}}}


@pytest.mark.parametrize(
    ("change", "said", "not_said"),
    [
        (
            of_groups,
            (
                " images of 6 groups: temperature",
                "Intervals hold for images of new groups like the validation images' (at most 86 % "
                "can be promised for these), not for others.",
            ),
            (),
        ),
        (
            int8,
            (
                "0.15 lm/m^2 \\[lux\\] in the mean",
                "- 12 layers, dynamic ranges; calibrated on 48 validation images.",
                "on 77 labelled images: 2.62 lm/m^2 \\[lux\\], in float32 2.5 lm",
                "- One image, lower quartile: 4.25 ms, in fp32 9.50 ms (onnxruntime X; "
                "Fast CPU 9000, 8 logical cores)",
            ),
            ("not measured",),
        ),
        (
            lambda r: int8(r) | {"artefacts": [INT8 | r["artefacts"][1] | INT8 | UNMEASURED]},
            ("Accuracy against labels: not measured.", "- Speed: no engine of it runs here."),
            ("lower quartile",),
        ),
        (
            unproved,
            (
                "| bright\\_1.onnx | not verified | - |",
                "never compared with the checkpoint",
                "The checkpoint holds no metrics.",
                "Not calibrated: predictions have no interval.",
            ),
            ("Compared on", "## What stayed in float32", "## INT8", "tensorrt", "hardware"),
        ),
        (
            lambda r: r | {"task": r["task"] | {"unit": "", "prediction": "class"}},
            ("0.0003 at most", "of the most probable bin.", "From 100 to 130. An", "a number and"),
            ("lux",),
        ),
        (
            lambda r: {key: r[key] for key in r if key != "engine"},
            ("Not verified on the hardware that it is for.",),
            ("On a GPU", "tensorrt", "The engine"),
        ),
    ],
    ids=["groups", "int8", "int8-static", "unproved", "no-unit", "no-engine"],
)
def test_key_facts(
    report: dict[str, Any],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    said: tuple[str, ...],
    not_said: tuple[str, ...],
) -> None:
    card = model_card(change(report))
    for text in said:
        assert text in card
    for text in not_said:
        assert text not in card


def test_nothing_becomes_markup() -> None:
    assert md("a|b*c_d`e<f>[g](h)~i&j$k#l\\m") == (
        "a\\|b\\*c\\_d\\`e\\<f\\>\\[g\\](h)\\~i\\&j\\$k\\#l\\\\m"
    )
    assert md("two\nlines\u202e") == "two\\\\nlines\\\\u202e"
    assert md("°C, naïve (3.5)") == "°C, naïve (3.5)"


def test_names_that_look_like_code(report: dict[str, Any]) -> None:
    report["artefacts"][0]["file"] = "a b'\"```\nc.onnx"
    card = model_card(report)
    assert "\nnumclip-run 'a b'\"'\"'\"```\\nc.onnx' photo.jpg\n" in card
    assert '\nprint(load("a b\'\\"```\\\\nc.onnx").predict("photo.jpg"))\n' in card
    assert not any(line.startswith("c.onnx") for line in card.splitlines())


@pytest.mark.parametrize("target", ["onnx", "tensorrt-rtx"])
def test_files_are_there(tmp_path: Path, target: str) -> None:
    if target == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx")
    ckpt = save_fragile(tmp_path, 1)
    (tmp_path / "x.card.md").write_text("an older card")
    result = CliRunner().invoke(main, ["--ckpt", str(ckpt), "--fp16", "--card", "--target", target])
    assert result.exit_code == 0, result.output
    assert result.output.endswith("x.report.json and x.card.md\n")
    card = (tmp_path / "x.card.md").read_text("utf-8")
    rows = ROW.findall(card)
    names = ["x.pt", "x.onnx", "x.fp16.onnx", *(["x.fp16.plan"] if target != "onnx" else [])]
    assert [name for name, _, _ in rows] == names
    for name, megabytes, digest in rows:
        assert sha256(tmp_path / name).startswith(digest)
        assert float(megabytes) == pytest.approx((tmp_path / name).stat().st_size / 1e6, rel=5e-3)
    report = (tmp_path / "x.report.json").read_text("utf-8")
    assert str(tmp_path) not in card + report  # no folder of this machine
    assert card == model_card(json.loads(report))


def test_not_without_the_checkpoint() -> None:
    result = CliRunner().invoke(main, ["--onnx", str(DATA / "tiny.onnx"), "--card"])
    assert result.exit_code == 2
    assert result.output == (
        "Error: --card needs --ckpt: an ONNX file does not contain its proof.\n"
    )


def test_every_expression_is_escaped(report: dict[str, Any]) -> None:
    """A name with markup, a line break and a bidi character, wherever a report may hold it."""
    evil = "[x](y)\n# *\u202e|"
    report["task"]["name"] = report["machine"] = evil
    report["versions"] = {evil: evil}
    report["checkpoint"]["metrics"] = {evil: 1.0}
    for item in (report["checkpoint"], *report["artefacts"], report["engine"]):
        item["file"] = evil
    report["artefacts"][1]["fp32_nodes"] = [evil]
    card = model_card(int8(report))
    assert md(evil) in card
    assert "\u202e" not in card
    assert "[x](y)" not in re.sub(r"```.*?```|^---$.*?^---$", "", card, flags=re.DOTALL | re.M)
    assert not [line for line in card.splitlines() if line.startswith("# ") and "*" in line[:4]]
