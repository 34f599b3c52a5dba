"""Whether this machine can run a model, and if not, the command that helps."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from numclip_runtime.app.doctor.bundle_check import ArtefactCheck, check_artefacts
from numclip_runtime.backends.bf16 import why_no_bf16
from numclip_runtime.backends.tensorrt.checks import (
    NAMES,
    built_by,
    choose_module,
    fits_gpu,
    fits_version,
    rebuild,
    targets,
)
from numclip_runtime.cuda.probe import CudaDriver
from numclip_runtime.errors import MissingDependencyError, NumclipError, first_line
from numclip_runtime.metadata import Bf16Proof, ModelMetadata
from numclip_runtime.model_files.bundle import read_bundle
from numclip_runtime.model_files.given import is_bundle
from numclip_runtime.model_files.names import is_served
from numclip_runtime.model_files.open_model import check_model_path, is_plan
from numclip_runtime.model_files.plan import PlanInfo, read_plan_metadata
from numclip_runtime.model_files.served import Address, server_facts
from numclip_runtime.predictor import load
from numclip_runtime.task import as_written


@dataclass
class ModelCheck:
    """The facts about a model file, and the obstacles to running it."""

    path: str
    facts: dict[str, str] = field(default_factory=dict)  # shown line by line
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # warnings, if it runs
    advice: list[str] = field(default_factory=list)  # commands and sentences that help
    artefacts: list[ArtefactCheck] = field(default_factory=list)  # of a bundle


def check_model(path: Path, packages: Mapping[str, str | None], driver: CudaDriver) -> ModelCheck:
    """Open a model and read a grey image with it, as far as this machine can.

    Args:
        path: `.onnx` or `.plan` file, a bundle, or address of a model on a server.
        packages: See `installed_packages`.
        driver: See `probe_cuda`.

    Raises:
        ModelError: if there is no such file, or it is of another kind.
    """
    served, bundle = is_served(path), is_bundle(path)
    if not (served or bundle):
        check_model_path(path)
    address = Address.parse(path, whole=False) if served else None
    check = ModelCheck(str(path if address is None else address))
    try:
        if bundle:
            check.artefacts, faults = check_artefacts(read_bundle(path))
            check.notes += faults
        elif address is not None:
            check.facts |= server_facts(path)
            if address.model is None:
                check.problems.append("The address names no model.")
                check.advice.append(f"numclip-run doctor {address}/MODEL")
        elif is_plan(path):
            info = read_plan_metadata(path)
            check.facts |= _facts(info.metadata)
            check_plan(check, info, packages, driver)
        if not check.problems:
            with load(path) as predictor:
                side = predictor.metadata.preprocessing.crop
                grey = np.full((side, side, 3), 128, np.uint8)
                value = predictor.predict(grey).value
                check.facts |= _facts(predictor.metadata)
                backend = predictor.backend
                used = "bf16" in backend.precision
                runs = f"{backend.name}, {backend.provider}"
                check.facts["runs with"] = f"{runs}, {backend.precision}" if used else runs
                if predictor.choice is not None:
                    check.facts["chosen"] = predictor.choice
                if (proof := predictor.metadata.bf16) is not None:
                    check.facts["bfloat16"] = _bf16(proof, used=used)
                task = predictor.metadata.task
                check.facts["a grey image"] = f"reads {_six_digits(value)} {task.unit}".rstrip()
                check.notes += backend.notes
    except MissingDependencyError as error:
        if served:
            check.problems.append(str(error))
            return check
        check.problems.append(str(error).partition("; install")[0] + ".")
        check.advice.append(backend_command(driver))
        if packages.get("openvino") and path.suffix == ".onnx":
            check.advice.append(f"numclip-run --backend openvino {path} IMAGES  (as it is)")
    except NumclipError as error:  # most messages name the remedy
        check.problems.append(str(error))
        if "that onnxruntime can load" in str(error) or "not an ONNX model" in str(error):
            check.advice.append("Copy the file again, or export it again with numclip-export.")
    except Exception as error:  # a kernel that this machine lacks, no memory
        check.problems.append(f"{path}: opened, but it does not run ({first_line(error)}).")
    return check


def check_plan(
    check: ModelCheck, info: PlanInfo, packages: Mapping[str, str | None], driver: CudaDriver
) -> None:
    """Compare the needs of a plan with this machine, without TensorRT."""
    facts, name = info.engine, NAMES[info.builder]
    found = packages.get(choose_module(info))
    later = " or later" if "version-compatible" in facts.flags else ""
    check.facts["needs"] = f"{name} {built_by(info)}{later}; found {found or 'none'}"
    here = ", ".join(f"{gpu.name} {gpu.compute_capability / 10:.1f}" for gpu in driver.devices)
    check.facts["built for"] = f"compute capability {targets(info)}; found {here or 'no GPU'}"
    check.facts["batch"] = f"{facts.min_batch} to {facts.max_batch}, best at {facts.opt_batch}"

    path = Path(check.path)
    if driver.problem is not None:
        onnx = path.with_suffix(".onnx")
        check.problems.append(f"A plan runs on an NVIDIA GPU only, and here is {driver.problem}.")
        where = "Run" if onnx.exists() else "Copy here and run"
        check.advice.append(f"{where} the ONNX file it was built from: numclip-run {onnx} IMAGES")
    elif found is None:
        check.problems.append(f"{name} is not installed.")
        check.advice.append(_install(path, rtx=info.builder == "tensorrt-rtx"))
    else:
        capability = driver.devices[0].compute_capability  # CUDA's first is the one that runs
        again = rebuild(path, info, capability)
        if not fits_gpu(info, capability):
            check.problems.append(f"It was built for other GPUs than {driver.devices[0].name}.")
            check.advice.append(f"Build it for this GPU: {again}")
        elif not fits_version(info, found):
            check.problems.append(f"It was built by another version of {name}.")
            check.advice.append(f"Build it with the version installed here: {again}")


def backend_command(driver: CudaDriver) -> str:
    """Return the command that installs the inference backend for this machine."""
    return f"pip install 'numclip[{'gpu' if driver.devices and is_x86() else 'cpu'}]'"


def is_x86() -> bool:
    """Return whether the package index has GPU packages: those for ARM come with JetPack."""
    return platform.machine() in ("x86_64", "AMD64")


def _install(path: Path, *, rtx: bool) -> str:
    if is_x86():
        return f"pip install 'numclip[{'rtx' if rtx else 'tensorrt'}]'"
    if rtx:
        onnx = path.with_suffix(".onnx").name
        return (
            "There is no package of it for ARM; build the plan with JetPack's TensorRT: "
            f"numclip-export --onnx {onnx} --target tensorrt"
        )
    return (
        "python3 -m venv --system-site-packages VENV  "
        "(TensorRT comes with JetPack: sudo apt install nvidia-jetpack)"
    )


def _six_digits(value: float) -> str:
    return as_written(float(f"{value:.6g}"))


def _bf16(proof: Bf16Proof, *, used: bool) -> str:
    why = "a GPU runs the model" if (problem := why_no_bf16()) is None else problem
    return (
        f"proved, values differ by up to {proof.max_value_error:.2g}; "
        f"{'used' if used else f'not used: {why}'}"
    )


def _facts(metadata: ModelMetadata) -> dict[str, str]:
    task, spec = metadata.task, metadata.preprocessing
    picture = f"RGB, {spec.crop} x {spec.crop}"
    if spec.resize_mode == "fragments":
        side = spec.crop // spec.fragments
        picture += f": {spec.fragments**2} pieces of {side} x {side} at full resolution"
    unit = f" {task.unit}" if task.unit else ""
    low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
    label_range = f"{as_written(low)} to {as_written(high)}{unit}"
    return {
        "task": f"{task.name}, {label_range} in {task.num_bins} bins",
        "precision": metadata.precision,
        "input": picture,
        "intervals": "yes" if metadata.calibration else "no (not calibrated)",
    }
