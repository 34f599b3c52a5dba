"""OpenVINO backend: the CPU, in float32, or in bfloat16 up to the features."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from numclip_runtime.backends import DEFAULTS, OpenOptions, check_results, check_tensors
from numclip_runtime.backends.after_fork import FORKED, forget_after_fork, never_freed
from numclip_runtime.backends.bf16 import bf16_features
from numclip_runtime.backends.huge_pages import HugePages
from numclip_runtime.errors import ModelError, UsageError, import_extra
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME, Arithmetic
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel, opened
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.preprocess import FloatArray, InputArray
from numclip_runtime.system import threads_of_a_run, usable_cores

OPENVINO_TYPES = {"f32": "float32", "u8": "uint8"}


class OpenVinoBackend:
    """Run an ONNX file with OpenVINO on the CPU.

    Optimised for latency it runs one inference at a time on all usable cores, for throughput one
    inference of 1 thread per core, each with buffers of its own.

    In bfloat16 the image encoder and the head are two networks: OpenVINO would compute both in
    bfloat16, which moved values of a trained model by 1.5 of 100; with a float32 head by 0.01. Of
    an INT8 file, all that is not INT8 is in bfloat16.

    Args:
        model: A file that numclip exported: its path, or the open file.
        options: `threads`, `optimize_for` and `bf16` are used.
        proving: Tensor up to which it computes in bfloat16 without a proof, to measure that.

    Raises:
        MissingDependencyError: if openvino is not installed.
        UsageError: if bfloat16 is asked for and cannot be had.
        ModelError: if the file is not an ONNX model, or not one that numclip exported.
    """

    name = "openvino"
    provider = "CPU"
    device = "cpu"
    max_batch: int | None = None

    def __init__(
        self,
        model: Path | OpenModel,
        options: OpenOptions = DEFAULTS,
        *,
        proving: str | None = None,
    ) -> None:
        with opened(model) as file:
            self._load(file, options, proving)

    def _load(self, model: OpenModel, options: OpenOptions, proving: str | None) -> None:
        self.metadata = read_onnx_metadata(model)
        features = proving or bf16_features(model.path, self.metadata, options.bf16)
        self.precision: Arithmetic = self.metadata.precision
        if features is not None:
            self.precision = "int8+bf16" if self.precision == "int8" else "bf16"
        openvino = import_extra("openvino", "openvino")
        check_graph(model)
        if (made_for := self.metadata.optimized_by) is not None:
            raise ModelError(
                f"{model.path}: was made for {made_for} and has operators of its own; use the "
                "float32 file with OpenVINO."
            )
        self.notes: list[str] = []
        self.threads, self.lanes = options.threads, 1
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            # else it computes in bfloat16 on CPUs that can: the file decides about precision
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if options.optimize_for == "throughput":
            self.threads = options.threads or 1
            self.lanes = max(1, usable_cores() // self.threads)
            config["PERFORMANCE_HINT"] = "THROUGHPUT"
            config["NUM_STREAMS"] = str(self.lanes)
        elif self.threads is None:
            self.threads = threads_of_a_run()  # OpenVINO does not see a container's quota
        if self.threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(self.threads * self.lanes)  # of all streams
        self._pages = HugePages()
        try:
            with _signal_stack_kept():
                core = openvino.Core()
                # without a place: a graph and its weights, which are inside
                source = model.place or core.read_model(model.content[:], b"")
                if features is None:
                    compiled = head = core.compile_model(source, "CPU", config)
                else:
                    network = core.read_model(source) if isinstance(source, str) else source
                    encoder, rest = _split(openvino, network, features)
                    rounded = {"INFERENCE_PRECISION_HINT": "bf16"}
                    compiled = core.compile_model(encoder, "CPU", config | rounded)
                    head = core.compile_model(rest, "CPU", config)
            tensors = {
                _name_of(port): (
                    OPENVINO_TYPES.get(
                        port.element_type.get_type_name(), port.element_type.get_type_name()
                    ),
                    [size.get_length() if size.is_static else "?" for size in port.partial_shape],
                )
                for port in (*compiled.inputs, *head.outputs)
            }
            outputs = [head.output(name) for name in (VALUES_NAME, BIN_PROBS_NAME)]
            compiled.input(INPUT_NAME)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before are places in its code
            raise ModelError(
                f"{model.path}: not a model that OpenVINO can run ({reason})."
            ) from None
        check_tensors(model.path, self.metadata, tensors)
        model.check_unchanged()
        self._pages.opened()
        # Makes a table that the first inference would make, holding a C++ lock and releasing
        # Python's: two threads that began at once waited for each other for ever (2026.4)
        openvino.Type.f32.to_dtype()
        self._source = str(model.path)
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.lanes):
            # for one inference at a time; the head's is None where it is part of the network
            second = None if head is compiled else head.create_infer_request()
            idle.put((compiled.create_infer_request(), second))
        # Everything that holds the model, so that `close` frees it at once
        self._opened: tuple[SimpleQueue[Any], list[Any]] | None = (idle, outputs)
        self._gone = "was closed; load it again."
        forget_after_fork(self)

    def run(self, images: InputArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        opened = self._opened  # a concurrent `close` frees it after this run
        if opened is None:
            raise UsageError(f"{self._source}: {self._gone}")
        idle, outputs = opened
        requests = request, head = idle.get()
        try:
            # share_inputs avoids a copy of the images; the results are copies
            results = request.infer({INPUT_NAME: images}, share_inputs=True)
            if head is not None:
                results = head.infer({0: results[0]}, share_inputs=True)
            values, bin_probs = (results[output] for output in outputs)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{self._source}: OpenVINO failed to run it ({reason}).") from None
        finally:
            idle.put(requests)
        check_results(self._source, self.metadata, len(images), values, bin_probs)
        self._pages.ran(len(images))
        return values, bin_probs

    def close(self) -> None:
        """Free the model; idempotent."""
        self._pages.close()
        with _signal_stack_kept():
            self._opened = None

    def forget(self) -> None:
        """Let go of the model in a forked process."""
        if self._opened is not None:
            never_freed(self._opened, self._pages)
            self._opened, self._gone = None, FORKED


def _name_of(port: Any) -> str:
    """Return a tensor's name; one that was fused with others has all of their names."""
    ours = {INPUT_NAME, VALUES_NAME, BIN_PROBS_NAME} & port.get_names()
    return str(ours.pop() if ours else port.any_name)


def _split(openvino: Any, network: Any, features: str) -> tuple[Any, Any]:
    """Return the networks before and behind a tensor; the given one is used up.

    Raises:
        RuntimeError: if there is no such tensor, or the rest reads others as well.
    """
    ports = (port for node in network.get_ordered_ops() for port in node.outputs())
    port = next((port for port in ports if features in port.get_names()), None)
    if port is None:
        raise RuntimeError(f"the graph lacks {features!r}")
    between = openvino.op.Parameter(port.get_element_type(), port.get_partial_shape())
    for reader in port.get_target_inputs():
        reader.replace_source_output(between.output(0))
    rest = openvino.Model(network.get_results(), [between], "head")
    return openvino.Model([port], network.get_parameters(), "encoder"), rest


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Restore the calling thread's signal stack at the end of the block (Linux).

    OpenVINO 2026.4 gives the thread that compiles a model a signal stack inside that model, and
    restores the former one when the model is freed. If another thread frees it, or in another
    order, the first thread keeps a stack in freed memory, and the next Ctrl-C is a SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    import ctypes

    class Stack(ctypes.Structure):
        """stack_t of signal.h."""

        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
