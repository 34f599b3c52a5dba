"""A stand-in for huggingface.co on this machine: its repositories, uploads and downloads.

It answers as the hub does to what `huggingface_hub` asks. Large files take the way of Git LFS
with one part; the hub's own way for them (Xet) is not there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNER_TOKEN, READER_TOKEN = "hf_owner", "hf_reader"


@dataclass
class Repository:
    """Files of each commit, by name; and the commits that branches and tags name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files to what main holds; return the new commit."""
        before = self.commits.get(self.names.get("main", ""), {})
        oid = hashlib.sha1(repr((before, files)).encode()).hexdigest()
        self.commits[oid] = before | files
        self.names["main"] = oid
        return oid

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Return the files of a commit, branch or tag; None: there is no such revision."""
        return self.commits.get(self.names.get(revision, revision))


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # paths
    large: dict[str, bytes] = field(default_factory=dict)  # content by SHA-256


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._download(with_body=False)

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        if self.path == "/api/whoami-v2":
            token = self._token()
            if token not in (OWNER_TOKEN, READER_TOKEN):
                return self._json({"error": "Invalid credentials"}, 401)
            return self._json({"name": token.removeprefix("hf_"), "orgs": []})
        if self.path.startswith("/api/models/"):
            name = "/".join(self.path.split("/")[3:5]).partition("?")[0]
            found = self.hub.repositories.get(name)
            if found is None:
                return self._missing("RepoNotFound")
            return self._json({"id": name, "private": found.private, "tags": [], "siblings": []})
        self._download(with_body=True)

    def do_PUT(self) -> None:
        content = self._content()
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def do_POST(self) -> None:
        self.hub.asked.append(self.path)
        content = self._content()
        if self._token() != OWNER_TOKEN:
            return self._json({"error": "Forbidden"}, 403)
        if self.path == "/api/repos/create":
            return self._create(json.loads(content))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                item | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{item['oid']}"}}}
                for item in json.loads(content)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": path, "uploadMode": "lfs" if path.endswith(".onnx") else "regular"}
                | {"shouldIgnore": False, "oid": None}
                for path in (file["path"] for file in json.loads(content)["files"])
            ]
            return self._json({"files": files})
        assert "/commit/" in self.path, self.path
        oid = self.hub.repositories[name].commit(self._committed(content))
        url = f"{self.hub.address}/{name}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url})

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
        url = f"{self.hub.address}/{name}"
        if name in self.hub.repositories:
            error = "You already created this model repo"
            return self._json({"error": error, "url": url}, 409)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=bool(private))
        self._json({"url": url, "name": name})

    def _committed(self, content: bytes) -> dict[str, bytes]:
        files = {}
        for entry in map(json.loads, content.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        return files

    def _download(self, *, with_body: bool) -> None:
        if not with_body:
            self.hub.asked.append(self.path)
        repository, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository not in self.hub.repositories:
            return self._missing("RepoNotFound")
        files = self.hub.repositories[repository].files(revision)
        if files is None:
            return self._missing("RevisionNotFound")
        if name not in files:
            return self._missing("EntryNotFound")
        names = self.hub.repositories[repository].names
        self.send_response(200)
        self.send_header("X-Repo-Commit", names.get(revision, revision))
        self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
        self.send_header("Content-Length", str(len(files[name])))
        self.end_headers()
        if with_body:
            self.wfile.write(files[name])

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def standin_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
