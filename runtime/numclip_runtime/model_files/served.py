"""A model that a Triton server runs: its address, its config, and the server's errors as sentences.

The config of a model that `numclip-export --triton` wrote carries numclip's metadata, so an address
is all that a client needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numclip_runtime.errors import ModelError, UsageError, import_extra
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata
from numclip_runtime.model_files.names import address_text

SHA256_KEY = f"{METADATA_KEY}_sha256"  # of the model file, in a config's parameters
ADDRESS_FORM = "triton://HOST:PORT/MODEL or triton://HOST:PORT/MODEL/VERSION"
GRPC_PORT = 8001  # Triton's own default
CONNECT_S = 5.0  # for each question before the first picture
_ADDRESS = re.compile(
    r"triton:/{1,2}(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
    r"(?:/(?P<model>[^/?\s]+)(?:/(?P<version>\d{1,18}))?)?/?(?:\?timeout=(?P<timeout>[\d.]{1,9}))?"
)
_NOT_READY = ("unknown model", "not ready", "no available versions", "is not found")
_NEVER_CONNECTED = ("connect", "dns", "socket", "resol", "unreachable", "closed", "reset", "goaway")


@dataclass(frozen=True)
class Address:
    """The address of a model on a server, or of the server alone."""

    host: str
    port: int
    model: str | None  # None: the server alone
    version: str = ""  # "": the newest that is served
    timeout_s: float = 30.0  # for a request, its repetitions included
    identity: str | None = None  # that the model must have, see `identity_of`; None: any

    @classmethod
    def parse(cls, name: str | os.PathLike[str], *, whole: bool = True) -> Address:
        """Read "triton://HOST:PORT/MODEL/VERSION?timeout=SECONDS"; all after MODEL may be left out.

        Args:
            name: The address. The port is that of gRPC.
            whole: Whether a model has to be named.

        Raises:
            UsageError: if it is of another form.
        """
        text = address_text(name)
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UsageError(f"{text}: not the address of a model, which is {ADDRESS_FORM}.")
        if whole and found["model"] is None:
            raise UsageError(
                f"{text}: names a server and no model; `numclip-run doctor {text}` lists its "
                "models."
            )
        port, timeout = int(found["port"] or GRPC_PORT), found["timeout"]
        try:
            seconds = cls.timeout_s if timeout is None else float(timeout)
        except ValueError:  # such as 1.2.3
            seconds = 0.0
        if not 1 <= port <= 65_535:
            raise UsageError(f"{text}: ports go from 1 to 65535.")
        if not 0.1 <= seconds <= 86_400:
            raise UsageError(f"{text}: the timeout must be from 0.1 to 86400 seconds.")
        return cls(found["host"], port, found["model"], found["version"] or "", seconds)

    @property
    def server(self) -> str:
        """Host and port, as gRPC wants them."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        words = [f"triton://{self.server}", self.model, self.version]
        return "/".join(word for word in words if word)


class ServedModel:
    """The model of an address as it was when it was opened, for copies that open it again.

    Args:
        address: Its address, with the identity that it had.
    """

    def __init__(self, address: Address) -> None:
        self.path = Path(address.model or "")  # only its name is shown
        self._address = address

    def pin(self) -> str:
        """Return the identity that the model had, which changes with the file or the metadata."""
        assert self._address.identity is not None
        return self._address.identity

    @contextmanager
    def reopened(self) -> Iterator[Address]:
        """Yield the address; opening it compares the identity."""
        yield self._address


class UnreachableError(ModelError):
    """No server answers at an address, or not in time; asking again may help."""


class BusyError(ModelError):
    """The server's queue is full; asking again will help."""


