"""A model's `config.pbtxt` for Triton: written in full, and compared with the graph it is about.

Triton can complete a config by itself, for some backends, with a batch of 1 and without warm-up; so
everything is stated. Field names are those of Triton's model_config.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from numclip_export.delivery.pbtxt import Message, Word, parsed
from numclip_export.graph.signature import Signature, TensorSpec
from numclip_runtime import ModelError
from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    METADATA_KEY,
    VALUES_NAME,
    ModelMetadata,
)
from numclip_runtime.model_files.served import SHA256_KEY

LABELS = "bins.txt"
MARK = "# Written by numclip-export"  # the first line of a config that may be replaced
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class ServingOptions:
    """How Triton runs a model."""

    backend: str  # "onnxruntime" or "tensorrt"
    max_batch: int  # images in one run
    kind: str = "KIND_AUTO"  # where: KIND_CPU, KIND_GPU; KIND_AUTO: a GPU if there is one
    instances: int = 1  # runs at a time; on a CPU one thread each
    # Batches that waiting requests are gathered into; (): as large as they come. (1,): not gathered
    preferred_batches: tuple[int, ...] = ()
    queue: int = 64  # waiting requests; more are refused at once
    queue_s: float = 5.0  # a request that waited longer is refused


def config_fields(name: str, metadata: ModelMetadata, options: ServingOptions, sha: str) -> Message:
    """Return the fields of a config.

    Args:
        name: Of the model, and of its folder.
        metadata: Of the model, which go into the config as they are.
        options: How it runs.
        sha: SHA-256 of the model file.
    """
    side, pixels = metadata.preprocessing.crop, metadata.input == "uint8"
    dims = [side, side, 3] if pixels else [3, side, side]
    kind = Word(TYPES[metadata.input])
    given: Message = {
        "name": [INPUT_NAME],
        "data_type": [kind],
        "format": [Word("FORMAT_NHWC" if pixels else "FORMAT_NCHW")],
        "dims": dims,
    }
    values: Message = {
        "name": [VALUES_NAME],
        "data_type": [Word("TYPE_FP32")],
        "dims": [1],
        "reshape": [{"shape": []}],  # Triton has no tensors without a size
    }
    probs: Message = {
        "name": [BIN_PROBS_NAME],
        "data_type": [Word("TYPE_FP32")],
        "dims": [metadata.task.num_bins],
        "label_filename": [LABELS],
    }
    zeros = {"data_type": [kind], "dims": dims, "zero_data": [Word("true")]}
    warmups = [
        {
            "name": [f"batch of {batch}"],
            "batch_size": [batch],
            "inputs": [{"key": [INPUT_NAME], "value": [zeros]}],
        }
        for batch in dict.fromkeys((1, options.max_batch))  # each size warms that size only
    ]
    policy = {
        "timeout_action": [Word("REJECT")],
        "default_timeout_microseconds": [round(options.queue_s * 1e6)],
        "allow_timeout_override": [Word("true")],
        "max_queue_size": [options.queue],
    }
    parameters = {METADATA_KEY: metadata.to_json(), SHA256_KEY: sha}
    if options.backend == "onnxruntime" and options.kind == "KIND_CPU":
        parameters["intra_op_thread_count"] = "1"
    return {
        "name": [name],
        "backend": [options.backend],
        "default_model_filename": [model_filename(options.backend)],
        "max_batch_size": [options.max_batch],
        "input": [given],
        "output": [values, probs],
        "instance_group": [{"kind": [Word(options.kind)], "count": [options.instances]}],
        "dynamic_batching": [
            {
                "preferred_batch_size": list(options.preferred_batches),
                "default_queue_policy": [policy],
            }
        ],
        "model_warmup": warmups,
        "parameters": [
            {"key": [key], "value": [{"string_value": [text]}]} for key, text in parameters.items()
        ],
    }


def model_filename(backend: str) -> str:
    """Return the name of a model's file in the folder of its version."""
    return "model.plan" if backend == "tensorrt" else "model.onnx"


def check_config(
    source: str, text: str, labels: Sequence[str], metadata: ModelMetadata, graph: Signature
) -> None:
    """Refuse a config that contradicts the graph or the metadata of its model.

    Args:
        source: Named in errors.
        text: Of config.pbtxt.
        labels: Lines of the label file.
        metadata: Of the model.
        graph: Its tensors.

    Raises:
        ModelError: naming the first contradiction.
    """
    try:
        for problem in _problems(parsed(text), labels, metadata, graph):
            raise ValueError(problem)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise ModelError(
            f"{source}: {reason}; write it again with `numclip-export --triton DIR`."
        ) from None


def _problems(
    config: Message, labels: Sequence[str], metadata: ModelMetadata, graph: Signature
) -> Iterator[str]:
    batch = config.get("max_batch_size", [0])[0]
    if batch < 1:
        yield f"max_batch_size is {batch}, and must be at least 1"
    for field, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        stated = {tensor["name"][0]: tensor for tensor in config.get(field, ())}
        if stated.keys() != tensors.keys():
            yield (
                f"the {field}s are {', '.join(stated) or 'none'}, and those of the graph are "
                f"{', '.join(tensors)}"
            )
        for name, spec in tensors.items():
            yield from _tensor_problems(name, stated[name], spec, batch)
    (label_file,) = (t for t in config["output"] if t["name"] == [BIN_PROBS_NAME])
    if label_file.get("label_filename") != [LABELS]:
        yield f"{BIN_PROBS_NAME} has no label_filename {LABELS!r}"
    if len(labels) != metadata.task.num_bins:
        yield f"{LABELS} has {len(labels)} lines, and the task has {metadata.task.num_bins} bins"
    parameters = {p["key"][0]: p["value"][0]["string_value"][0] for p in config["parameters"]}
    if parameters.get(METADATA_KEY) != metadata.to_json():
        yield f"the parameter {METADATA_KEY!r} is not the metadata of the model"
    for warmup in config.get("model_warmup", ()):
        if not 1 <= warmup["batch_size"][0] <= batch:
            yield f"a warm-up has a batch of {warmup['batch_size'][0]}, and the largest is {batch}"


def _tensor_problems(name: str, stated: Message, spec: TensorSpec, batch: int) -> Iterator[str]:
    kind = stated["data_type"][0]
    if kind != TYPES.get(spec.kind):
        yield f"{name!r} is {kind}, and in the graph {spec.kind}"
    reshape = stated.get("reshape")
    dims = stated["dims"] if reshape is None else reshape[0].get("shape", [])
    first, *rest = spec.shape or (0,)
    if len(dims) != len(rest) or any(
        size not in (None, dim) for size, dim in zip(rest, dims, strict=True)
    ):
        shown = " x ".join("?" if size is None else str(size) for size in rest) or "one number"
        yield (
            f"{name!r} has dims {' x '.join(map(str, dims)) or 'of one number'}, and in the graph "
            f"it is {shown} per image"
        )
    if first is not None and first != batch:
        yield f"max_batch_size is {batch}, and {name!r} is fixed to batches of {first}"
    if first is not None and first > 1:
        yield f"{name!r} is fixed to batches of {first}, and Triton sends smaller ones as well"
