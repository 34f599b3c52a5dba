"""`numclip-export --web`: the files it writes, where onnxruntime-web comes from, and refusals."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from numclip_export import export as export_module
from numclip_export.cli import main
from numclip_export.delivery import web
from numclip_runtime import read_metadata
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.serve.static_files import SHARED
from tests.export.chain import Chain

TINY = Path(__file__).parents[1] / "data/tiny.onnx"
CONTENTS = {"ort.wasm.bundle.min.mjs": b"script", "ort-wasm-simd-threaded.wasm": b"\0asm"}


def packed() -> bytes:
    """Return a package of npm's form, with small files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that stands in for the pinned package; the registry cannot be reached."""
    path = tmp_path / "package.tgz"
    path.write_bytes(packed())
    checksum = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(web, "ORT_WEB_SHA512", checksum)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refused(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    return path


def test_a_page_of_a_packaged_model(package: Path, tmp_path: Path) -> None:
    arguments = ["quality", "--web", str(tmp_path / "site"), "--ort-web", str(package)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert read_metadata(tmp_path / "site" / "model.onnx") == read_metadata("quality")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the smallest model."""
    return Path(shutil.copy(TINY, tmp_path / "a.onnx"))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def test_page_of_an_onnx_file(model: Path, package: Path, tmp_path: Path) -> None:
    site = tmp_path / "a new" / "site"
    result = run("--onnx", model, "--web", site, "--ort-web", package)
    assert result.exit_code == 0, result.output
    files = {p.relative_to(site).as_posix(): p for p in site.rglob("*") if p.is_file()}
    assert files.pop("model.onnx").read_bytes() == model.read_bytes()
    assert files.pop("ort/ort.wasm.bundle.min.js").read_bytes() == b"script"
    assert files.pop("ort/ort-wasm-simd-threaded.wasm").read_bytes() == b"\0asm"
    assert {name: path.read_bytes() for name, path in files.items()} == {
        path.name: path.read_bytes() for path in (*web.PAGE.iterdir(), *SHARED.iterdir())
    }
    first, second = result.output.splitlines()
    assert first == f"{site}: a page of a.onnx; a browser loads 0 MB"
    assert f"python -m http.server -d '{site}'" in second
    again = run("--onnx", site / "model.onnx", "--web", site, "--ort-web", package)
    assert again.exit_code == 0, again.output
    assert (site / "model.onnx").read_bytes() == model.read_bytes()


def test_page_of_a_checkpoint(
    chain: Chain, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(chain.graph)
    monkeypatch.setattr(export_module, "onnx_from_folded", lambda *args, **kwargs: graph)
    ckpt = shutil.copy(chain.ckpt, tmp_path / "a.pt")
    site = tmp_path / "site"
    result = run("--ckpt", ckpt, "--fp16", "--web", site, "--ort-web", package)
    assert result.exit_code == 0, result.output
    assert (site / "model.onnx").read_bytes() == (tmp_path / "a.fp16.onnx").read_bytes()
    assert not list(tmp_path.glob("*.plan"))  # a page asks for no engine
    assert f"{site}: a page of a.fp16.onnx" in result.output


def test_fetched_once_and_only_as_pinned(
    model: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = [b"something else", package.read_bytes()], []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(answers[len(asked) - 1])

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    site, kept = tmp_path / "site", tmp_path / "cache/numclip/onnxruntime-web-1.30.0.tgz"
    refused = run("--onnx", model, "--web", site)
    assert refused.exit_code == 2
    assert "another file than the one that `npm pack onnxruntime-web@1.30.0`" in refused.output
    assert not site.exists()
    assert not kept.exists()
    for _ in range(2):
        assert run("--onnx", model, "--web", site).exit_code == 0
    assert asked == ["https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"] * 2
    kept.write_bytes(b"damaged")
    answers.append(package.read_bytes())
    assert run("--onnx", model, "--web", site).exit_code == 0
    assert kept.read_bytes() == package.read_bytes()


def test_without_network(model: Path, package: Path, tmp_path: Path) -> None:
    result = run("--onnx", model, "--web", tmp_path / "site")
    assert result.exit_code == 2
    assert "cannot be fetched (Name or service not known); run `npm pack onnx" in result.output
    assert not (tmp_path / "site").exists()


def test_refusals(model: Path, package: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "index.html").write_text("<title>My page</title>", "utf-8")
    int8 = tmp_path / "a.int8.onnx"
    content = onnx.load(model)
    (entry,) = [prop for prop in content.metadata_props if prop.key == METADATA_KEY]
    entry.value = entry.value.replace('"precision":"fp32"', '"precision":"int8"')
    onnx.save(content, int8)
    given = ("--ort-web", package)
    for args, sentence in (
        (("--onnx", int8, "--web", "site", *given), "computes int8 differently"),
        (("--ckpt", "a.pt", "--int8", "--web", "site", *given), "computes int8 differently"),
        (
            ("--onnx", model, "--web", foreign, *given),
            "is a page that numclip-export did not write",
        ),
        (("--onnx", model, "--web", model, *given), "is a file; --web takes a folder"),
        (("--onnx", model, *given), "--ort-web is for --web DIR"),
        (("--onnx", model, "--web", "site", *given, "--tf32"), "--tf32 has no use with --onnx and"),
        (("--onnx", model, "--web", "site", "--ort-web", model), "is not the file that `npm pack"),
        (("--onnx", model, "--web", "site", "--ort-web", tmp_path / "no"), "No such file"),
        (("--onnx", package, "--web", "site", *given), "expected a .onnx"),
    ):
        result = run(*args)
        assert result.exit_code == 2, args
        assert sentence in result.output, result.output
        assert len(result.output.splitlines()) == 1
    assert not Path("site").exists()
    assert (foreign / "index.html").read_text("utf-8") == "<title>My page</title>"


def test_page_is_closed_to_the_outside() -> None:
    html = (web.PAGE / "index.html").read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == rules["style-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert "http" not in policy
    assert not re.search(r"<script(?! type=\"module\" src)|\sstyle=|\son\w+=", html)
    files = (*web.PAGE.glob("*.js"), *SHARED.glob("*.js"))
    scripts = {path.name: path.read_text("utf-8") for path in files}
    for name, script in scripts.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", script)
        addresses = set(re.findall(r"https?://[\w.]+", script)) - {"http://ns.adobe.com"}
        assert not addresses, name
    used = set(re.findall(r'\$\("(\w+)"\)', scripts["app.js"] + scripts["view.js"]))
    assert used == set(re.findall(r'id="(\w+)"', html)) - {"drop", "input"}
    assert web.GENERATOR in html
