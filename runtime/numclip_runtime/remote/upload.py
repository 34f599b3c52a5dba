"""An output in an object store: written on this machine, and sent when it is whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from numclip_runtime.console import say
from numclip_runtime.errors import StoreError, UsageError
from numclip_runtime.model_files.given import kind_of
from numclip_runtime.remote import fetch
from numclip_runtime.remote.addresses import WEB, check_address, masked
from numclip_runtime.remote.failures import IncompleteError, failure_of


@dataclass(frozen=True)
class RemoteOutput:
    """The object that an output becomes."""

    address: str

    @property
    def suffix(self) -> str:
        """The suffix of its name."""
        return PurePosixPath(self.address).suffix

    def __str__(self) -> str:
        return masked(self.address)

    def check(self) -> None:
        """Ask for the place, before the work is done.

        Raises:
            UsageError: if nothing can be written there.
            StoreError: if there is no such bucket, or it cannot be read.
            MissingDependencyError: if a package for it is not installed.
        """
        if check_address(self.address) in WEB:
            raise UsageError(f"{self}: nothing is sent to web servers; give a file or s3://...")
        if kind_of(self.address) == "a picture":
            raise UsageError(f"{self}: has the name of a picture; give another name.")
        wanted = fetch.object_of(self.address)
        if "/" not in wanted.path.strip("/") and wanted.store.scheme != "memory":
            raise UsageError(f"{self}: names no object; add one: {self}/records.jsonl")

        def question() -> None:
            try:  # the answer to a request for content tells what is wrong
                wanted.store.fs.cat_file(wanted.path, start=0, end=1)
            except Exception as error:
                # There is no such object yet; or it may be written, and not read
                if failure_of(error).kind not in ("missing", "refused", "other"):
                    raise

        fetch.ask(fetch.place_of_store(self.address), question)

    @contextmanager
    def through_file(self) -> Iterator[Path]:
        """Yield a file of this machine; what it holds at the end becomes the object, at once.

        If the file cannot be sent, it stays, and a sentence says where. An exception inside, such
        as that of a store that can be read no longer, does not keep it from being sent.

        Raises:
            StoreError: if it cannot be sent.
        """
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="numclip-"))
        file = folder / PurePosixPath(self.address).name
        try:
            try:
                yield file
            except BaseException:
                if file.exists():
                    try:
                        self._send_or_keep(file)
                    except StoreError as error:  # the first one counts
                        say(f"Error: {error}")
                raise
            if file.exists():
                self._send_or_keep(file)
        finally:
            with suppress(OSError):  # it stays with the file in it
                folder.rmdir()

    def _send_or_keep(self, file: Path) -> None:
        try:
            self._send(file)
        except StoreError as error:
            raise StoreError(f"{str(error).rstrip('.')}; the records are in {file}.") from None
        except BaseException:  # such as a second Ctrl-C
            say(f"{self}: not sent; the records are in {file}.")
            raise
        file.unlink()

    def _send(self, file: Path) -> None:
        wanted, tried, size = fetch.object_of(self.address), 0, file.stat().st_size
        fs = wanted.store.fs
        while True:
            tried += 1
            try:
                fs.put_file(str(file), wanted.path)
                if (there := fs.info(wanted.path)["size"]) != size:
                    raise IncompleteError(f"{there} of {size} bytes arrived")
                return
            except Exception as error:
                failure = failure_of(error)
                if failure.kind != "passing" or tried >= fetch.RETRIES.tries:
                    raise StoreError(f"{self}: cannot be written ({failure.reason}).") from None
                time.sleep(fetch.RETRIES.wait_s(tried, failure.wait_s))
