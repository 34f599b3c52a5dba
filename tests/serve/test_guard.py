"""Who may ask: tokens, names of the host, pages of others; and what the log shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from numclip_runtime import UsageError
from numclip_runtime.serve.serve_options import ServeOptions
from tests.serve.conftest import Running, ask, picture, running, send_raw

TOKEN = "0123456789abcdefgh"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server with a token."""
    file = tmp_path_factory.mktemp("token") / "token.txt"
    file.write_text(f"{TOKEN}\n")
    with running(token_file=file) as started:
        yield started


@pytest.mark.parametrize("path", ["/predict", "/metrics", "/model", "/openapi.json", "/none"])
def test_a_token_is_needed(guarded: Running, path: str) -> None:
    body = picture() if path == "/predict" else None
    for wrong in (None, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer "):
        headers = {} if wrong is None else {"authorization": wrong}
        found = ask(guarded.port, path, body, **headers)
        assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
    for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        expected = 404 if path == "/none" else 200
        assert ask(guarded.port, path, body, authorization=right).status == expected


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_probes_and_the_page_need_none(guarded: Running, path: str) -> None:
    assert ask(guarded.port, path).status == 200


def test_the_token_is_compared_in_constant_time_and_never_printed(
    guarded: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(token_file=guarded.app.options.token_file, quiet=False) as server:
        ask(server.port, "/model", authorization=f"Bearer {TOKEN}")
        ask(server.port, f"/{TOKEN[:5]}", authorization=f"Bearer {TOKEN}")
        ask(server.port, "/model", authorization=f"Bearer x{TOKEN}")
    err = capfd.readouterr().err
    assert "GET /model 200" in err
    assert "GET /model 401" in err
    assert TOKEN not in err


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LocalHost", "localhost:80"])
def test_a_server_of_this_machine_answers_under_its_names(server: Running, host: str) -> None:
    assert ask(server.port, "/healthz", host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "a:b:80"])
def test_and_under_no_other(server: Running, host: str) -> None:
    for path in ("/", "/healthz", "/predict"):
        found = ask(server.port, path, picture() if path == "/predict" else None, host=host)
        assert found.status == 421


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_may_not_send(server: Running, site: str) -> None:
    assert ask(server.port, body=picture(), sec_fetch_site=site).status == 403
    assert ask(server.port, body=picture(), sec_fetch_site="same-origin").status == 200


def test_no_page_of_others_may_read(server: Running) -> None:
    found = ask(server.port, body=picture(), origin="https://evil.example")
    assert not [name for name in found.headers if name.startswith("access-control")]
    assert found.headers["cross-origin-resource-policy"] == "same-origin"
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_line_per_request_without_foreign_characters(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with running(quiet=False) as server:
        ask(server.port, body=picture())
        ask(server.port, "/a%0a127.0.0.1%20GET%20/fake%1b[2J" + "x" * 500)
        send_raw(
            server.port, b"MET\x7eHOD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("127.0.0.1")]
    assert len(lines) == 3
    assert lines[0].startswith("127.0.0.1 POST /predict 200 ")
    assert r"/a\n127.0.0.1 GET /fake\x1b[2J" in lines[1]
    assert len(lines[1]) < 130


def test_quiet_prints_none(capfd: pytest.CaptureFixture[str]) -> None:
    with running(quiet=True) as server:
        ask(server.port, body=picture())
    assert "POST" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_another_address_needs_a_token_or_a_word(host: str, local: bool) -> None:
    options = ServeOptions(host=host)
    assert options.is_local == local
    if local:
        assert options.token() is None
    else:
        with pytest.raises(UsageError, match="give --token-file FILE"):
            options.token()
    assert ServeOptions(host=host, no_token=True).token() is None


@pytest.mark.parametrize("content", ["", "\n", "short", "two words of 16 letters", "é" * 20])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"holds no token.*openssl rand -hex 32"):
        ServeOptions(token_file=file).token()


def test_a_missing_file_and_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises((UsageError, OSError), match="No such file"):
        ServeOptions(token_file=tmp_path / "none").token()
    (file := tmp_path / "token").write_text(TOKEN)
    with pytest.raises(UsageError, match="contradict each other"):
        ServeOptions(token_file=file, no_token=True).token()
    assert ServeOptions(token_file=file).token() == TOKEN.encode()
