"""One object, tried several times; and when to give up on a whole store."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from numclip_runtime.errors import ImageError, NumclipError, StoreError, UsageError
from numclip_runtime.remote.addresses import SCHEMES, masked, scheme_of
from numclip_runtime.remote.failures import Failure, IncompleteError, failure_of
from numclip_runtime.remote.stores import RemoteObject, Reserve, object_at

_T = TypeVar("_T")


@dataclass(frozen=True)
class Retries:
    """How failures that may pass are met: with exponential back-off, and jitter."""

    tries: int = 5
    first_s: float = 0.5  # the mean wait before the second try; each later one is twice as long
    most_s: float = 20.0  # before jitter
    most_asked_s: float = 60.0  # of what a server asks for by Retry-After
    # Objects of one store in a row that nothing was got of: then the fault is the store's, or the
    # credentials', and millions more would only be as many failed records
    give_up_after: int = 50

    def wait_s(self, tried: int, asked_s: float = 0.0) -> float:
        """Return the seconds to wait after this many tries, of which the last has failed."""
        mean: float = min(self.first_s * 2 ** (tried - 1), self.most_s)
        # Clients that failed together do not come back together
        return max(mean * random.uniform(0.5, 1.5), min(asked_s, self.most_asked_s))


RETRIES = Retries()  # assign another to change it


class Watch:
    """Notice that a store gives nothing any more; threads share it."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()  # by store
        self._lock = threading.Lock()

    def got(self, place: str) -> None:
        """Note an answer that is about one object."""
        if self._in_a_row:
            with self._lock:
                self._in_a_row.pop(place, None)

    def failed(self, place: str) -> int:
        """Note a failure that may be about all objects; return how many came in a row."""
        with self._lock:
            self._in_a_row[place] += 1
            return self._in_a_row[place]


def fetch(
    wanted: RemoteObject,
    *,
    watch: Watch | None = None,
    reserve: Reserve = lambda size: None,
    again: Callable[[], object] = lambda: None,
    pause: Callable[[float], object] | None = None,
) -> bytes:
    """Return the content of an object.

    Args:
        wanted: The object.
        watch: Of the other objects; None: this is the only one.
        reserve: Called with numbers of bytes before they are read.
        again: Called before each new try: what was reserved is free.
        pause: Waits for a number of seconds, or raises; None: sleeps.

    Raises:
        ImageError: if this object cannot be read.
        StoreError: if no other object of its store could be, either.
    """
    place, retries, tried = place_of_store(wanted.address), RETRIES, 0
    while True:
        tried += 1
        try:
            content = wanted.get(reserve)
        except (ImageError, StoreError, MemoryError):  # what pause and reserve raise is ours
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure.kind == "passing" and tried < retries.tries:
                (pause or time.sleep)(retries.wait_s(tried, failure.wait_s))
                again()
                if isinstance(error, IncompleteError):  # it may have another size by now
                    wanted = RemoteObject(wanted.address, wanted.store, wanted.path)
                continue
            raise _refusal(wanted, failure, tried, place, watch) from None
        if watch is not None:
            watch.got(place)
        return content


def _refusal(
    wanted: RemoteObject, failure: Failure, tried: int, place: str, watch: Watch | None
) -> ImageError | StoreError:
    if failure.kind in ("credentials", "store"):
        return store_error(place, failure)
    if failure.kind == "missing":
        if watch is not None:
            watch.got(place)
        return ImageError(f"{wanted.name}: no such object.")
    if watch is not None:
        most, count = RETRIES.give_up_after, watch.failed(place)
        if count >= most:
            return StoreError(
                f"{place}: gave none of the last {count} objects ({failure.reason}); stopped, "
                f"since the others would fail as well{_way_out(place)}."
            )
    if failure.kind == "passing":
        return ImageError(f"{wanted.name}: not fetched in {tried} tries ({failure.reason}).")
    return ImageError(f"{wanted.name}: cannot be fetched ({failure.reason}).")


def store_error(place: str, failure: Failure) -> StoreError:
    """Return the error of a bucket, prefix or host of which nothing can be read."""
    way_out = _way_out(place) if failure.kind in ("credentials", "refused") else ""
    return StoreError(f"{place}: cannot be read ({failure.reason}){way_out}.")


def _way_out(place: str) -> str:
    credentials = SCHEMES[scheme_of(place) or ""].credentials
    return f"; {credentials}" if credentials else ""


def ask(place: str, question: Callable[[], _T]) -> _T:
    """Ask a store something before the work begins; what passes is tried again.

    Args:
        place: It is about, for people.
        question: Raises what fsspec raises.

    Raises:
        StoreError: if there is no answer.
    """
    tried = 0
    while True:
        tried += 1
        try:
            return question()
        except (NumclipError, MemoryError):
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure.kind != "passing" or tried >= RETRIES.tries:
                raise store_error(place, failure) from None
            time.sleep(RETRIES.wait_s(tried, failure.wait_s))


def place_of_store(address: str) -> str:
    """Return bucket or host of an address: "s3://bucket"."""
    head, slashes, rest = masked(address).partition("://")
    return head.lower() + slashes + rest.partition("/")[0].partition("?")[0]


def object_of(address: str) -> RemoteObject:
    """Return the object of an address, without asking for it.

    Raises:
        UsageError: if the address cannot be read.
        MissingDependencyError: if a package for it is not installed.
        StoreError: if the package refuses the environment, such as a profile that is not there.
    """
    return ask(place_of_store(address), lambda: object_at(address))


def object_or_error(address: str) -> RemoteObject | ImageError:
    """Return the object of an address of a list, where a wrong one is one failed record.

    Raises:
        MissingDependencyError: if a package is missing, which the next address needs as well.
        StoreError: see `object_of`.
    """
    try:
        return object_of(address)
    except UsageError as error:
        return ImageError(str(error))
