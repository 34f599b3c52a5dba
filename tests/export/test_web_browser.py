"""The page in a real Chromium against `numclip_runtime`: `make web-test`.

It needs Playwright, a Chromium and onnxruntime-web, and is skipped, with a sentence, where one of
them is missing. NUMCLIP_WEB_MODEL names the model (otherwise a random one), CHROMIUM the browser.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_export.delivery.web import ort_web, write_page
from numclip_runtime import load
from numclip_runtime.preprocess import load_rgb
from tests.export.chain import make_chain
from tests.export.web_photos import write_photos_of_all_kinds

LARGEST_DIFFERENCE = 0.001  # of the task's range
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    not os.environ.get("NUMCLIP_WEB_TEST"), reason="a browser is started by `make web-test` only"
)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was asked for."""

    asked: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def send_head(self) -> Any:
        self.asked.append(f"{self.command} {self.path}")
        return super().send_head()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yields its address and the list of requests."""
    handler = type("Noting", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a Chromium with a camera that shows a test picture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or CHROMIUM=path")
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=[*fake, *root])
        yield started
        started.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model under test."""
    if given := os.environ.get("NUMCLIP_WEB_MODEL"):
        return Path(given)
    return make_chain("vit", tmp_path_factory.mktemp("chain")).done.onnx