def grpc_client(address: Address) -> Any:
    """Return a client of tritonclient for an address; it connects at its first question.

    Raises:
        MissingDependencyError: if the extra `triton` is not installed.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else it writes its own lines to stderr
    return import_extra("triton", "tritonclient.grpc").InferenceServerClient(address.server)


@contextmanager
def explained(address: Address, seconds: float = CONNECT_S) -> Iterator[None]:
    """Turn an error of tritonclient into one sentence.

    Args:
        address: The model that was asked for.
        seconds: How long the client waited.

    Raises:
        UnreachableError: if no server answered in time.
        BusyError: if its queue is full.
        ModelError: if it has no such model, or refuses the request, or the model fails.
    """
    errors = import_extra("triton", "tritonclient.utils")
    try:
        yield
    except errors.InferenceServerException as error:
        raise _sentence(address, error, seconds) from None


def _sentence(address: Address, error: Any, seconds: float) -> ModelError:
    status = str(error.status()).rpartition(".")[2]
    reason = _one_line(error.message()) or status
    lowered = reason.lower()
    if status == "DEADLINE_EXCEEDED":
        return UnreachableError(f"{address}: the server did not answer within {seconds:g} s.")
    if "queue size" in lowered or "timeout expired" in lowered or status == "RESOURCE_EXHAUSTED":
        return BusyError(f"{address}: the server is busy ({reason}).")
    if status == "NOT_FOUND" or any(words in lowered for words in _NOT_READY):
        return ModelError(f"{address}: the server does not have this model ready ({reason}).")
    if status == "UNAVAILABLE" and any(word in lowered for word in _NEVER_CONNECTED):
        cause = reason.rpartition(": ")[2].rstrip(")]")  # the libraries that met it precede it
        return UnreachableError(
            f"{address}: no Triton server answers at {address.server} ({cause}); the address is "
            f"that of its gRPC port, {GRPC_PORT} unless it was told otherwise."
        )
    if status in ("UNAVAILABLE", "CANCELLED"):
        return UnreachableError(f"{address}: the server stopped answering ({reason}).")
    if status == "UNIMPLEMENTED":
        return ModelError(f"{address}: {address.server} is not a Triton server ({reason}).")
    return ModelError(f"{address}: the server refused the request ({status}: {reason}).")


def _one_line(text: object) -> str:
    """Return the first line of a server's text, cut where it becomes long."""
    return next(iter(str(text or "").strip().splitlines()), "")[:300].rstrip(".")


def models_of(client: Any, address: Address) -> list[tuple[str, str, str, str]]:
    """Return name, version, state and reason of each model in a server's repository."""
    with explained(address):
        index = client.get_model_repository_index(client_timeout=CONNECT_S)
    return [(one.name, one.version, one.state, _one_line(one.reason)) for one in index.models]


def config_of(client: Any, address: Address) -> Any:
    """Return the config of a model, Triton's `ModelConfig`.

    Raises:
        UnreachableError: if no server answers.
        ModelError: if it has no such model, or that is not ready; the message says what it has.
    """
    try:
        with explained(address):
            answer = client.get_model_config(
                address.model, address.version, client_timeout=CONNECT_S
            )
    except (UnreachableError, BusyError):
        raise
    except ModelError:
        models = models_of(client, address)
        here = [one for one in models if one[0] == address.model]
        if not here:
            ready = sorted({name for name, _, state, _ in models if state == "READY"})
            raise ModelError(
                f"{address}: the server has no model of this name; it has "
                f"{', '.join(ready) or 'none that is ready'}."
            ) from None
        if served := [version for _, version, state, _ in here if state == "READY"]:
            raise ModelError(
                f"{address}: the server has no version {address.version} of this model ready; it "
                f"has {', '.join(served)}."
            ) from None
        state, reason = here[0][2] or "not loaded", here[0][3]
        told = f"{state}: {reason}" if reason else state
        raise ModelError(
            f"{address}: this model is not ready ({told}); see the log of the server."
        ) from None
    return answer.config


def config_text(config: Any, key: str) -> str | None:
    """Return a parameter of a config; None: it has none of this name."""
    found: Mapping[str, Any] = config.parameters
    return found[key].string_value if key in found else None


def config_metadata(config: Any, address: Address) -> ModelMetadata:
    """Return numclip's metadata, which a config carries.

    Raises:
        ModelError: if it carries none, or they cannot be read.
    """
    text = config_text(config, METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{address}: this model's config holds no numclip metadata, so its bins and "
            "preprocessing are unknown; write its folder with `numclip-export --triton DIR`."
        )
    return ModelMetadata.from_json(text, source=str(address))


def identity_of(config: Any) -> str:
    """Return a SHA-256 that changes with the model file or the metadata."""
    import hashlib  # 5 ms of every start

    texts = [config_text(config, key) or "" for key in (METADATA_KEY, SHA256_KEY)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def served_metadata(name: str | os.PathLike[str]) -> ModelMetadata:
    """Return the metadata of the model at an address.

    Raises:
        ModelError: if no server answers, or it has no such model of numclip's.
        MissingDependencyError: if the extra `triton` is not installed.
        UsageError: if it is no address.
    """
    address = Address.parse(name)
    client = grpc_client(address)
    try:
        return config_metadata(config_of(client, address), address)
    finally:
        client.close()


def server_facts(name: str | os.PathLike[str]) -> dict[str, str]:
    """Return what there is at an address, for people: the server and its models.

    Raises:
        ModelError: if no server answers.
    """
    address = replace(Address.parse(name, whole=False), version="")
    client = grpc_client(address)
    try:
        with explained(address):
            server = client.get_server_metadata(client_timeout=CONNECT_S)
        facts = {"server": f"{server.name} {server.version} at {address.server}"}
        for model, version, state, reason in models_of(client, address):
            told = " ".join(filter(None, (f"version {version}" if version else "", state)))
            facts[f"model {model}"] = f"{told}{f' ({reason})' if reason else ''}"
        return facts
    finally:
        client.close()
