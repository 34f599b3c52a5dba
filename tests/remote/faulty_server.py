"""A web server on loopback that gives pictures, and fails as it is told."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyServer:
    """Serves `files` by path; a path's `faults` come first, one at each request.

    A fault is a status ("500", "503 1" with Retry-After, "302 /there"), "slow", "truncated",
    "reset", "silent", "endless", "chunked" or "cut chunks".
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}  # a fault of each request
        self.asked: Counter[str] = Counter()  # requests by path
        self.most_open = self._open = 0  # requests at a time
        self._lock = threading.Lock()
        self.sent = 0  # bytes of bodies
        self.delay_s = 0.0
        self.stop = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with suppress(OSError):
                    owner.counted(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Say nothing of clients that have gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()

    def counted(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        try:
            self._answer(request)
        finally:
            with self._lock:
                self._open -= 1

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        with self._lock:
            self.asked[path] += 1
            fault = self.faults[path].pop(0) if self.faults[path] else self.always.get(path, "")
        time.sleep(self.delay_s)
        body = self.files.get(path, b"")
        if not fault and path not in self.files:
            fault = "404"
        if fault[:3].isdecimal():
            status, _, extra = fault.partition(" ")
            request.send_response(int(status))
            if extra:
                name = "Location" if status.startswith("3") else "Retry-After"
                request.send_header(name, extra.replace("~", request.path))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "reset":  # RST in place of an answer
            linger = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.close_connection = True
            request.connection.close()
            return
        if fault == "silent":
            self.stop.wait(30)
            return
        request.send_response(200)
        if fault in ("endless", "chunked", "cut chunks"):
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            block = body if fault != "endless" else bytes(1 << 16)
            while not self.stop.is_set():
                request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
                self.sent += len(block)
                if fault != "endless":
                    break
            if fault == "chunked":
                request.wfile.write(b"0\r\n\r\n")
            else:
                request.close_connection = True
            return
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault == "truncated":
            request.wfile.write(body[: len(body) // 2])
            request.close_connection = True
            return
        if fault == "slow":
            for start in range(0, len(body), 100):
                request.wfile.write(body[start : start + 100])
                request.wfile.flush()
                time.sleep(0.005)
            return
        request.wfile.write(body)
        self.sent += len(body)
