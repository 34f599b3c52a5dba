"""Triton backend: a server runs the network, and this process does the rest, over gRPC."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from numclip_runtime.backends import DEFAULTS, OpenOptions, check_results, check_tensors
from numclip_runtime.backends.after_fork import FORKED, forget_after_fork, never_freed
from numclip_runtime.errors import ModelError, UsageError, import_extra
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME, Arithmetic
from numclip_runtime.model_files.served import (
    SHA256_KEY,
    Address,
    BusyError,
    UnreachableError,
    config_metadata,
    config_of,
    config_text,
    explained,
    grpc_client,
    identity_of,
)
from numclip_runtime.preprocess import FloatArray, InputArray
from numclip_runtime.signals import stop_requests

TRITON_TYPES = {"TYPE_FP32": "float32", "TYPE_UINT8": "uint8"}
WIRE_TYPES = {"float32": "FP32", "uint8": "UINT8"}
MOST_LANES = 16  # requests at a time: a server's queue is for all of its clients
GONE_S = 5.0  # how long a server that answered before is asked again; it may be restarting
_LOOK_S = 0.2  # how often a signal to stop is looked for: after it the run waits for its threads
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.02, 1.0  # before a request is repeated; doubled each time


class TritonBackend:
    """Run a model that a Triton server holds.

    A full queue, and a server that stops answering, are met by asking again, each time after twice
    the wait, until the address's timeout is over.

    Args:
        address: Of a model that `numclip-export --triton` described to the server.
        options: `sha256` is compared with the one that the config states.

    Raises:
        MissingDependencyError: if tritonclient is not installed.
        ModelError: if no server answers, or it has no such model, or that is not one of numclip's,
            or the config contradicts the metadata in it.
    """

    name = "triton"
    threads: int | None = None

    def __init__(self, address: Address, options: OpenOptions = DEFAULTS) -> None:
        library = import_extra("triton", "tritonclient.grpc")
        client = grpc_client(address)
        try:
            config = config_of(client, address)
            self.metadata = config_metadata(config, address)
            identity = identity_of(config)
            if address.identity not in (None, identity):
                raise ModelError(
                    f"{address}: is another model than the one that was loaded before; load it "
                    "again."
                )
            _check_sha256(config, address, options.sha256)
            self._check_config(config, address)
        except BaseException:
            client.close()
            raise
        self.provider = config.backend or config.platform or "a server"
        self.device = address.server
        self.precision: Arithmetic = self.metadata.precision
        self.notes: list[str] = []
        groups = config.instance_group
        on_cpu = bool(groups) and all(group.kind == group.KIND_CPU for group in groups)
        # Alone on a CPU, where more gain nothing: the numbers are those of a local run, bit for bit
        self.max_batch: int | None = 1 if on_cpu else config.max_batch_size
        # One more than run, so that the server need not wait for the next
        self.lanes = min(MOST_LANES, 1 + (sum(group.count for group in groups) or 1))
        self.address = replace(address, identity=identity)
        self._library = library
        self._client: Any = client
        self._gone = "was closed; load it again."
        forget_after_fork(self)

    def _check_config(self, config: Any, address: Address) -> None:
        if config.max_batch_size < 1:
            raise ModelError(
                f"{address}: its config states max_batch_size {config.max_batch_size}, so it takes "
                "no batches; write its folder with `numclip-export --triton DIR`."
            )
        found: dict[str, tuple[str, list[object]]] = {}
        for tensor in (*config.input, *config.output):
            # Enum values of protobuf know their names by their field
            kind = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
            name = kind.values_by_number[tensor.data_type].name
            sizes: list[object] = [size if size >= 0 else "?" for size in tensor.dims]
            if tensor.name == VALUES_NAME and sizes == [1]:
                sizes = []  # Triton has no tensors without a size, except by `reshape`
            found[tensor.name] = (TRITON_TYPES.get(name, name), ["batch", *sizes])
        check_tensors(address, self.metadata, found)

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        limit = self.max_batch or len(images)
        parts = [self._run(images[i : i + limit]) for i in range(0, len(images), limit)]
        values, bin_probs = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(bin_probs)

    def _run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        client, address = self._client, self.address
        if client is None:
            raise UsageError(f"{address}: {self._gone}")
        one = self._library.InferInput(INPUT_NAME, images.shape, WIRE_TYPES[self.metadata.input])
        one.set_data_from_numpy(images)
        begun = time.monotonic()
        last, wait = begun + address.timeout_s, _FIRST_WAIT_S
        gone_since: float | None = None
        while True:
            now = time.monotonic()
            reason: ModelError
            try:
                answer = self._asked(client, one, max(last - now, 0.001))
                break
            except UnreachableError as error:
                gone_since = now if gone_since is None else gone_since
                given_up, reason = min(last, gone_since + GONE_S), error
            except BusyError:
                gone_since = None
                given_up, reason = last, self._busy()
            pause = wait * random.uniform(0.5, 1)  # else all clients come again together
            if time.monotonic() + pause >= given_up or stop_requests()[0] is not None:
                raise reason
            time.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT_S)
        values, bin_probs = answer.as_numpy(VALUES_NAME), answer.as_numpy(BIN_PROBS_NAME)
        if values is None or bin_probs is None:
            raise ModelError(f"{address}: the server's answer lacks values or bin_probs.")
        if values.shape == (len(images), 1):
            values = values[:, 0]
        check_results(address, self.metadata, len(images), values, bin_probs)
        return values, bin_probs

    def _asked(self, client: Any, one: Any, seconds: float) -> Any:
        """Send a request and wait for its answer; a signal to stop ends the wait."""
        address = self.address
        answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        with explained(address, address.timeout_s):
            call = client.async_infer(
                address.model,
                [one],
                lambda result, error: answers.put((result, error)),
                address.version,
                client_timeout=seconds,
                timeout=math.ceil(seconds * 1e6),  # microseconds in the server's queue
            )
            while True:
                try:
                    answer, error = answers.get(timeout=_LOOK_S)
                except Empty:
                    if stop_requests()[0] is None:
                        continue
                    call.cancel()
                    raise ModelError(f"{address}: stopped before the server answered.") from None
                if error is not None:
                    raise error
                return answer

    def _busy(self) -> ModelError:
        address = self.address
        return ModelError(
            f"{address}: the server's queue stayed full for {address.timeout_s:g} s; wait longer "
            "with ?timeout=SECONDS after the address, or give the model more instances."
        )

    def close(self) -> None:
        """Close the connection; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def forget(self) -> None:
        """Let go of the connection in a forked process."""
        if self._client is not None:
            never_freed(self._client)
            self._client, self._gone = None, FORKED


def _check_sha256(config: Any, address: Address, expected: str | None) -> None:
    stated = config_text(config, SHA256_KEY)
    if expected is not None and expected.lower() != stated:
        raise ModelError(
            f"{address}: the server states {stated or 'no SHA-256'} for the model file, and "
            f"{expected.lower()} is expected."
        )
