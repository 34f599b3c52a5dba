"""How Triton runs a model file: the file decides, and --target cpu where it leaves a choice."""

from __future__ import annotations

from dataclasses import dataclass

from numclip_export.delivery.triton_config import ServingOptions
from numclip_export.engine.build_options import MAX_BATCH
from numclip_export.graph.signature import Signature, TensorSpec, read_signature
from numclip_export.options import Target
from numclip_runtime import ModelError, UsageError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME, ModelMetadata
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel, is_plan
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.model_files.plan import PlanInfo, read_plan_metadata
from numclip_runtime.system import usable_cores

# They compute a scale from all images of a batch, so values depend on an image's neighbours
DYNAMIC = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))


@dataclass(frozen=True)
class ServedFile:
    """A model file, and how Triton runs it."""

    metadata: ModelMetadata
    options: ServingOptions
    graph: Signature
    notes: tuple[str, ...]  # for people, and comments of the config


def served_file(file: OpenModel, target: Target, max_batch: int | None) -> ServedFile:
    """Return how Triton runs a file.

    Args:
        file: ONNX file of `numclip-export`, or a plan of TensorRT.
        target: "cpu": on a CPU; else the file decides.
        max_batch: None: that of the plan or graph, else `MAX_BATCH`.

    Raises:
        ModelError: if numclip did not make it, or Triton cannot run it.
        UsageError: if target or batch do not fit it.
    """
    return (_of_plan if is_plan(file.path) else _of_graph)(file, target, max_batch)


def _of_graph(file: OpenModel, target: Target, max_batch: int | None) -> ServedFile:
    """Return how Triton's onnxruntime runs a file."""
    metadata = read_onnx_metadata(file)
    check_graph(file)
    graph, notes = read_signature(file), []
    fixed = next((spec.shape[0] for spec in graph.inputs.values() if spec.shape), None)
    alone = not graph.operators.isdisjoint(DYNAMIC)
    most = 1 if alone else fixed or max_batch or MAX_BATCH
    if max_batch not in (None, most):
        reason = (
            "computes its INT8 scales from all images of a batch, so they would change each "
            "other's numbers"
            if alone
            else f"is fixed to batches of {fixed}"
        )
        raise UsageError(f"{file.path}: {reason}; leave --max-batch out.")
    if metadata.optimized_by is not None:
        notes.append(
            f"this file has operators that {metadata.optimized_by} put in: it needs a Triton "
            "whose onnxruntime is that version; the float32 file runs on others as well."
        )
    if metadata.backend is not None:
        notes.append(
            "this file was made for OpenVINO, and Triton's onnxruntime runs it more slowly than "
            "one of --target cpu."
        )
    if target == "cpu" or alone or metadata.optimized_by or metadata.backend:
        cores = usable_cores()
        notes.append(
            f"{cores} instances of one thread, as many as this machine has cores; set count in "
            "instance_group to those of the server."
        )
        # Gathering gains nothing on a CPU
        options = ServingOptions("onnxruntime", most, "KIND_CPU", cores, (1,))
    else:
        options = ServingOptions("onnxruntime", most)
    return ServedFile(metadata, options, graph, tuple(notes))


def _of_plan(file: OpenModel, target: Target, max_batch: int | None) -> ServedFile:
    """Return how Triton's TensorRT runs a plan."""
    info = read_plan_metadata(file)
    facts = info.engine
    if "tensorrt-rtx" in (info.builder, facts.builder):
        raise ModelError(
            f"{file.path}: was built by TensorRT-RTX, which Triton does not have; build one "
            "with `numclip-export --onnx x.onnx --target tensorrt`, or give the ONNX file."
        )
    if target not in ("auto", "tensorrt"):
        raise UsageError(
            f"{file.path}: a plan runs on a GPU, with TensorRT; leave --target out, or give "
            "the ONNX file."
        )
    if facts.min_batch > 1:
        raise ModelError(
            f"{file.path}: was built for batches from {facts.min_batch}, and Triton sends "
            "single images as well; build it again without --min-batch."
        )
    most = max_batch or facts.max_batch
    if most > facts.max_batch:
        raise UsageError(
            f"{file.path}: --max-batch {most} is more than the {facts.max_batch} that the plan "
            "was built for."
        )
    best = min(facts.opt_batch, most)
    options = ServingOptions("tensorrt", most, "KIND_GPU", preferred_batches=(best,))
    return ServedFile(info.metadata, options, _stated(info), (_needs(info),))


def _stated(info: PlanInfo) -> Signature:
    """Return the tensors of a plan, which cannot be read without TensorRT; the build checked them.

    A plan is built from a checked ONNX file, and `numclip_runtime` compares it when it opens it.
    """
    metadata = info.metadata
    side, bins = metadata.preprocessing.crop, metadata.task.num_bins
    sample = (side, side, 3) if metadata.input == "uint8" else (3, side, side)
    return Signature(
        {INPUT_NAME: TensorSpec(metadata.input, (None, *sample))},
        {
            VALUES_NAME: TensorSpec("float32", (None,)),
            BIN_PROBS_NAME: TensorSpec("float32", (None, bins)),
        },
    )


def _needs(info: PlanInfo) -> str:
    version = info.version or info.engine.builder_version
    if "version-compatible" in info.engine.flags:
        return (
            f"this plan needs a Triton image with TensorRT {version} or later, started with "
            "--backend-config=tensorrt,version-compatible=true."
        )
    return f"this plan needs the Triton image with TensorRT {version}; other versions refuse it."