@pytest.fixture(scope="module")
def site(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the model's page."""
    folder = tmp_path_factory.mktemp("site") / "site"
    write_page(model, folder, ort_web())
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the pictures of all kinds."""
    return write_photos_of_all_kinds(tmp_path_factory.mktemp("photos") / "all")


@contextmanager
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Open the page; nothing may fail or complain while it is open."""
    page, complaints = browser.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(address)
    page.locator("#status", has_text=re.compile("Ready|cannot")).wait_for(timeout=120_000)
    try:
        yield page
    finally:
        page.close()
    assert complaints == []


def predict(page: Any, files: list[Path]) -> dict[str, dict[str, str]]:
    """Give the page files, and return the rows of its CSV by their names."""
    page.set_input_files("#files", files)
    page.locator(f"#rows tr:nth-child({len(files)})").wait_for(timeout=300_000)
    with page.expect_download() as download:
        page.click("#save")
    text = Path(download.value.path()).read_text("utf-8-sig")
    return {row["file"]: row for row in csv.DictReader(io.StringIO(text))}


def test_numbers_are_those_of_numclip_run(
    browser: Any, site: Path, model: Path, photos: list[Path]
) -> None:
    assert len(photos) >= 50
    with served(site) as (address, asked):
        with opened(browser, address) as page:
            assert page.inner_text("#status") == "Ready."
            loaded = len(asked)
            rows = predict(page, photos)
            times = []
            for button in page.locator("#rows button").all():
                button.click()
                times.append(int(re.findall(r"(\d+) ms", page.inner_text("#remarks"))[0]))
        sent = [request for request in asked if not request.startswith("GET ")]
    assert sent == []
    assert len(asked) == loaded  # pictures cause no request at all
    worst = ends = shares = 0.0
    with load(model, threads=1) as predictor:
        size = predictor.metadata.task.label_range
        for path in photos:
            row, expected = rows[path.name], predictor.predict(path)
            assert row["error"] == "", path.name
            assert row["bin"] == expected.bin or max(expected.bin_probs.values()) < 0.5, path.name
            worst = max(worst, abs(float(row["value"]) - expected.value) / size)
            if expected.interval is not None:
                found = float(row["interval_low"]), float(row["interval_high"])
                difference = np.abs(np.subtract(found, expected.interval)).max()
                ends = max(ends, float(difference) / size)
            for phrase, share in expected.bin_probs.items():
                shares = max(shares, abs(float(row[f"p_{phrase}"]) - share))
    print(
        f"\n{len(photos)} pictures: of the range, values differ by {worst:.1e} at most, ends of "
        f"intervals by {ends:.1e}; probabilities by {shares:.1e}; median {np.median(times):.0f} ms "
        f"a picture, longest {max(times)} ms"
    )
    assert max(worst, ends) <= LARGEST_DIFFERENCE


def test_pixels_are_those_of_the_runtime(browser: Any, site: Path, photos: list[Path]) -> None:
    folder = photos[0].parent
    if not (site / "photos").exists():
        shutil.copytree(folder, site / "photos")
    (site / "empty.html").write_text("<!doctype html><title>no policy: scripts of a test</title>")
    body = """async (name) => {
        const { decode } = await import('/decode.js');
        const bytes = await (await fetch(`/photos/${name}`)).arrayBuffer();
        const { width, height, data } = await decode(new Uint8Array(bytes));
        const sums = new Uint32Array(8);  // of channels, and of them weighed by their place
        for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) {
            sums[c] += data[4 * i + c];
            sums[4 + c] += data[4 * i + c] * (i % 65521);
        }
        return [width, height, ...sums];
    }"""
    with served(site) as (address, _):
        page = browser.new_page()
        page.goto(f"{address}/empty.html")
        different = []
        for path in photos:
            width, height, *sums = page.evaluate(body, path.name)
            pixels = np.asarray(load_rgb(path)).astype(np.uint64).reshape(-1, 3)
            places = np.arange(len(pixels), dtype=np.uint64)[:, None] % 65521
            wanted = [*pixels.sum(0), 0, *(pixels * places).sum(0), 0]
            if (width, height) != load_rgb(path).size or sums != [int(n) % 2**32 for n in wanted]:
                different.append(path.name)
        page.close()
    assert different == []


def test_foreign_text_stays_text(browser: Any, site: Path, photos: list[Path]) -> None:
    folder = photos[0].parent.parent
    names = ["=<img src=x onerror=alert(1)>.png", "a.png", "not a picture.jpg"]
    for name in names[:2]:
        Image.new("RGB", (9, 9)).save(folder / name)
    (folder / names[2]).write_text("text", "utf-8")
    with served(site) as (address, _), opened(browser, address) as page:
        rows = predict(page, [folder / name for name in names])
        assert set(rows) == {f"'{names[0]}", *names[1:]}  # no formula for a spreadsheet
        assert rows[names[2]]["error"] == "not a picture"
        assert page.inner_text("#rows tr:first-child button") == names[0]
        assert page.inner_text("#status") == f"{names[2]}: not a picture."
        assert page.locator("#rows img").count() == 0
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_camera(browser: Any, site: Path) -> None:
    with served(site) as (address, _), opened(browser, address) as page:
        page.click("#camera")
        page.locator("#number", has_text=re.compile(r"\d")).wait_for(timeout=30_000)
        page.click("#shoot")
        page.locator("#rows tr").wait_for(timeout=30_000)
        assert page.inner_text("#rows button").startswith("camera ")
        page.evaluate(
            """() => {
              Object.defineProperty(document, 'hidden', { value: true });
              document.dispatchEvent(new Event('visibilitychange'));
            }"""
        )
        assert page.inner_text("#status") == "The camera is off."
        assert page.evaluate("document.getElementById('video').srcObject") is None


@pytest.mark.parametrize("damage", ["missing", "text", "foreign"])
def test_a_model_that_cannot_be_loaded(
    browser: Any, site: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(site, tmp_path / "site"))
    model = folder / "model.onnx"
    if damage == "missing":
        model.unlink()
    else:
        foreign = Path(__file__).parents[1] / "data/foreign.onnx"
        model.write_bytes(foreign.read_bytes() if damage == "foreign" else b"text")
    page = browser.new_page()
    with served(folder) as (address, _):
        page.goto(address)
        page.locator("#status", has_text="cannot be loaded").wait_for(timeout=60_000)
    sentence = {
        "missing": "the server answers 404 for /model.onnx.",
        "text": "not an ONNX file.",
        "foreign": "it holds no metadata of numclip.",
    }[damage]
    assert page.inner_text("#status") == f"The model cannot be loaded: {sentence}"
    page.close()


def test_opened_as_a_file(browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_timeout(3500)
    assert "python -m http.server" in page.inner_text("#status")
    page.close()


def test_policy_holds_in_the_worker_too(browser: Any, site: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(site, tmp_path / "site"))
    script = (folder / "worker.js").read_text("utf-8")
    with served(tmp_path) as (elsewhere, asked), served(folder) as (address, _):
        leak = f'fetch("{elsewhere}/stolen", {{ mode: "no-cors" }}).catch(() => {{}});\n'
        (folder / "worker.js").write_text(script + leak, "utf-8")
        page = browser.new_page()
        page.goto(address)
        page.locator("#status", has_text="Ready").wait_for(timeout=60_000)
        page.close()
    assert asked == []
