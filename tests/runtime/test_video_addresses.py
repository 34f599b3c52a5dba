"""Addresses: opened where they are the input, never where a file or a list names them."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from numclip_runtime import ImageError
from numclip_runtime.app.video import frames_of
from tests.runtime.conftest import MakeClip, invoke, records

pytest.importorskip("av")

PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nADDRESS\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile 'ADDRESS'\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT10S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>ADDRESS</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `tmp_path`; return the address and the list of the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.mark.parametrize("kind", list(PLAYLISTS))
def test_a_playlist_opens_no_address(
    tmp_path: Path, kind: str, server: tuple[str, list[str]]
) -> None:
    """Found: FFmpeg 7 asked for the address in a DASH manifest that is called list.mp4."""
    address, asked = server
    (tmp_path / "list.mp4").write_text(PLAYLISTS[kind].replace("ADDRESS", f"{address}/a.ts"))
    with pytest.raises(ImageError, match=r"list\.mp4: cannot be decoded"):
        list(frames_of(str(tmp_path / "list.mp4")))
    assert asked == []


def test_a_live_stream(tiny: Path, make_clip: MakeClip, server: tuple[str, list[str]]) -> None:
    """From a server on this machine; old frames may be dropped, the last one is not."""
    url = f"{server[0]}/{make_clip('clip.ts').name}"
    result = invoke(tiny, url)
    got = records(result)
    assert result.exit_code == 0
    assert {record["path"] for record in got} == {url}
    indices = [record["frame"] for record in got]
    assert indices == sorted(set(indices))
    assert indices[-1] == 29
