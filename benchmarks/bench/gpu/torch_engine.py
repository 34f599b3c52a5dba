"""An engine of torch in the place of TensorRT: it runs the runtime's lanes where no TensorRT can.

TensorRT-RTX has no kernels for some GPUs (compute capability 9.0 among them), and TensorRT comes
from another index. The lanes, pinned buffers, copies and CUDA graphs of the TensorRT backend are
the runtime's own code, and need only something that enqueues work on a stream. Here this is the
checkpoint in torch, which reads and writes the backend's memory on the GPU; in a rehearsal the
stand-in for the driver runs it.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np

from benchmarks.bench.baselines.registry import TorchForm
from benchmarks.bench.baselines.torch_baselines import TorchBackend
from benchmarks.bench.gpu.stand_in import StandIn
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata

_VERSION = "10.3.0"  # of the TensorRT whose place it takes
_OUTPUTS = (VALUES_NAME, BIN_PROBS_NAME)
Enqueue = Callable[[Callable[[], None], int], bool]  # work, stream -> whether it was enqueued


class _DataType(enum.Enum):
    FLOAT = 0
    UINT8 = 2


class _TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _Logger:
    Severity = SimpleNamespace(ERROR=1, WARNING=2)


@dataclass(frozen=True)
class TorchEngine:
    """The network, and how its work gets onto a stream.

    Args:
        network: The checkpoint, on the device.
        crop: Side of the network's input, pixels.
        num_bins: K.
        largest: Batch size.
        enqueue: Puts work on a stream.
    """

    network: TorchBackend
    crop: int
    num_bins: int
    largest: int
    enqueue: Enqueue
    num_io_tensors: int = 3

    def get_tensor_name(self, index: int) -> str:
        """Return a tensor's name."""
        return (INPUT_NAME, *_OUTPUTS)[index]

    def get_tensor_mode(self, name: str) -> _TensorIOMode:
        """Return whether it is read or written."""
        return _TensorIOMode.INPUT if name == INPUT_NAME else _TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> _DataType:
        """Return its type."""
        return _DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        """Return the smallest, the best and the largest shape of the input."""
        return [(size, 3, self.crop, self.crop) for size in (1, self.largest, self.largest)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return an output's shape."""
        return (-1,) if name == VALUES_NAME else (-1, self.num_bins)

    def create_execution_context(self) -> Execution:
        """Return a context for one stream."""
        return Execution(self)


class Execution:
    """An execution context: addresses, a shape, and the work between them."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine, self._size = engine, 0
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Set the batch size."""
        self._size = shape[0]
        return 1 <= self._size <= self._engine.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Set where a tensor lies on the GPU."""
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue the network."""
        engine, addresses, size = self._engine, dict(self._addresses), self._size

        def work() -> None:
            import torch

            view = _view if engine.network.device == "cpu" else _view_on_gpu
            with torch.inference_mode():
                images = view(addresses[INPUT_NAME], (size, 3, engine.crop, engine.crop))
                values, bin_probs = engine.network.forward(images)
                view(addresses[VALUES_NAME], (size,)).copy_(values)
                view(addresses[BIN_PROBS_NAME], (size, engine.num_bins)).copy_(bin_probs)

        return engine.enqueue(work, stream)


def _view(address: int, shape: tuple[int, ...]) -> Any:
    import torch

    memory: Any = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return torch.from_numpy(np.frombuffer(memory, np.float32).reshape(shape))


def _view_on_gpu(address: int, shape: tuple[int, ...]) -> Any:
    import torch

    described = {"shape": shape, "typestr": "<f4", "data": (address, False), "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=described), device="cuda")


def on_torch_stream(work: Callable[[], None], stream: int) -> bool:
    """Enqueue torch's kernels on a stream of ours."""
    import torch

    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]
        work()
    return True


def install(
    folder: Path,
    checkpoint: Path,
    *,
    device: str,
    largest: int,
    standin: StandIn | None,
    precision: Literal["fp32", "fp16"],
) -> tuple[Path, TorchBackend]:
    """Take TensorRT's place in this process; return a plan for it, and the network.

    Args:
        folder: For the plan, which holds metadata only.
        checkpoint: Of the network.
        device: "cuda", or "cpu" with the stand-in.
        largest: Batch size.
        standin: Runs the work in a rehearsal.
        precision: Of the network.
    """
    form = TorchForm("float32" if precision == "fp32" else "float16")
    network = TorchBackend(checkpoint, form, device=device)
    metadata = replace(network.metadata, precision=precision)
    engine = TorchEngine(
        network,
        metadata.preprocessing.crop,
        metadata.task.num_bins,
        largest,
        on_torch_stream if standin is None else standin.enqueue,
    )
    module: Any = ModuleType("tensorrt")
    module.__spec__, module.__version__ = ModuleSpec("tensorrt", None), _VERSION
    module.ILogger, module.DataType, module.TensorIOMode = _Logger, _DataType, _TensorIOMode
    module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    sys.modules["tensorrt"] = module
    facts = EngineFacts("tensorrt", _VERSION, None, 1, min(8, largest), largest, "0" * 64)
    plan = folder / "torch.plan"
    plan.write_bytes(_plan(encode_metadata(metadata, facts).encode()))
    return plan, network


def _plan(name: bytes) -> bytes:
    """Return a plan's header, as TensorRT 10.3 writes it, with the network's name behind it."""
    rest = b"\x00\x01" * 300 + name + bytes(10240)
    words = (
        (0).to_bytes(4, "little"),
        (2).to_bytes(8, "little"),
        (40 + len(rest)).to_bytes(8, "little"),
    )
    return b"ftrt" + b"".join(words) + bytes((10, 3, 0, 26)) + b"ftrt" + bytes(8) + rest
