"""What Python gets: a prediction knows its image, shows itself, and becomes a row of a table."""

from __future__ import annotations

import copy
import html.parser
import io
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import (
    ImageError,
    MissingDependencyError,
    Prediction,
    Predictor,
    load,
    to_pandas,
)
from numclip_runtime.results.notebook import MOST_BARS, number_text

FOUND = Prediction(34.2, "years", (28.5, 39.9), "adult", {"child": 0.25, "adult": 0.75})


def found_at(path: str) -> Prediction:
    """Return a copy of FOUND that knows its image."""
    return replace(FOUND, path=path)


def test_forms_of_an_image_give_one_prediction_and_its_path(
    predictor: Predictor, photos: Path
) -> None:
    path = photos / "light.jpg"
    with path.open("rb") as file, Image.open(path) as picture:
        results = [
            predictor.predict(str(path)),
            predictor.predict(path),
            predictor(file),
            predictor.predict(picture),
        ]
    assert {result.path for result in results} == {str(path)}
    unknown = [
        predictor.predict(path.read_bytes()),
        predictor.predict(io.BytesIO(path.read_bytes())),
        predictor.predict(np.asarray(Image.open(path))),
    ]
    assert {result.path for result in unknown} == {None}
    assert all(result == results[0] for result in results + unknown)  # the path does not count


def test_batches_and_streams_know_their_paths(predictor: Predictor, photos: Path) -> None:
    paths = [photos / "dark.png", photos / "none.png", photos / "light.jpg"]
    results = list(predictor.stream(paths, batch_size=2, workers=2))
    assert [result.path for result in results] == [str(path) for path in paths]
    assert isinstance(results[1], ImageError)
    batch = predictor.predict_batch([paths[0], paths[2]])
    assert [result.path for result in batch] == [str(paths[0]), str(paths[2])]
    assert predictor.predict_batch([]) == []


def test_the_record_stays_as_it_was() -> None:
    assert list(FOUND.to_dict()) == ["value", "unit", "interval", "bin", "bin_probs"]
    assert FOUND.to_dict()["bin_probs"] is not FOUND.bin_probs


def test_a_prediction_does_not_keep_its_picture(predictor: Predictor) -> None:
    picture = Image.new("RGB", (9, 9), "red")
    found = predictor.predict(picture)
    assert "<img" in found._repr_html_()
    sent = pickle.loads(pickle.dumps(found))
    assert sent == found == copy.deepcopy(found)
    assert sent.picture is None
    del picture
    assert "<img" not in found._repr_html_()


@pytest.mark.parametrize(
    "wrong", ["a.png", b"\x89PNG", Path("a.png"), io.BytesIO(), np.zeros((8, 8, 3), np.uint8)]
)
@pytest.mark.parametrize("method", ["stream", "predict_batch"])
def test_one_image_in_place_of_several(predictor: Predictor, method: str, wrong: Any) -> None:
    """Found: a text was read letter by letter, an array row by row."""
    with pytest.raises(TypeError, match=f"{method} takes several .*; use predict for a single im"):
        getattr(predictor, method)(wrong)


def test_four_axes_are_several_images(predictor: Predictor) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert len(predictor.predict_batch(images)) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [["a.png"], ("a.png",), {"a.png"}, iter(["a.png"])])
def test_several_images_in_place_of_one(predictor: Predictor, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"got \w+; several images go to predict_batch, or to str"):
        predictor.predict(wrong)


@pytest.mark.parametrize("wrong", [None, 3, 1.5])
def test_no_image_at_all(predictor: Predictor, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a path, the bytes .*, got \w+\.$"):
        predictor.predict(wrong)


def test_an_address_on_the_web(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsspec", "aiohttp"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
    with pytest.raises(MissingDependencyError, match=r"numclip\[remote\]"):
        predictor.predict("https://example.org/a.jpg")


def test_a_predictor_says_what_it_is(tiny: Path) -> None:
    with load(tiny, device="CPU") as predictor:
        shown = repr(predictor)
        assert re.fullmatch(r"<Predictor of tiny\.onnx: \w+ in points, 3 bins, \w+ on cpu>", shown)
        waiting = pickle.loads(pickle.dumps(predictor))
        assert repr(waiting) == "<Predictor of tiny.onnx, opened at its first use>"


class Page(html.parser.HTMLParser):
    """The tags that are open, the text, and the widths of the bars."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.text, self.tags = list[str](), "", set[str]()
        self.widths = [float(width) for width in re.findall(r"width:([\d.]+)%", source)]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_what_a_notebook_shows(photos: Path) -> None:
    found = found_at(str(photos / "light.jpg"))
    page = Page(found._repr_html_())
    assert page.open == []
    assert page.widths == [25.0, 75.0]
    for text in ("34.2", "years", "28.5 to 39.9 (90% interval)", "child", "75%", "light.jpg"):
        assert text in page.text
    assert "img" in page.tags
    (photos / "light.jpg").unlink()
    assert "no preview" in Page(found._repr_html_()).text


def test_foreign_text_in_a_notebook() -> None:
    bad = "<script>alert('x')</script>\x1b[2J\u202e" + "y" * 500
    found = Prediction(1.0, bad, None, bad, {bad: 1.0}, f"/gone/{bad}")
    page = Page(found._repr_html_())
    assert page.tags == {"div", "span"}
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    assert len(page.text) < 500


def test_many_bins_show_the_most_probable_ones_in_their_order() -> None:
    probs = {f"{i} years": (i % 10) / 450 for i in range(100)}
    page = Page(Prediction(1.0, "", None, "9 years", probs)._repr_html_())
    assert len(page.widths) == MOST_BARS
    assert "92 other bins" in page.text
    shown = [int(number) for number in re.findall(r"(\d+) years", page.text)]
    assert shown == sorted(shown)
    assert all(number % 10 == 9 for number in shown)


@pytest.mark.parametrize(
    ("value", "text"),
    [(34.2, "34.2"), (0.00012345, "0.0001234"), (1234.5, "1,234"), (5e6, "5,000,000")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Stand in for pandas: rows and columns as they are given to it."""
    stand_in = SimpleNamespace(
        __file__="pandas.py", DataFrame=lambda rows, columns: (rows, columns)
    )
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    return to_pandas


def test_a_table_has_a_column_for_each_number(frame: Callable[..., Any]) -> None:
    failed = ImageError("b.jpg: no such file.")
    failed.path = "b.jpg"
    rows, columns = frame(iter([found_at("a.jpg"), failed]))
    head = ["path", "value", "unit", "interval_low", "interval_high", "bin"]
    assert columns == [*head, "p_child", "p_adult", "error"]
    values = ["a.jpg", 34.2, "years", 28.5, 39.9, "adult", 0.25, 0.75, None]
    assert [rows[0][column] for column in columns] == values
    assert rows[1] == {"path": "b.jpg", "error": "b.jpg: no such file."}
    assert frame(FOUND)[0][0]["value"] == 34.2
    with pytest.raises(TypeError, match="got dict; give what predict_batch or stream returns"):
        frame([FOUND.to_dict()])


def test_a_real_table(predictor: Predictor, photos: Path) -> None:
    pytest.importorskip("pandas")
    table = to_pandas(predictor.stream([photos / "dark.png", "none.png"]))
    assert list(table["path"]) == [str(photos / "dark.png"), "none.png"]
    assert table["value"].notna().tolist() == [True, False]
    assert table["error"].notna().tolist() == [False, True]


def test_without_pandas_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        MissingDependencyError, match=r"^pandas is not .* with: pip install pandas$"
    ):
        to_pandas([FOUND])
