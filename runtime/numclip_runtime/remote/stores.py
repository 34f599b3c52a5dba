"""Stores: file systems of fsspec that give the bytes of one object, within limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from numclip_runtime.errors import ImageError, import_extra, import_optional
from numclip_runtime.images import decode
from numclip_runtime.remote.addresses import SCHEMES, WEB, check_address, masked
from numclip_runtime.remote.failures import IncompleteError, StatusError, failure_of

REACH_S, SILENCE_S, TOTAL_S = 10.0, 30.0, 300.0  # limits of one try: connect, silence, all of it
MAX_REDIRECTS = 5
PIECE = 1 << 20  # bytes; of a body whose size is not stated
CONNECTIONS = 32  # at a time, with one store

Reserve: TypeAlias = Callable[[int], None]  # waits until there is room for so many bytes


@dataclass(frozen=True)
class RemoteObject:
    """One object of a store, not fetched."""

    address: str  # whole, with any signature: never shown
    store: Store
    path: str  # as the store names it
    size: int | None = None  # bytes, of a listing; None: not known

    @property
    def name(self) -> str:
        """The address as records and messages show it."""
        return masked(self.address)

    def get(self, reserve: Reserve) -> bytes:
        """Fetch it, in one try.

        Args:
            reserve: Called with numbers of bytes before they are read.

        Raises:
            ImageError: if it is too large.
            Exception: of fsspec and the libraries below it, see `failure_of`.
        """
        return self.store.get(self, reserve)


class Store:
    """A file system of fsspec."""

    def __init__(self, scheme: str, fs: Any) -> None:
        self.scheme, self.fs = scheme, fs
        # Some libraries would read on for ever from a server that sends a byte at a time
        self._limit = {"timeout": TOTAL_S} if getattr(fs, "async_impl", False) else {}

    def path_of(self, address: str) -> str:
        """Return the name of an object within the store."""
        return str(self.fs._strip_protocol(address))

    def get(self, wanted: RemoteObject, reserve: Reserve) -> bytes:
        """See `RemoteObject.get`."""
        size = self._size_of(wanted) if wanted.size is None else wanted.size
        require_size(wanted, size)
        reserve(size)
        content = bytes(self.fs.cat_file(wanted.path, **self._limit))
        if len(content) != size:
            raise IncompleteError(f"{len(content)} of {size} bytes came")
        return content

    def _size_of(self, wanted: RemoteObject) -> int:
        try:
            found = self.fs.info(wanted.path, **self._limit)
        except Exception as error:
            if failure_of(error).kind == "passing":
                raise
            # An answer without a body, as that about a size is, does not tell an expired token or a
            # missing bucket from a missing object
            self.fs.cat_file(wanted.path, start=0, end=1, **self._limit)
            raise
        if found.get("type") == "directory":
            raise ImageError(f"{wanted.name}: is a prefix of objects; end it with a slash.")
        return int(found["size"])


class WebStore(Store):
    """Web servers: the size is known once the answer has begun, if at all."""

    def get(self, wanted: RemoteObject, reserve: Reserve) -> bytes:
        """See `RemoteObject.get`."""
        from fsspec.asyn import sync

        response = sync(self.fs.loop, self._answer, wanted.path)
        try:
            stated = response.headers.get("Content-Length", "")
            size = int(stated) if stated.isdecimal() else None
            if size is not None:
                require_size(wanted, size)
                reserve(size)
            parts, count = list[bytes](), 0
            while size is None or count < size:
                if size is None:
                    reserve(PIECE)
                part = sync(self.fs.loop, _read, response, PIECE if size is None else size - count)
                if not part:
                    break
                parts.append(part)
                count += len(part)
                require_size(wanted, count)
        finally:
            self.fs.loop.call_soon_threadsafe(response.close)
        if size is not None and count != size:
            raise IncompleteError(f"{count} of {size} bytes came")
        return b"".join(parts)

    async def _answer(self, url: str) -> Any:
        import aiohttp

        session = await self.fs.set_session()
        response = await session.get(
            self.fs.encode_url(url),
            headers={"Accept-Encoding": "identity"},  # the size that is stated is the picture's
            max_redirects=MAX_REDIRECTS,
            timeout=aiohttp.ClientTimeout(TOTAL_S, sock_connect=REACH_S, sock_read=SILENCE_S),
        )
        if not 200 <= response.status < 300:
            wait = response.headers.get("Retry-After", "")
            response.close()
            seconds = float(wait) if wait.isdecimal() else None
            raise StatusError(response.status, response.reason or "", seconds)
        return response


async def _read(response: Any, most: int) -> bytes:
    parts, count = list[bytes](), 0
    while count < most and (part := await response.content.read(most - count)):
        parts.append(part)
        count += len(part)
    return b"".join(parts)


def require_size(wanted: RemoteObject, size: int) -> None:
    """Refuse an object that is too large for a picture.

    Raises:
        ImageError: with the limit.
    """
    if size > decode.MAX_CONTENT:
        raise ImageError(f"{wanted.name}: is larger than {decode.MAX_CONTENT:,} bytes, the limit.")


def store_of(address: str) -> Store:
    """Return the store of an address; credentials come from the environment and its files.

    Raises:
        UsageError: see `check_address`.
        MissingDependencyError: if fsspec, or the package for the scheme, is not installed.
    """
    scheme = check_address(address)
    import_extra("remote", "fsspec")
    needs = SCHEMES[scheme]
    if needs.module is not None:
        import_optional(
            needs.module,
            install=f"{scheme}:// needs it; install with: pip install {needs.package}",
            again=f"install it again with: pip install --force-reinstall {needs.package}",
        )
    import fsspec

    kind = fsspec.get_filesystem_class(scheme)
    # of an Azure address: the account
    given = kind._get_kwargs_from_urls(address) if scheme.startswith("a") else {}
    return _opened_store(scheme, kind, tuple(sorted(given.items())))


@lru_cache(16)
def _opened_store(scheme: str, kind: Any, given: tuple[tuple[str, Any], ...]) -> Store:
    # A listing that is kept would grow with the bucket, and be out of date
    options: dict[str, Any] = {"use_listings_cache": False, **dict(given)}
    if scheme in WEB:
        # Proxies of the environment
        fs = kind(skip_instance_cache=True, client_kwargs={"trust_env": True}, **options)
        return WebStore(scheme, fs)
    if scheme in ("s3", "s3a"):
        # Tries are counted in one place, see `fetch`; botocore keeps 10 connections by default
        options["config_kwargs"] = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": REACH_S,
            "read_timeout": SILENCE_S,
        }
        # More would mean to read one object in pieces: with a question for its size before, and
        # with zeros in place of what a piece lacks
        fs = kind(skip_instance_cache=True, max_concurrency=1, **options)
        fs.retries = 1
        return Store(scheme, fs)
    return Store(scheme, kind(skip_instance_cache=scheme != "memory", **options))


def object_at(address: str) -> RemoteObject:
    """Return the object of an address, without asking for it; raises as `store_of`."""
    store = store_of(address)
    return RemoteObject(address, store, store.path_of(address))
