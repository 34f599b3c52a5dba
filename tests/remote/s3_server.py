"""moto's S3 on loopback, behind which faults are put: `make s3-test`."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is</Message></Error>"
KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


class S3Server:
    """Faults by path ("/bucket/key") or of all: "503 SlowDown", "400 ExpiredToken", "truncated"."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.of_all: str = ""
        self.after = 0  # requests for objects, before `of_all` begins
        self.asked: Counter[str] = Counter()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        self.asked[f"{method} {path}"] += 1
        fault = ""
        if self.faults[path]:
            fault = self.faults[path].pop(0)
        elif self.after > 0 and method == "GET" and path.count("/") > 1:
            self.after -= 1
        else:
            fault = self.always.get(path, self.of_all)
        if fault == "truncated" and method == "GET":
            body = b"".join(self._moto(environ, start))
            return [body[: len(body) // 2]]
        if fault and fault != "truncated":
            status, _, code = fault.partition(" ")
            text = b"" if method == "HEAD" else _ERROR.format(code=code).encode()
            start(f"{status} X", [("Content-Type", "application/xml")])
            return [text]
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer
