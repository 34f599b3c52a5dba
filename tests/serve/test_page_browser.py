"""The server's page in a real Chromium: `make serve-test`.

It needs Playwright and a Chromium, and is skipped, with a sentence, where one of them is missing.
SERVE_PICTURES names a folder for pictures of the page.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import TINY, Running, ask, picture, running
from tests.serve.test_guard import TOKEN

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PICTURES = os.environ.get("SERVE_PICTURES")
SIZES = [(400, 800), (1280, 900)]

pytestmark = pytest.mark.skipif(
    not os.environ.get("NUMCLIP_WEB_TEST"), reason="a browser is started by `make serve-test` only"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or CHROMIUM=path")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=root)
        yield started
        started.close()


@pytest.fixture(scope="module")
def quality() -> Iterator[Running]:
    """Return a server of the packaged model, which has intervals."""
    from numclip_runtime.model_files.names import model_path

    with running(model=model_path("quality"), max_bytes=400_000) as started:
        yield started


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return a JPEG, a TIFF, which no browser shows, a text, and a file that is too large."""
    contents = {
        "a photo.jpg": picture("JPEG", size=(640, 480)),
        "=scan.tif": picture("TIFF", size=(200, 150)),
        "<img src=x onerror=alert(1)>.png": b"no picture",
        "large.bmp": picture("BMP", size=(500, 400)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def opened(
    browser: Any, port: int, size: tuple[int, int], complaints: list[str], **more: Any
) -> Any:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **more)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(f"http://127.0.0.1:{port}/")
    return page


def look(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}px")
def test_photos_get_numbers(
    browser: Any, quality: Running, photos: list[Path], size: tuple[int, int]
) -> None:
    complaints: list[str] = []
    page = opened(browser, quality.port, size, complaints)
    page.locator("#status", has_text="Ready.").wait_for()
    look(page, f"empty-{size[0]}")
    page.set_input_files("#files", photos)
    page.locator("#rows tr:nth-child(4)").wait_for()
    expected = ask(quality.port, body=photos[0].read_bytes()).json
    page.click("#rows tr:nth-child(1) button")
    assert page.inner_text("#name") == "a photo.jpg"
    assert page.inner_text("#number").strip() == f"{expected['value']:.1f}"
    low, high = expected["interval"]
    assert page.inner_text("#interval") == f"90 % interval {low:.1f} to {high:.1f}"
    assert page.locator("#bins li").count() == 5
    assert expected["bin"] in page.inner_text("#bins .best")
    assert page.is_visible("#photo")
    look(page, f"result-{size[0]}")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    page.click("#rows tr:nth-child(2) button")
    page.locator("#photo").wait_for(state="hidden")
    page.click("#rows tr:nth-child(3) button")
    assert page.inner_text("#number") == "not an image that Pillow can read."
    assert page.locator("#rows img").count() == 0
    page.click("#rows tr:nth-child(4) button")
    assert page.inner_text("#number") == "the body has more than 400000 bytes, which is the limit."
    with page.expect_download() as download:
        page.click("#save")
    lines = Path(download.value.path()).read_text("utf-8-sig").splitlines()
    assert lines[2].startswith("'=scan.tif,")
    page.click("#clear")
    assert page.locator("#rows tr").count() == 0
    page.close()
    assert [text for text in complaints if "413" not in text] == []  # Chromium prints each 4xx


def test_photos_are_dropped(browser: Any, quality: Running) -> None:
    complaints: list[str] = []
    page = opened(browser, quality.port, (1280, 900), complaints)
    page.locator("#status", has_text="Ready.").wait_for()
    content = list(picture("PNG"))
    page.evaluate(
        """(content) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }""",
        content,
    )
    page.locator("#rows tr").wait_for()
    assert page.inner_text("#rows button") == "dropped.png"
    page.close()
    assert complaints == []


def test_the_page_asks_for_the_token(browser: Any, tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text(TOKEN)
    complaints: list[str] = []
    with running(token_file=file) as server:
        for size in SIZES:
            page = opened(browser, server.port, size, complaints)
            page.locator("#status", has_text="Give the token first.").wait_for()
            look(page, f"token-{size[0]}")
            assert page.evaluate("document.documentElement.scrollWidth") == size[0]
            page.fill("#token", "wrong")
            page.keyboard.press("Enter")
            page.locator("#status", has_text="This is not the server's token.").wait_for()
            assert page.is_disabled("#files")
            page.fill("#token", TOKEN)
            page.click("#ask button")
            page.locator("#status", has_text="Ready.").wait_for()
            assert page.is_hidden("#ask")
            page.set_input_files("#files", TINY.parent / "tiny.onnx")
            page.locator("#rows tr").wait_for()
            assert TOKEN not in page.url
            page.close()
    assert [text for text in complaints if "401" not in text] == []


def test_a_busy_server_is_asked_again(browser: Any, quality: Running, photos: list[Path]) -> None:
    page = opened(browser, quality.port, (1280, 900), [])
    page.locator("#status", has_text="Ready.").wait_for()
    refusals = iter([True, False])

    def refuse_once(route: Any) -> None:
        if next(refusals, False):
            route.fulfill(status=429, headers={"Retry-After": "1"}, body='{"error": "busy."}')
        else:
            route.continue_()

    page.route("**/predict", refuse_once)
    page.set_input_files("#files", photos[:1])
    page.locator("#status", has_text="The server is busy; asking again in 1 s").wait_for()
    page.locator("#status", has_text=re.compile("a photo.jpg: [0-9]")).wait_for()
    page.close()


def test_dark_colours(browser: Any, quality: Running, photos: list[Path]) -> None:
    page = opened(browser, quality.port, (1280, 900), [], color_scheme="dark")
    page.locator("#status", has_text="Ready.").wait_for()
    page.set_input_files("#files", photos[:2])
    page.locator("#rows tr:nth-child(2)").wait_for()
    look(page, "dark-1280")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    page.close()
