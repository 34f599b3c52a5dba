"""Draw the README's picture: test images of increasing severity beside the scatter plot."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image

from examples.quality.report import draw_scatter, read_entries, spread
from numclip_runtime.app.gallery import ReportEntry
from numclip_runtime.console import FILE, exit_on_error
from numclip_runtime.files import atomic_path
from numclip_runtime.preprocess import load_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1600, 620  # pixels; GitHub shows it at about half that, so no text below 20
COLUMNS, ROWS = 5, 2
TILE = 176  # pixels of an image's side
STEP_X, STEP_Y = 204, 312  # from one tile to the next
LEFT, TOP = 32, 30
SCATTER = (1136, 62, 440, 440)  # left, top, width, height
INK, SOFT, ACCENT, TRUTH = "#18202b", "#5a6675", "#1f5fd0", "#b4470b"
FONTS = ("Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")


def make_picture(test_csv: Path, predictions_csv: Path, output_png: Path) -> None:
    """Draw ten test images, whose labels cover the range evenly, and all points of the test.

    Args:
        test_csv: Columns path,label; paths relative to the file's folder.
        predictions_csv: Written by `numclip-run`; paths relative to the working directory.
        output_png: File to write.

    Raises:
        UsageError: if a CSV file lacks a column, or no prediction belongs to a test image.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    entries = [entry for entry in read_entries(test_csv, predictions_csv) if entry.prediction]
    installed = fontManager.get_font_names()
    font = next(name for name in FONTS if name in installed)  # matplotlib ships the last
    with mpl.rc_context({"font.family": font, "font.size": 20, "axes.titlesize": 22}):
        # 72 dots an inch: a point is a pixel
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="white")
        for i, entry in enumerate(spread(entries, COLUMNS * ROWS)):
            row, column = divmod(i, COLUMNS)
            _draw_tile(figure, entry, LEFT + column * STEP_X, TOP + row * STEP_Y)
        left, top, width, height = SCATTER
        axes = figure.add_axes(
            (left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT)
        )
        draw_scatter(axes, entries, ink=INK, accent=ACCENT)
        axes.xaxis.label.set_color(TRUTH)  # as the numbers under the images
        axes.yaxis.label.set_color(ACCENT)
        with atomic_path(output_png) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_tile(figure: Figure, entry: ReportEntry, x: int, y: int) -> None:
    """Draw an image and its numbers; x, y are pixels from the left and top of the picture."""
    assert entry.prediction is not None
    # BOX enlarges without smoothing: what JPEG and noise did stays visible
    image = load_rgb(entry.path).resize((TILE, TILE), Image.Resampling.BOX)
    figure.figimage(np.asarray(image), x, HEIGHT - y - TILE)

    def write(text: str, dx: int, dy: int, **style: Any) -> None:
        figure.text((x + dx) / WIDTH, 1 - (y + dy) / HEIGHT, text, va="baseline", **style)

    unit = entry.prediction.unit and f" {entry.prediction.unit}"
    base = TILE + 32
    write(f"{entry.prediction.value:.0f}{unit}", 0, base, size=30, weight="bold", color=ACCENT)
    write(f"true {entry.label:.0f}{unit}", TILE, base, size=20, color=TRUTH, ha="right")
    for i, line in enumerate(textwrap.wrap(entry.prediction.bin, 17)[:2]):
        write(line, 0, base + 28 + 24 * i, size=20, color=SOFT)


@click.command()
@click.option("--folder", type=FILE, default="demo", show_default=True)
@click.argument("output", type=FILE)
def main(folder: Path, output: Path) -> None:
    """Draw OUTPUT (PNG) from FOLDER/data/test.csv and FOLDER/predictions.csv."""
    with exit_on_error():
        make_picture(folder / "data" / "test.csv", folder / "predictions.csv", output)


if __name__ == "__main__":
    main()
