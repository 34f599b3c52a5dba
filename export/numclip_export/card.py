"""The model card: the report of an export as a page that a person publishes with the files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from numclip_export.card_proof import float32, int8, limits, parity, validation
from numclip_export.markdown import md, printable, table

Report = dict[str, Any]  # what `write_report` writes

PREDICTION = {
    "regressor": "what the fine regressor gives",
    "class": "that of the most probable bin",
    "expected": "the mean of the bins' numbers, weighted by their probabilities",
}
USE = """\
This card is written from measurements. They do not tell what the model was made for, on which
images it was trained, how these spread over the bins, or under which license; whoever publishes the
model adds that. A number read off an image is an estimate: where it decides about people, have a
person look.
"""


def model_card(report: Report) -> str:
    """Return the card as Markdown.

    Args:
        report: What JSON gives back of the export's report; the card says nothing else.
    """
    task = report["task"]
    summary = (
        f"Reads **{md(task['name'])}** off an image: a number{_in(task)} and the probability of "
        f"each of {len(task['phrases'])} bins. The number is {PREDICTION[task['prediction']]}."
    )
    sections = (
        ("What it reads", _bins(task)),
        ("How to run it", _usage(report)),
        ("Files", _files(report)),
        ("Equal to the checkpoint", parity(report)),
        ("What stayed in float32", float32(report)),
        ("INT8", int8(report)),
        ("Validation", validation(report)),
        ("Preprocessing", _preprocessing(report["preprocessing"])),
        ("Limits", limits(report)),
        ("Intended use", [USE.rstrip()]),
        ("Versions", [", ".join(f"{md(k)} {md(v)}" for k, v in report["versions"].items())]),
    )
    lines = [*_front_matter(report), f"# {md(task['name'])}", "", summary]
    for title, content in sections:
        if found := list(content):
            lines += ["", f"## {title}", "", *found]
    return "\n".join(lines) + "\n"


def _front_matter(report: Report) -> list[str]:
    kinds = ["onnx", *(["tensorrt"] if "engine" in report else [])]
    tags = ["clip", "ordinal-regression", *kinds, report["task"]["name"]]
    return ["---", "library_name: numclip", f"tags: {json.dumps(tags)}", "---", ""]


def _in(task: Report) -> str:
    return f" in {md(task['unit'])}" if task["unit"] else ""


def _edges(task: Report) -> list[float]:
    return [edge + task["label_offset"] for edge in task["bin_edges"]]


def _bins(task: Report) -> Iterator[str]:
    edges = _edges(task)
    yield f"From {edges[0]:g} to {edges[-1]:g}{_in(task)}. An edge belongs to the bin above it.\n"
    yield from table(
        ("bin", "from", "to"),
        [
            (md(phrase), f"{low:g}", f"{high:g}")
            for phrase, low, high in zip(task["phrases"], edges, edges[1:], strict=False)
        ],
    )


def _usage(report: Report) -> Iterator[str]:
    shown = printable(report["artefacts"][0]["file"])
    yield f"```\nnumclip-run {shlex.quote(shown)} photo.jpg\n```\n"
    yield "```python\nfrom numclip_runtime import load\n"
    yield f'print(load({json.dumps(shown, ensure_ascii=False)}).predict("photo.jpg"))\n```'
    if engine := report.get("engine"):
        yield f"\nOn a GPU that it was built for, take {md(engine['file'])} in its place."


def _files(report: Report) -> Iterator[str]:
    items = [report["checkpoint"] | {"precision": "checkpoint"}, *report["artefacts"]]
    if engine := report.get("engine"):
        items.append(engine | {"precision": f"engine of {engine['built_from']}"})
    yield from table(
        ("file", "precision", "MB", "sha256"),
        [
            (
                md(item["file"]),
                md(item["precision"]),
                f"{item['bytes'] / 1e6:.3g}",
                f"`{item['sha256'][:16]}`",
            )
            for item in items
        ],
    )
    if engine:
        capabilities = [f"{number / 10:.1f}" for number in engine["compute_capabilities"] or ()]
        yield (
            f"\nThe engine was built by {engine['builder']} {engine['builder_version']} for "
            f"compute capability {', '.join(capabilities) or '8.0 and later'}, batch "
            f"{engine['min_batch']} to {engine['max_batch']}."
        )


def _preprocessing(spec: Report) -> Iterator[str]:
    side, crop = spec["resize"], spec["crop"]
    size = {
        "squash": f"{side} x {side} pixels, aspect ratio not kept",
        "shortest": f"a shortest side of {side} pixels",
    }[spec["resize_mode"]]
    mean, std = (", ".join(f"{number:g}" for number in spec[name]) for name in ("mean", "std"))
    yield (
        f"RGB, resized to {size} ({spec['interpolation']}), cropped in the centre to {crop} x "
        f"{crop}, normalised with mean ({mean}) and standard deviation ({std}). The files say it "
        "themselves, and numclip does it."
    )
