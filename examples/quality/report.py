"""Write the HTML report of the photo-quality demo: predictions against labels, with images."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import click
import numpy as np

from numclip.data.tables import read_csv
from numclip_runtime import Prediction, Task, UsageError, load
from numclip_runtime.app.gallery import ReportEntry, write_report
from numclip_runtime.console import FILE, exit_on_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CARDS = 120  # images in the gallery: a page of about 2 MB
# Colours that only stand for the page's own, which differ in light and dark.
_PAGE_COLOURS = {"#010101": "currentColor", "#020202": "var(--accent, #1f5fd0)"}


def make_report(
    *, test_csv: Path, predictions_csv: Path, train_csv: Path, model: Path, output: Path
) -> None:
    """Join labels and predictions, and write the report.

    Args:
        test_csv: Columns path,label; paths relative to the file's folder.
        predictions_csv: Written by `numclip-run`; paths relative to the working directory.
        train_csv: As `test_csv`; its median is the constant predictor to beat.
        model: The exported model that made the predictions.
        output: HTML file to write.

    Raises:
        UsageError: if a CSV file lacks a column, or no prediction belongs to a test image.
    """
    with load(model) as predictor:
        metadata = predictor.metadata
    task = metadata.task
    entries = read_entries(test_csv, predictions_csv)
    read = [entry for entry in entries if entry.prediction]
    failed = [entry for entry in entries if not entry.prediction]
    errors = [entry.error for entry in read]
    constant = median(label for _, label in read_labels(train_csv))
    right = [
        entry.prediction.bin == task.phrases[task.bin_of(entry.label)]
        for entry in read
        if entry.prediction and entry.label is not None
    ]
    unit = f" {task.unit}" if task.unit else ""
    naive = fmean(abs(entry.label - constant) for entry in read if entry.label is not None)
    write_report(
        output,
        spread(read, CARDS) + failed,
        title="Photo quality: severity of the degradation",
        task=task,
        summary=(
            ("Test images", str(len(entries))),
            ("Mean absolute error (MAE)", f"{fmean(errors):.1f}{unit}"),
            (f"MAE of always saying {constant:.0f}, the training median", f"{naive:.1f}{unit}"),
            ("Nine in ten errors are below", f"{np.quantile(errors, 0.9):.1f}{unit}"),
            ("Right bin", f"{fmean(right):.0%}"),
            ("Shown below, evenly over the label range", str(min(CARDS, len(read)))),
            ("Model", model.name),
            ("Precision", metadata.precision),
        ),
        figure_svg=scatter_svg(entries, task),
    )


def read_labels(path: Path) -> list[tuple[Path, float]]:
    """Read a CSV file of columns path,label; paths become relative to the working directory."""
    return [
        (path.parent / row["path"], float(row["label"])) for row in _rows(path, ("path", "label"))
    ]


def read_entries(labels_csv: Path, predictions_csv: Path) -> list[ReportEntry]:
    """Join labels and what `numclip-run` wrote; an image without a prediction is a failed one."""
    results: dict[Path, Prediction | str] = {
        Path(row["path"]).resolve(): _result(row)
        for row in _rows(predictions_csv, ("path", "value", "bin", "bin_probs", "error"))
    }
    missing = f"no record in {predictions_csv.name}"
    entries = [
        ReportEntry(path, results.get(path.resolve(), missing), label)
        for path, label in read_labels(labels_csv)
    ]
    if not any(entry.prediction for entry in entries):
        raise UsageError(
            f"{predictions_csv}: holds no prediction for an image of {labels_csv}; run from the "
            "folder that numclip-run ran in, its paths are relative to that."
        )
    return entries


def _rows(path: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    return [row.cells for row in read_csv(path, columns, optional=("unit", "interval"))]


def _result(row: Mapping[str, str]) -> Prediction | str:
    if row["error"]:
        return row["error"]
    low_high: list[float] | None = json.loads(row.get("interval") or "null")
    return Prediction(
        value=float(row["value"]),
        unit=row.get("unit", ""),
        interval=None if low_high is None else (low_high[0], low_high[1]),
        bin=row["bin"],
        bin_probs=json.loads(row["bin_probs"]),
    )


def spread(entries: Sequence[ReportEntry], count: int) -> list[ReportEntry]:
    """Choose `count` entries whose labels cover the range evenly, in ascending order."""
    rest = [(entry.label, i) for i, entry in enumerate(entries) if entry.label is not None]
    chosen = []
    for target in np.linspace(min(rest)[0], max(rest)[0], min(count, len(rest))):
        chosen.append(min(rest, key=lambda item: abs(item[0] - target)))
        rest.remove(chosen[-1])
    return [entries[i] for _, i in sorted(chosen)]


def scatter_svg(entries: Sequence[ReportEntry], task: Task) -> str:
    """Return the scatter plot as SVG text that takes its colours from the page around it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text: it uses the page's font and can be searched. The salt makes ids repeatable.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "numclip", "font.size": 11}):
        figure = Figure(figsize=(5.4, 5.4), layout="constrained")
        ink, accent = _PAGE_COLOURS
        edges = [edge + task.label_offset for edge in task.bin_edges]
        draw_scatter(figure.add_subplot(), entries, ink=ink, accent=accent, edges=edges)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    return text.replace("<svg ", '<svg role="img" aria-label="Predicted against true" ', 1)


def draw_scatter(
    axes: Axes,
    entries: Sequence[ReportEntry],
    *,
    ink: str,
    accent: str,
    edges: Sequence[float] | None = None,
) -> None:
    """Draw predicted against true, with the MAE as the title.

    Args:
        axes: Where to draw.
        entries: Those with a label and a prediction are drawn.
        ink: Colour of text, grid and diagonal.
        accent: Colour of the points.
        edges: Bin edges (label units), the grid's lines; None lets matplotlib choose.
    """
    pairs = [
        (entry.label, entry.prediction.value, entry.prediction.unit)
        for entry in entries
        if entry.prediction and entry.label is not None
    ]
    true, read = np.array([pair[:2] for pair in pairs], float).T
    unit = pairs[0][2] and f" {pairs[0][2]}"
    low, high = min(*true, *read, *(edges or ())), max(*true, *read, *(edges or ()))
    margin = 0.03 * (high - low)
    limits = (low - margin, high + margin)
    mae = np.abs(true - read).mean()
    axes.set_title(f"MAE {mae:.1f}{unit} on {len(pairs)} test images", color=ink, pad=12)
    axes.set_xlabel("true", color=ink)
    axes.set_ylabel("predicted", color=ink)
    axes.plot(limits, limits, color=ink, alpha=0.6, linewidth=1, dashes=(5, 4))
    axes.scatter(true, read, s=22, color=accent, alpha=0.6, linewidths=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal", axisbelow=True)
    if edges and len(edges) <= 12:  # more would be a grey wall
        axes.set_xticks(edges)
        axes.set_yticks(edges)
    axes.grid(color=ink, alpha=0.15, linewidth=0.8)
    axes.tick_params(colors=ink, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


@click.command()
@click.option("--folder", type=FILE, default="demo", show_default=True)
def main(folder: Path) -> None:
    """Write FOLDER/report.html from FOLDER/data, FOLDER/predictions.csv and FOLDER/model.onnx."""
    with exit_on_error():
        make_report(
            test_csv=folder / "data" / "test.csv",
            predictions_csv=folder / "predictions.csv",
            train_csv=folder / "data" / "train.csv",
            model=folder / "model.onnx",
            output=folder / "report.html",
        )


if __name__ == "__main__":
    main()
