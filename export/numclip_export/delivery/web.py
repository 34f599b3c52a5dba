"""A static page that computes a model's numbers in the browser: `numclip-export --web DIR`.

The folder holds the page (`page/`, and what it shares with `numclip serve`; written by hand, no
build step), the ONNX file, and onnxruntime-web, which comes from npm in one pinned version and is
copied in: the page fetches nothing from anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path

from numclip_runtime import UsageError
from numclip_runtime.console import say
from numclip_runtime.files import atomic_path, naming, read_limited
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.serve.static_files import SHARED
from numclip_runtime.system import cache_folder

ORT_WEB = "onnxruntime-web-1.30.0"
# npm's own checksum of the package: `npm view onnxruntime-web@1.30.0 dist.integrity`
ORT_WEB_SHA512 = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
ORT_WEB_BYTES = 33_106_585
REGISTRY = "https://registry.npmjs.org"
# Name in the package -> name in the page's folder `ort`: many servers do not know what .mjs is.
# WebAssembly on the CPU: 14 MB, 3.7 MB where the server compresses. With WebGPU it would be 27 MB.
ORT_WEB_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
PAGE = Path(__file__).with_name("page")
MODEL = "model.onnx"
GENERATOR = '<meta name="generator" content="numclip-export">'  # of a page that may be replaced
_AT_NPM = ORT_WEB.replace("web-", "web@")
_TIMEOUT_S = 30


@dataclass(frozen=True)
class WebPage:
    """A page that will be written."""

    folder: Path  # made if it does not exist; an older page in it is replaced
    given: Path | None = None  # onnxruntime-web, see `ort_web`

    @classmethod
    def of(cls, folder: Path | None, package: Path | None, precision: Precision) -> WebPage | None:
        """Return the page that the options ask for; None: no page.

        Args:
            folder: Of --web.
            package: Of --ort-web.
            precision: Of the model.

        Raises:
            UsageError: if the options contradict each other, or the folder cannot become a page.
        """
        if folder is None:
            if package is not None:
                raise UsageError("--ort-web is for --web DIR; leave it out, or add --web.")
            return None
        _refuse_int8(precision)
        refuse_page(folder)
        return cls(folder, package)

    @cached_property
    def package(self) -> bytes:
        """onnxruntime-web as npm packs it; see `ort_web`."""
        return ort_web(self.given)

    def write(self, model: Path) -> str:
        """Write the page of a model, and return two lines for people.

        Args:
            model: ONNX file of `numclip-export`, fp32 or fp16.

        Raises:
            ModelError: if numclip did not make the model.
            UsageError: if it is INT8, or the folder cannot be written.
        """
        with OpenModel(model) as file:
            _refuse_int8(read_onnx_metadata(file).precision)
            check_graph(file)
        size = write_page(model, self.folder, self.package)
        return (
            f"{self.folder}: a page of {model.name}; a browser loads {size / 1e6:.0f} MB\n"
            f"to see it: python -m http.server -d {shlex.quote(str(self.folder))}, then open "
            "http://localhost:8000 (opened as a file, it cannot load its model)"
        )


def ort_web(given: Path | None = None) -> bytes:
    """Return onnxruntime-web as npm packs it: from a file, this user's cache, or npm.

    Args:
        given: The file that `npm pack` writes. None: fetched from npm once, and kept in the cache.

    Raises:
        UsageError: if it cannot be read or fetched, or is not the pinned one.
    """
    if given is not None:
        with naming(given):
            package = read_limited(given, ORT_WEB_BYTES)
        return _checked(package, f"{given}: is not the file")
    kept = cache_folder() / f"{ORT_WEB}.tgz"
    with suppress(OSError, UsageError):
        return _checked(read_limited(kept, ORT_WEB_BYTES), f"{kept}: is not the file")
    package = _checked(_fetched(), "the registry of npm sent another file than the one")
    with suppress(OSError, UsageError):  # no cache: fetched again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as temporary:
            temporary.write_bytes(package)
    return package


def refuse_page(folder: Path) -> None:
    """Refuse a folder for a page that cannot be one, or that holds a page of somebody else.

    Raises:
        UsageError: if so.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; --web takes a folder.")
    index = folder / "index.html"
    if index.is_file() and GENERATOR not in index.read_text("utf-8", "replace"):
        raise UsageError(
            f"{index}: is a page that numclip-export did not write; choose another folder."
        )


def write_page(model: Path, folder: Path, package: bytes) -> int:
    """Write a page that runs a model; return the bytes that a browser loads.

    Args:
        model: ONNX file of `numclip-export`, fp32 or fp16.
        folder: Made if it does not exist. An older page in it is replaced.
        package: See `ort_web`.

    Raises:
        UsageError: if the folder cannot be written.
    """
    refuse_page(folder)
    (folder / "ort").mkdir(parents=True, exist_ok=True)
    if not (folder / MODEL).exists() or not model.samefile(folder / MODEL):
        with atomic_path(folder / MODEL) as temporary:
            shutil.copyfile(model, temporary)
    total = (folder / MODEL).stat().st_size
    for name, content in _page_files(package):
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
        total += len(content)
    return total


def _page_files(package: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file but the model; index.html comes last."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for inside, name in ORT_WEB_FILES.items():
            member = archive.extractfile(f"package/dist/{inside}")
            assert member is not None  # its checksum was right
            yield f"ort/{name}", member.read()
    files = [*SHARED.iterdir(), *PAGE.iterdir()]
    for path in sorted(files, key=lambda path: path.suffix == ".html"):
        yield path.name, path.read_bytes()


def _checked(package: bytes, complaint: str) -> bytes:
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != ORT_WEB_SHA512:
        raise UsageError(f"{complaint} that `npm pack {_AT_NPM}` writes.")
    return package


def _fetched() -> bytes:
    url = f"{REGISTRY}/onnxruntime-web/-/{ORT_WEB}.tgz"
    say(f"fetching {url} ({ORT_WEB_BYTES / 1e6:.0f} MB), once")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(ORT_WEB_BYTES + 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{url}: cannot be fetched ({reason}); run `npm pack {_AT_NPM}` where npm can be "
            "reached, and give the file that it writes with --ort-web."
        ) from None
    return content


def _refuse_int8(precision: Precision) -> None:
    """Refuse INT8: the browser's kernels round otherwise than those on a CPU.

    Of the range, 60 photos differed from `numclip-run` by 0.27 % at worst with the file for a CPU,
    and 3.5 % with the one for a GPU; fp16 by 0.00007 %.
    """
    if precision == "int8":
        raise UsageError(
            "a browser computes int8 differently from numclip-run, by up to 3 % of the range; "
            "--web takes fp32, or fp16 for half the download."
        )
