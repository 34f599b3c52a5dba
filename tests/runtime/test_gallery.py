"""The HTML report stands alone, is well formed, and shows foreign text as text."""

from __future__ import annotations

import base64
import io
import math
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime import Prediction, Task, UsageError
from numclip_runtime.app.gallery import ReportEntry, ReportWriter, write_report
from numclip_runtime.images.decode import Decoded, ImageLike, decode

VOID = {"meta", "img", "input", "br", "hr", "link"}
TASK = Task("mood", "points", (0, 10, 20, 40), ("low", "middle", "high"))
HOSTILE = "\"><script>alert(1)</script><img src=http://x.invalid/a.png onerror='b'>\u202e&amp;"


class Page(HTMLParser):
    """A parsed page that refuses unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.tags if name in attrs.get("class", "").split()]


def reading(value: float, *, interval: tuple[float, float] | None = None) -> Prediction:
    probs = {"low": 0.125, "middle": 0.75, "high": 0.125}
    return Prediction(value, "points", interval, "middle", probs)


def write(path: Path, entries: list[ReportEntry], **options: object) -> Page:
    write_report(path, entries, **({"title": "Moods", "task": TASK} | options))  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


def image_of(page: Page) -> tuple[Image.Image, dict[str, str]]:
    (attrs,) = (attrs for tag, attrs in page.tags if tag == "img")
    return Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition("base64,")[2]))), attrs


def test_shows_prediction_label_error_and_interval(photos: Path, tmp_path: Path) -> None:
    entry = ReportEntry(photos / "dark.png", reading(12.34, interval=(9, 16)), 15.0)
    page = write(tmp_path / "a.html", [entry], summary=[("MAE", "2.7 points")])
    assert "12.3 points true 15.0 · error 2.7 interval 9.0 to 16.0" in page.text
    assert "75% middle dark.png" in page.text
    assert "Summary MAE 2.7 points" in page.text
    assert "middle 10 to 20 1 1" in page.text  # one predicted, one labelled in that bin
    assert [bar["title"] for _, bar in page.tags if "--p" in bar.get("style", "")] == [
        "low: 12.5%",
        "middle: 75.0%",
        "high: 12.5%",
    ]


def test_marks_lie_over_the_bar_of_their_bin(photos: Path, tmp_path: Path) -> None:
    task = Task("mood", "", (0, 10, 20, 40), TASK.phrases, label_offset=5)
    page = write(
        tmp_path / "a.html", [ReportEntry(photos / "dark.png", reading(20), 99)], task=task
    )
    (read,), (true,) = ([m for m in page.of_class(c) if "style" in m] for c in ("read", "true"))
    assert read["style"] == "left:50.0%"  # middle of the second of three bins, 15 to 25
    assert true["style"] == "left:100.0%"


def test_without_labels_nothing_speaks_of_truth(photos: Path, tmp_path: Path) -> None:
    page = write(tmp_path / "a.html", [ReportEntry(photos / "dark.png", reading(12))])
    assert "true" not in page.text.lower()
    assert "error" not in page.text
    assert "interval" not in page.text
    assert not page.of_class("true")
    assert not page.of_class("sort")


def test_cards_are_sorted_by_prediction_and_know_other_orders(photos: Path, tmp_path: Path) -> None:
    values = ((30.0, 31.0), (math.nan, 5.0), (10.0, 30.0), (20.0, None))
    entries = [ReportEntry(photos / "dark.png", reading(v), label) for v, label in values]
    page = write(tmp_path / "a.html", entries)
    assert [card["style"] for card in page.of_class("card")] == [
        "--by-value:0;--by-label:1;--by-error:0",  # 10, error 20
        "--by-value:1;--by-label:3;--by-error:3",  # 20, no label
        "--by-value:2;--by-label:2;--by-error:1",  # 30, error 1
        "--by-value:3;--by-label:0;--by-error:2",  # nan
    ]


def test_failed_images_are_listed_with_their_reason(photos: Path, tmp_path: Path) -> None:
    entries = [
        ReportEntry("b.png", "b.png: no such file."),
        ReportEntry(photos / "dark.png", reading(1)),
    ]
    page = write(tmp_path / "a.html", entries)
    assert "1 image · 1 failed" in page.text
    assert "Failed images b.png b.png: no such file." in page.text
    assert len(page.of_class("card")) == 1


def test_no_entries(tmp_path: Path) -> None:
    assert "0 images" in write(tmp_path / "a.html", []).text


def test_an_image_that_is_gone_keeps_its_numbers(tmp_path: Path) -> None:
    page = write(tmp_path / "a.html", [ReportEntry(tmp_path / "gone.png", reading(7))])
    assert "no preview 7.0 points" in page.text


@pytest.mark.parametrize("where", ["everywhere", "lone surrogate"])
def test_foreign_text_stays_text(tmp_path: Path, where: str) -> None:
    foreign = HOSTILE if where == "everywhere" else "\udcff.png\x00\n"
    phrases = (foreign, "other", "third")
    probs = dict(zip(phrases, (0.5, 0.25, 0.25), strict=True))
    entries = [
        ReportEntry(foreign, Prediction(1, foreign, None, foreign, probs), 2),
        ReportEntry(foreign, foreign),
    ]
    page = write(
        tmp_path / "a.html",
        entries,
        title=foreign,
        task=Task("mood", foreign, TASK.bin_edges, phrases),
        summary=[(foreign, foreign)],
    )
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    shown = foreign.encode("unicode_escape").decode()
    # title 2, summary 2, table of bins 2, card 2 and its file name, failed images 2
    assert page.text.count(Path(shown).name) == 11
    assert any(attrs.get("title", "").startswith(f"{shown}: 50") for _, attrs in page.tags)


def test_nothing_is_loaded_from_elsewhere(photos: Path, tmp_path: Path) -> None:
    svg = '<?xml version="1.0"?><!DOCTYPE svg><svg viewBox="0 0 1 1"><path d="M0 0"/></svg>\n'
    entries = [ReportEntry(photos / "dark.png", reading(3), 4), ReportEntry("b.png", "bad")]
    page = write(tmp_path / "a.html", entries, figure_svg=svg)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith("#")
    assert any("default-src 'none'" in attrs.get("content", "") for _, attrs in page.tags)
    assert text.count("<!DOCTYPE") == 1  # the figure's own is cut off
    assert "<?xml" not in text
    assert '<svg viewBox="0 0 1 1"><path d="M0 0"/></svg>' in text


@pytest.mark.parametrize(
    ("size", "stored", "shown", "kind"),
    [
        ((72, 72), (72, 72), ("144", "144"), "PNG"),  # small: every pixel, twice as large
        ((28, 20), (28, 20), ("140", "100"), "PNG"),
        ((144, 90), (144, 90), ("144", "90"), "PNG"),
        ((1000, 500), (288, 144), ("144", "72"), "JPEG"),
        ((3000, 1), (288, 1), ("144", "1"), "JPEG"),
    ],
)
def test_thumbnail(
    tmp_path: Path,
    size: tuple[int, int],
    stored: tuple[int, int],
    shown: tuple[str, str],
    kind: str,
) -> None:
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "a.png")
    page = write(tmp_path / "a.html", [ReportEntry(tmp_path / "a.png", reading(3))])
    image, attrs = image_of(page)
    assert (image.size, image.format) == (stored, kind)
    assert (attrs["width"], attrs["height"]) == shown
    assert attrs["alt"] == "a.png"


def test_thumbnail_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was held on its side
    Image.new("RGB", (60, 20)).save(tmp_path / "a.png", exif=exif)
    page = write(tmp_path / "a.html", [ReportEntry(tmp_path / "a.png", reading(3))])
    assert image_of(page)[0].size == (20, 60)


def test_file_name_of_a_thumbnail_is_escaped(tmp_path: Path) -> None:
    name = 'a" onerror="b<i>.png'
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    page = write(tmp_path / "a.html", [ReportEntry(tmp_path / name, reading(3))])
    attrs = image_of(page)[1]
    assert attrs["alt"] == name
    assert set(attrs) == {"alt", "class", "height", "src", "width"}


def test_many_bins_fold_their_table_and_fill_the_bars(photos: Path, tmp_path: Path) -> None:
    phrases = tuple(f"{age} years" for age in range(101))
    task = Task("age", "years", tuple(range(102)), phrases)
    probs = dict.fromkeys(phrases, 0.95 / 100) | {"40 years": 0.05}
    entry = ReportEntry(photos / "dark.png", Prediction(40.5, "years", None, "40 years", probs))
    page = write(tmp_path / "a.html", [entry], task=task)
    assert "details" in {tag for tag, _ in page.tags}
    bars = [bar for _, bar in page.tags if "--p" in bar.get("style", "")]
    assert len(bars) == 101
    assert bars[40] == {"class": "best", "style": "--p:100.0%", "title": "40 years: 5.0%"}
    assert bars[41]["style"] == "--p:19.0%"


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.html"
    target.write_text("old")

    def fail(*_: object) -> str:
        raise MemoryError

    monkeypatch.setattr("numclip_runtime.app.gallery.card", fail)
    with pytest.raises(MemoryError):
        write(target, [ReportEntry("a.png", reading(3))])
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]
    assert target.read_text() == "old"


def test_figure_must_be_svg(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape("found no <svg> element")):
        write(tmp_path / "a.html", [], figure_svg="</svg> figure.png")
    assert not (tmp_path / "a.html").exists()


def test_same_input_same_bytes(photos: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write(tmp_path / name, [ReportEntry(photos / "light.jpg", reading(3), 4)])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("edges", "shown"),
    [
        ((0, 10, 20, 40), ["0", "10", "20", "40"]),
        ((0, 0.12345, 20, 40), ["0", "40"]),  # wider than a third of the bars
        (tuple(range(12)), ["0", "11"]),
    ],
)
def test_bin_edges_are_named_under_the_bars(
    photos: Path, tmp_path: Path, edges: tuple[float, ...], shown: list[str]
) -> None:
    """The bars are equally wide and the bins are not, so the ends alone make a false scale."""
    phrases = tuple(f"bin {i}" for i in range(len(edges) - 1))
    entry = ReportEntry(photos / "dark.png", reading(3))
    page = write(tmp_path / "a.html", [entry], task=Task("mood", "", edges, phrases))
    ticks = re.findall(
        r'<span style="left:([\d.]+)%">(\S+)</span>', (tmp_path / "a.html").read_text()
    )
    assert [text for _, text in ticks] == shown
    assert (ticks[0][0], ticks[-1][0]) == ("0.0", "100.0")
    assert len(page.of_class("ends")) == 1


def test_memory_holds_no_cards(photos: Path, tmp_path: Path) -> None:
    """20,000 images with their thumbnails would take 300 MB; here numbers stay, 40 bytes each."""
    Image.effect_noise((300, 300), 90).save(photos / "noise.png")  # a thumbnail of 40 kB
    tracemalloc.start()
    with ReportWriter(tmp_path / "a.html", title="Moods", task=TASK) as writer:
        for i in range(60):
            writer.add(ReportEntry(photos / "noise.png", reading(60 - i), 3))
            writer.add(ReportEntry("b.png", "b.png: " + "no such file " * 500))
            if i == 9:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
        writer.write()
    tracemalloc.stop()
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert len(text) > 2_000_000
    assert text.count('<li class="card"') == 60
    assert grown < 50_000
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.html"]


def test_a_large_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 megapixels for a thumbnail of 288 would take longer than the network does."""
    decoded: list[tuple[int, int]] = []

    def spy(source: ImageLike, least: int | None) -> Decoded:
        result = decode(source, least=least)
        decoded.append(result.image.size)
        return result

    monkeypatch.setattr("numclip_runtime.results.thumbnail.decode", spy)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (4000, 3000)).save(tmp_path / "a.jpg", exif=exif)
    page = write(tmp_path / "a.html", [ReportEntry(tmp_path / "a.jpg", reading(3))])
    assert decoded == [(750, 1000)]
    image, attrs = image_of(page)
    assert (image.size, attrs["width"], attrs["height"]) == ((216, 288), "108", "144")
