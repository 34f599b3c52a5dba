"""A gRPC server that answers as Triton does: tritonclient's own protobufs, on loopback.

It stands in for Triton where the real one cannot be had; `make triton-test` asks the real one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from numclip_runtime.model_files.model_file import read_metadata

NUMPY = {"FP32": np.float32, "UINT8": np.uint8}


def config_of_file(model: Path, max_batch: int = 4) -> Any:
    """Return a config for an ONNX file, made with protobuf and not by numclip-export."""
    from tritonclient.grpc import model_config_pb2 as pb

    metadata = read_metadata(model)
    side, bins = metadata.preprocessing.crop, metadata.task.num_bins
    config = pb.ModelConfig(name="tiny", backend="onnxruntime", max_batch_size=max_batch)
    config.input.add(name="images", data_type=pb.TYPE_FP32, dims=[3, side, side])
    config.output.add(name="values", data_type=pb.TYPE_FP32, dims=[1])
    config.output.add(name="bin_probs", data_type=pb.TYPE_FP32, dims=[bins])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=2)
    config.parameters["numclip"].string_value = metadata.to_json()
    config.parameters["numclip_sha256"].string_value = "5" * 64
    return config


@dataclass
class StandinTriton:
    """What the server does; tests change it while it runs."""

    model: Path
    config: Any
    port: int = 0
    server: Any = None
    batches: list[int] = field(default_factory=list)  # images of each request that was run
    entered: int = 0  # requests that came so far
    refuse: int = 0  # how many requests more find the queue full
    loaded: bool = True
    unload_after: int | None = None  # requests
    delay_s: float = 0.0
    narrow: bool = False  # whether bin_probs lack a column

    @property
    def address(self) -> str:
        return f"triton://127.0.0.1:{self.port}/tiny"

    def stop(self) -> None:
        self.server.stop(None).wait()


@contextmanager
def standin_triton(model: Path, port: int = 0) -> Iterator[StandinTriton]:
    """Serve an ONNX file, with onnxruntime."""
    import grpc
    import onnxruntime
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc as service

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    state = StandinTriton(model, config_of_file(model))

    class Servicer(service.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def _require(self, request: Any, context: Any) -> None:
            name = getattr(request, "model_name", "") or request.name
            if name != "tiny" or not state.loaded:
                context.abort(
                    grpc.StatusCode.UNAVAILABLE,
                    f"Request for unknown model: '{name}' is not found",
                )

        def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            return pb.ServerMetadataResponse(name="triton", version="2.51.0")

        def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
            answer = pb.RepositoryIndexResponse()
            told = ("READY", "") if state.loaded else ("UNAVAILABLE", "unloaded\nby hand")
            answer.models.add(name="tiny", version="1", state=told[0], reason=told[1])
            return answer

        def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
            self._require(request, context)
            return pb.ModelConfigResponse(config=state.config)

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            self._require(request, context)
            if state.refuse:
                state.refuse -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
            (given,) = request.inputs
            if given.shape[0] > state.config.max_batch_size:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "batch-size must be <= 4")
            state.entered += 1
            end = time.monotonic() + state.delay_s
            while time.monotonic() < end and context.is_active():
                time.sleep(min(state.delay_s, 0.05))
            state.batches.append(given.shape[0])
            if len(state.batches) == state.unload_after:
                state.loaded = False
            images = np.frombuffer(request.raw_input_contents[0], NUMPY[given.datatype])
            values, probs = session.run(
                ["values", "bin_probs"], {"images": images.reshape(given.shape)}
            )
            if state.narrow:
                probs = probs[:, 1:]
            answer = pb.ModelInferResponse(model_name="tiny", model_version="1")
            for name, array in (("values", values[:, None]), ("bin_probs", probs)):
                answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
                answer.raw_output_contents.append(np.ascontiguousarray(array).tobytes())
            return answer

    with ThreadPoolExecutor(8) as threads:
        state.server = grpc.server(threads)
        service.add_GRPCInferenceServiceServicer_to_server(Servicer(), state.server)
        state.port = state.server.add_insecure_port(f"127.0.0.1:{port}")
        state.server.start()
        try:
            yield state
        finally:
            state.stop()
