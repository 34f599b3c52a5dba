"""The flags of `numclip serve`, and their checks before a model is opened."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.app.monitoring.monitor_options import NO_MONITOR, MonitorOptions
from numclip_runtime.backends import DEFAULTS, OpenOptions
from numclip_runtime.errors import UsageError
from numclip_runtime.files import naming, read_limited, require_writable

LEAST_TOKEN = 16  # characters; shorter ones can be guessed
MOST_TOKEN = 4096  # bytes of the file


@dataclass(frozen=True)
class ServeOptions:
    """The flags of `numclip serve`."""

    opening: OpenOptions = DEFAULTS  # of the model; the server sets `optimize_for`
    host: str = "127.0.0.1"  # address to listen on
    port: int = 8000  # 0: a free one
    token_file: Path | None = None  # holds the token that clients send
    no_token: bool = False  # whoever reaches the address may use the server
    max_wait: float = 1.0  # seconds that a picture may wait for its turn
    max_bytes: int = 64 << 20  # of the body of a request
    max_images: int = 64  # in one request
    max_buffer: int = 1 << 30  # bytes of all bodies in memory, being read or waiting
    read_timeout: float = 60.0  # seconds for a request to arrive
    batch_size: int | None = None  # images per run of the network; None: see `plan_stream`
    workers: int | None = None  # threads that decode; None: one per usable core
    reload_every: float = 2.0  # seconds between two looks at the model file; 0: never
    drain_delay: float = 0.0  # seconds of "not ready" before the server stops to accept
    drain_timeout: float = 30.0  # seconds for requests under way, once it was asked to stop
    quiet: bool = False  # no line per request
    monitoring: MonitorOptions = NO_MONITOR  # its file and reference, if any
    no_monitor: bool = False  # by default a model that has a reference gets a monitor

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Refuse at once what would fail later.

        Raises:
            UsageError: if flags contradict each other, or a file cannot be written.
        """
        self.token()
        own = self.monitoring
        given = (own.monitor, own.reference, own.every)
        if self.no_monitor and any(one is not None for one in given):
            raise UsageError("--no-monitor contradicts the other options of the monitor.")
        if own.monitor is not None:
            require_writable(own.monitor)

    def token(self) -> bytes | None:
        """Return the token that clients must send; None: they need none.

        Raises:
            UsageError: if the address is reached from elsewhere and nothing is said about a token,
                or its file holds none.
        """
        if self.token_file is None:
            if not (self.is_local or self.no_token):
                raise UsageError(
                    f"--host {self.host} is reached from other machines; give --token-file FILE "
                    "with a secret that clients send, or --no-token if everybody may use it."
                )
            return None
        if self.no_token:
            raise UsageError("--token-file and --no-token contradict each other; leave one out.")
        with naming(self.token_file):
            token = read_limited(self.token_file, MOST_TOKEN).strip()
        if len(token) < LEAST_TOKEN or not all(32 < byte < 127 for byte in token):
            raise UsageError(
                f"{self.token_file}: holds no token, which is one word of at least {LEAST_TOKEN} "
                "letters and digits; make one with `openssl rand -hex 32`."
            )
        return token
