"""Pictures of a latency document: what is in them, and that they can be drawn at all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench.plots.curve_panels import compared
from benchmarks.bench.plots.labels import spread
from benchmarks.bench.plots.picture import check_plot, panel_svg, panels_of, save_plot
from benchmarks.bench.plots.theme import LONGEST, with_names
from benchmarks.bench.results import Document, Row, Summary
from numclip_runtime import UsageError
from numclip_runtime.errors import MissingDependencyError
from tests.benchmarks.sample_document import make_document

pytest.importorskip("matplotlib")
ALL = ["distribution", "stages", "batches", "fidelity"]


@pytest.fixture
def document(tmp_path: Path) -> Document:
    return make_document(tmp_path / "machine", samples=60, ways=3)


def texts(svg: str) -> list[str]:
    """Return the text of an SVG's text elements, one per element."""
    import xml.etree.ElementTree as ElementTree

    names = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()).strip() for element in names]


def test_picture_is_a_file_of_its_kind(document: Document, tmp_path: Path) -> None:
    save_plot(document, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width == 2160
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # for dark pages, too
    save_plot(document, tmp_path / "a.SVG")
    first = (tmp_path / "a.SVG").read_bytes()
    assert first.startswith(b"<?xml")
    save_plot(document, tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_bytes() == first


def test_only_panels_with_data(document: Document, tmp_path: Path) -> None:
    rows = document.rows
    assert panels_of(rows) == ALL
    first = [row for row in rows if row.batch == 1]
    assert panels_of(first) == ["distribution", "stages", "fidelity"]
    alone = [replace(first[0], fidelity=None)]
    assert panels_of(alone) == ["distribution", "stages"]
    for i, some in enumerate((first, alone)):
        save_plot(replace(document, rows=some), tmp_path / f"{i}.png")


def test_tail_is_named_and_not_clipped(document: Document) -> None:
    row = document.rows[0]
    row.total_ms_samples = [20.0] * 58 + [21.0, 1234.0]
    total = replace(row.stages_ms["total"], p50=20.0, p95=20.0, p99=518.9, max=1234.0)
    row.stages_ms["total"] = total
    svg = panel_svg(replace(document, rows=[row]), "distribution", narrow=False)
    assert {"p50 20", "p99 519", "max 1,234"} <= set(texts(svg))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_panel_for_a_page(name: str, narrow: bool, document: Document) -> None:
    svg = panel_svg(document, name, narrow=narrow)
    assert svg.startswith('<svg role="img" ')
    found = texts(svg)
    for row in document.rows:
        assert row.name in found
    assert "#0101" not in svg  # every stand-in has become a variable of the page
    assert "var(--ink)" in svg
    assert f'id="{name}-' in svg
    width = float(svg.split('viewBox="0 0 ')[1].split()[0])
    assert width < (370 if narrow else 625)


def test_stages_per_image(document: Document) -> None:
    row = document.rows[-1]  # batch 8
    means = {"inference": 40.0, "decode": 8.0, "total": 48.0}
    for stage, found_before in row.stages_ms.items():
        row.stages_ms[stage] = replace(found_before, mean=means.get(stage, 0.0))
    row.throughput_img_s = 166.7
    found = texts(panel_svg(replace(document, rows=[row]), "stages", narrow=False))
    assert "6 ms, 167 img/s" in found
    assert "decode" in found
    assert "preprocess" not in found  # took no time here: nothing to explain


def test_error_replaces_fidelity_where_it_is_known(tmp_path: Path) -> None:
    document = make_document(tmp_path, samples=20, ways=4, mae=True)
    assert "Speed against error" in texts(panel_svg(document, "fidelity", narrow=False))
    assert [row.batch for row in compared(document.rows)] == [1] * 4
    document.rows[0].mae = None
    assert len(compared(document.rows)) == 3


def test_equal_times_and_a_perfect_cosine(document: Document, tmp_path: Path) -> None:
    row = document.rows[0]
    row.total_ms_samples = [3.0]
    row.stages_ms["total"] = Summary.of(np.array([3.0]))
    save_plot(replace(document, rows=[row, replace(row, name="b")]), tmp_path / "one.png")


def test_names_that_mean_something_to_what_draws(document: Document) -> None:
    rows = [replace(row, name=f"$x^2$ <b> & {row.name}\n") for row in document.rows]
    found = texts(panel_svg(replace(document, rows=rows), "stages", narrow=False))
    assert "$x^2$ <b> & torch eager" in found


def test_same_names_of_several_models(document: Document) -> None:
    first = document.rows[0]
    rows: list[Row] = [
        replace(first, name="torch eager", model=f"{model}.pt", batch=batch)
        for model in ("ViT-B-32", "RN50")
        for batch in (1, 8)
    ]
    names = [row.name for row in with_names(rows)]
    assert names == ["ViT-B-32 torch eager"] * 2 + ["RN50 torch eager"] * 2
    assert [row.name for row in with_names(rows[:2])] == ["torch eager"] * 2


def test_long_names_keep_their_ends(document: Document) -> None:
    rows = [replace(document.rows[0], name="a" * 60 + " INT8")]
    (row,) = with_names(rows, short=True)
    assert len(row.name) == LONGEST
    assert row.name.endswith(" INT8")
    assert with_names(rows) == rows


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([10, 50], [10, 50]),
        ([50, 51], [45.5, 55.5]),
        ([51, 50, 90], [55.5, 45.5, 90]),
        ([0, 0, 0], [0, 10, 20]),
        ([100, 99], [100, 90]),
        ([5] * 21, [5 * i for i in range(21)]),  # too many: closer than asked
    ],
)
def test_names_move_apart(wanted: list[float], places: list[float]) -> None:
    assert spread(wanted, 10, 0, 100) == pytest.approx(places)


def test_nothing_measured(document: Document, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was measured"):
        save_plot(replace(document, rows=[]), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_other_kinds_of_file() -> None:
    with pytest.raises(UsageError, match=r"a.pdf: cannot plot .* use .png or .svg"):
        check_plot(Path("a.pdf"))


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        check_plot(Path("a.png"))
    assert "matplotlib is not installed" in str(caught.value)
    assert "pip install 'numclip[plot]'" in str(caught.value)
