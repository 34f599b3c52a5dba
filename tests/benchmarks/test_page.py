"""The HTML report: complete, closed to the network, and safe with any text."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.bench.machine.nvidia import Gpu
from benchmarks.bench.output.page import write_html
from benchmarks.bench.output.state_facts import state_facts
from benchmarks.bench.output.table import filled, number
from benchmarks.bench.results import Document, Energy, Images, LabelError, Row
from numclip_runtime.errors import MissingDependencyError
from tests.benchmarks.sample_document import make_document

VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """The page's tags and text; fails on tags that don't close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def sheet(rows: Sequence[Row], name: str) -> list[list[str]]:
    """Return the lines of a table of the page, headings first."""
    columns = [[heading, *cells] for heading, _, cells in filled(rows, name)]
    return [list(line) for line in zip(*columns, strict=True)]


@pytest.fixture
def document(tmp_path: Path) -> Document:
    return make_document(tmp_path / "machine", samples=30, ways=3)


def write(document: Document, tmp_path: Path) -> str:
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    write_html(document, path)
    return path.read_text("utf-8")


def test_page_stands_alone(document: Document, tmp_path: Path) -> None:
    text = write(document, tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert tags.count("svg") == 2 * 4  # wide and narrow
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.findall(r"@import|url\((?!#)", text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert used
    assert set(used) <= set(ids)


def test_page_holds_all_of_it(document: Document, tmp_path: Path) -> None:
    page = Page(write(document, tmp_path))
    for part in (
        "Do not trust these numbers yet",
        *document.state.warnings,
        document.environment.command,
        *document.notes,
        "onnxruntime",
        "1.32.0",
        "fp32 474, bf16 900, int8 1,900",
        "Not yet steady after the warm-up",
        "0.31  0.40  0.38 → 3.10  1.00  1.00",
    ):
        assert part in page.text
    warning, table = (page.text.index(text) for text in ("Do not trust", "Results"))
    assert warning < table


def test_quiet_machine_is_reported_as_quiet(document: Document, tmp_path: Path) -> None:
    document.state.warnings = []
    text = write(document, tmp_path)
    assert "Nothing was seen on the machine that spoils these numbers." in text
    assert "Do not trust" not in text


def test_page_has_light_and_dark_of_every_colour(document: Document, tmp_path: Path) -> None:
    text = write(document, tmp_path)
    # Those of the page itself; its style also has some of the runtime's gallery.
    used = set(re.findall(r"var\((--[\w-]+)\)", text.partition("</style>")[2]))
    assert {"--ink", "--stage-inference", "--series-0"} <= used
    dark = "".join(
        re.findall(r"prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}", text, re.DOTALL)
    )
    for name in used:
        assert f"{name}:" in dark, name


def test_foreign_text_is_escaped(document: Document, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"'&\u202e"
    for row in document.rows:
        row.name = f"{row.name} {bad}"
        row.model = row.device = row.backend = row.provider = row.precision = bad
    environment = document.environment
    environment.command = environment.cpu = environment.platform = bad
    environment.images = Images(bad, bad, 1, 1.0)
    environment.versions = {bad: bad}
    document.notes = [bad]
    document.state.warnings = [bad]
    document.state.before.battery = bad
    text = write(document, tmp_path)
    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count("&lt;script&gt;") > 20
    Page(text)


def test_columns_without_data_are_left_out(document: Document) -> None:
    rows = document.rows
    head, *lines = sheet(rows, "page")
    assert head[:4] == ["Name", "Batch", "Precision", "p50|ms"]
    assert not {"MAE", "Energy|J per image", "Memory|MB, device"} & set(head)
    ratio = head.index("Times as fast|inference, quartiles")
    assert lines[1][ratio] == "1.24 (1.20-1.29)"
    assert lines[0][ratio] == "1"  # all others are compared with it
    rows[2].mae = LabelError(4.36, "years", 500, 0)
    rows[2].power = Energy("CPU package", 0.154, 30.0)
    head, *lines = sheet(rows, "page")
    assert lines[2][head.index("MAE")] == "4.36"
    assert lines[2][head.index("Energy|J per image")] == "0.154"
    assert lines[1][head.index("MAE")] == "-"


def test_rows_of_a_batch_size_stand_together(document: Document, tmp_path: Path) -> None:
    document.rows = document.rows[::-1]
    text = write(document, tmp_path)
    table = text[text.index('<table class="results">') : text.index("</table>")]
    assert re.findall(r"</th><td>(\d)</td>", table) == ["1"] * 3 + ["8"] * 3
    assert table.count('<tr class="new">') == 1
    assert "<small>inference, quartiles</small>" in table


def test_stages_that_did_not_happen_are_left_out(document: Document) -> None:
    head, first, *_ = sheet(document.rows, "stages")
    assert "Upload|ms" not in head
    spent = document.rows[0].stages_ms["inference"].p50
    assert first[head.index("Inference|ms")] == number(spent)


def test_state_of_a_jetson(tmp_path: Path) -> None:
    document = make_document(tmp_path, machine="orin-nano", samples=20, ways=1)
    found = dict(state_facts(document.state.before, document.state.after))
    assert found["Power mode"] == "MAXN_SUPER"
    assert found["jetson_clocks"] == "on"
    assert found["Power of the module"] == "4.79 W"
    assert found["GPU clock"] == "1020 of 1020 MHz"


GPU = Gpu(
    name="H100",
    sm="9.0",
    driver="580.65",
    cuda="13.0",
    watts=412.3,
    limit_watts=700.0,
    sm_mhz=1755,
    sm_max_mhz=1980,
    memory_mhz=2619,
    memory_max_mhz=2619,
    celsius=61,
    slowdown_celsius=89,
    memory_used_mb=None,
    memory_mb=None,
    throttle_reasons=[],
    harmful_reasons=[],
    persistence_mode=True,
    other_processes=None,
    energy_j=None,
    power_throttled_s=None,
    thermal_throttled_s=None,
)


def test_state_of_a_gpu_and_of_unknown_facts(document: Document) -> None:
    before = replace(document.state.before, gpus=[GPU], load_average=None)
    after = replace(before, gpus=[replace(GPU, celsius=74)], load_average=[1, 2, 3])
    found = dict(state_facts(before, after))
    assert {what: text for what, text in found.items() if what.startswith("H100")} == {
        "H100": "SM 9.0, driver 580.65, CUDA 13.0",
        "H100: clock": "1,755 of 1,980 MHz",
        "H100: memory clock": "2,619 of 2,619 MHz",
        "H100: temperature": "61 of 89 °C → 74 of 89 °C",
        "H100: power": "412 of 700 W",
        "H100: clocks held back by": "nothing",
        "H100: persistence": "on",
    }
    assert found["Load of 1, 5, 15 minutes"] == "- → 1.00  2.00  3.00"
    assert "NVIDIA GPU" not in found


def test_missing_matplotlib(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[plot\]'"):
        write_html(document, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
