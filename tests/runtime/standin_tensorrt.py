"""A stand-in for TensorRT's Python package, which does nothing without a GPU.

It has the names that the backend uses (tests/export/test_tensorrt_names.py proves them against the
real packages) and computes with onnxruntime, as work on a stream of the stand-in driver: the input
is read from "device" memory and the outputs are written there when the stream gets to it.
"""

from __future__ import annotations

import ctypes
import enum
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import normalisation
from tests.runtime.standin import StandinDriver


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Specialization(enum.Enum):
    EAGER = 1


def open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@dataclass
class Behaviour:
    """What the engine is, and what goes wrong."""

    driver: StandinDriver
    onnx: Path  # the network
    batches: tuple[int, int] = (1, 32)  # smallest and largest
    input_type: DataType = DataType.FLOAT
    outputs: tuple[str, ...] = (VALUES_NAME, BIN_PROBS_NAME)
    crop: int = 8
    num_bins: int = 3
    refuses: str | None = None  # deserialising gives None, and this is logged
    starts: bool = True  # else the runtime cannot be made
    executions: int = 100  # that can be made
    capturable: bool = True
    capture_s: float = 0.0  # how long execute_async_v3 takes while a graph is captured
    runs: bool = True  # else execute_async_v3 gives False
    gate: threading.Event = field(default_factory=open_gate)  # what runs waits until it is set
    made: list[str] = field(default_factory=list)  # of contexts: "lazy" or "eager"
    host_code: list[bool] = field(default_factory=list)  # of runtimes: engine_host_code_allowed
    seen: list[Any] = field(default_factory=list)  # batches that were run
    alive: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    @cached_property
    def network(self) -> OnnxRuntimeBackend:
        """What computes the results."""
        return OnnxRuntimeBackend(self.onnx, OpenOptions(threads=1, device="cpu"))


def standin_tensorrt(name: str, version: str, behaviour: Behaviour) -> ModuleType:
    """Return the package, to be put into `sys.modules`."""
    module: Any = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = version
    module.ILogger, module.DataType, module.TensorIOMode = ILogger, DataType, TensorIOMode
    module.DynamicShapesKernelSpecializationStrategy = Specialization
    module.Runtime = lambda logger: Runtime(logger, behaviour)
    return module  # type: ignore[no-any-return]


class Runtime:
    def __init__(self, logger: ILogger, behaviour: Behaviour) -> None:
        if not behaviour.starts:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        behaviour.alive.add(self)
        self._logger, self._behaviour = logger, behaviour
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        assert isinstance(plan, bytes)
        self._behaviour.host_code.append(self.engine_host_code_allowed)
        if self._behaviour.refuses is not None:
            self._logger.log(Severity.ERROR, self._behaviour.refuses)
            self._logger.log(Severity.WARNING, "and a warning")
            return None
        return Engine(self._logger, self._behaviour)


class Engine:
    def __init__(self, logger: ILogger, behaviour: Behaviour) -> None:
        behaviour.alive.add(self)
        self._logger, self._behaviour = logger, behaviour
        self._names = (INPUT_NAME, *behaviour.outputs)
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == INPUT_NAME else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._behaviour.input_type if name == INPUT_NAME else DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == (INPUT_NAME, 0)
        low, high = self._behaviour.batches
        return [(size, *self.sample) for size in (low, high, high)]

    @property
    def sample(self) -> tuple[int, ...]:
        side = self._behaviour.crop
        uint8 = self._behaviour.input_type == DataType.UINT8
        return (side, side, 3) if uint8 else (3, side, side)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == VALUES_NAME else (-1, self._behaviour.num_bins)

    def create_runtime_config(self) -> Any:
        class RuntimeConfig:
            dynamic_shapes_kernel_specialization_strategy: Any = None

        return RuntimeConfig()

    def create_execution_context(self, runtime_config: Any = None) -> Execution | None:
        self._behaviour.driver.synchronize_device()
        if len(self._behaviour.made) == self._behaviour.executions:
            self._logger.log(Severity.ERROR, "out of memory")
            return None
        if runtime_config is None:
            self._behaviour.made.append("lazy")
        else:
            strategy = runtime_config.dynamic_shapes_kernel_specialization_strategy
            assert strategy is Specialization.EAGER
            self._behaviour.made.append("eager")
        return Execution(self, self._logger, self._behaviour)


class Execution:
    def __init__(self, engine: Engine, logger: ILogger, behaviour: Behaviour) -> None:
        behaviour.alive.add(self)
        self._engine, self._logger, self._behaviour = engine, logger, behaviour
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._captured = False
        self._warm = False  # whether it has run
        self._stream: int | None = None  # where

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._captured, "a graph is spoilt when its context is used for anything else"
        low, high = self._behaviour.batches
        self._shape = shape
        return name == INPUT_NAME and low <= shape[0] <= high and shape[1:] == self._engine.sample

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return self._behaviour.driver.is_device(address, 1)

    def execute_async_v3(self, stream: int) -> bool:
        assert not self._captured, "a graph is spoilt when its context is used for anything else"
        if not self._behaviour.runs:
            self._logger.log(Severity.ERROR, "Error Code 1: Cuda Runtime (illegal address)")
            return False
        assert self._stream in (None, stream), "one execution context for one stream at a time"
        self._stream = stream
        driver = self._behaviour.driver
        self._captured = driver.is_capturing(stream)
        if self._captured:
            time.sleep(self._behaviour.capture_s)
        elif not self._warm:
            driver.synchronize_device()  # as loading a kernel can
        self._warm = True
        if driver.enqueue(self._work(self._shape), stream, capturable=self._behaviour.capturable):
            self._captured = False
            self._logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        return True

    def _work(self, shape: tuple[int, ...]) -> Callable[[], None]:
        addresses, behaviour = dict(self._addresses), self._behaviour
        dtype = np.dtype(np.uint8 if behaviour.input_type == DataType.UINT8 else np.float32)

        def array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
            nbytes = int(np.prod(shape)) * dtype.itemsize
            assert behaviour.driver.is_device(addresses[name], nbytes)
            memory: Any = (ctypes.c_char * nbytes).from_address(addresses[name])
            return np.frombuffer(memory, dtype).reshape(shape)

        def work() -> None:
            behaviour.gate.wait()
            network = behaviour.network
            images = array(INPUT_NAME, shape, dtype)
            behaviour.seen.append(images.copy())
            if dtype == np.uint8:
                factor, shift = normalisation(network.metadata.preprocessing)
                images = np.ascontiguousarray((images * factor + shift).transpose(0, 3, 1, 2))
            values, bin_probs = network.run(images)
            array(VALUES_NAME, values.shape, values.dtype)[:] = values
            array(BIN_PROBS_NAME, bin_probs.shape, bin_probs.dtype)[:] = bin_probs

        return work
