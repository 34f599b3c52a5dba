"""The page's files: closed to the outside, and every part of them used."""

from __future__ import annotations

import re

from numclip_runtime.serve.static_files import OWN, SHARED
from tests.serve.conftest import Running, ask


def test_the_page_and_its_files_are_served(server: Running) -> None:
    page = ask(server.port, "/")
    assert (page.status, page.body) == (200, (OWN / "index.html").read_bytes())
    named = set(re.findall(r'(?:src|href)="([\w.]+)"', page.body.decode()))
    scripts = {path.name: path for folder in (OWN, SHARED) for path in folder.glob("*.js")}
    for script in scripts.values():
        named |= set(re.findall(r'from "\./([\w.]+)"', script.read_text("utf-8")))
    assert named == {"style.css", *scripts}
    kinds = {"css": "text/css", "js": "text/javascript"}
    for name in named:
        found = ask(server.port, f"/{name}")
        assert found.status == 200
        assert found.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


def test_its_policy_allows_nothing_from_elsewhere(server: Running) -> None:
    policy = ask(server.port, "/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "http" not in policy
    html = (OWN / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?! type=\"module\" src)|\sstyle=|\son\w+=|https?:", html)


def test_its_script_makes_no_html_and_uses_every_part() -> None:
    html = (OWN / "index.html").read_text("utf-8")
    script = (OWN / "served.js").read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|http", script
    )
    used = set(re.findall(r'\$\("(\w+)"\)', script + (SHARED / "view.js").read_text("utf-8")))
    assert used == set(re.findall(r'id="(\w+)"', html)) - {"drop", "input"}


def test_no_file_beside_them_is_served(server: Running) -> None:
    for path in ("/page/index.html", "/index.html", "/../guard.py", "/%2e%2e/guard.py", "/app.js"):
        assert ask(server.port, path).status == 404
