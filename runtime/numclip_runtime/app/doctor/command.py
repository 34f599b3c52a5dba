"""The command `numclip-run doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from numclip_runtime.app.doctor.bundle_check import table_of
from numclip_runtime.app.doctor.model import ModelCheck, backend_command, check_model, is_x86
from numclip_runtime.app.doctor.packages import installed_packages, libjpeg_turbo
from numclip_runtime.app.doctor.providers import ProviderCheck, check_providers
from numclip_runtime.commands import GroupedCommand
from numclip_runtime.console import FILE, SETTINGS, columns, exit_on_error, json_text, show
from numclip_runtime.cuda.probe import CudaDriver, probe_cuda
from numclip_runtime.model_files.names import model_path, packaged_models
from numclip_runtime.model_files.open_model import is_plan
from numclip_runtime.system import Machine, read_machine


@dataclass(frozen=True)
class Diagnosis:
    """All findings of the doctor."""

    machine: Machine
    packages: dict[str, str | None]  # None: not installed
    libjpeg_turbo: str | None  # of Pillow
    cuda: CudaDriver
    providers: list[ProviderCheck]  # of onnxruntime
    packaged_models: list[str]  # names of the models that come with the package
    model: ModelCheck | None  # None: no model was given
    problems: list[str]  # each keeps the model, or any model, from running
    advice: list[str]

    @property
    def can_run(self) -> bool:
        """Whether the model runs; without a model, whether some backend does."""
        return not self.problems


def diagnose(model: Path | None = None) -> Diagnosis:
    """Examine this machine, and a model.

    Raises:
        ModelError: if the model file does not exist.
    """
    model = None if model is None else model_path(model)
    packages, driver = installed_packages(), probe_cuda()
    check = None if model is None else check_model(model, packages, driver)
    providers, reason = check_providers()
    problems = [] if check is None else list(check.problems)
    advice = [] if check is None else list(check.advice)
    plan = model is not None and is_plan(model)
    if packages["onnxruntime"] and packages["onnxruntime-gpu"]:
        advice.append(
            "Two packages share one module, and the last one installed wins; keep one: "
            "pip uninstall onnxruntime onnxruntime-gpu && " + backend_command(driver)
        )
    elif packages["onnxruntime"] and driver.devices and is_x86() and not plan:
        advice.append(
            "The GPU, with ONNX files: pip uninstall onnxruntime && " + backend_command(driver)
        )
    cuda = next((p.problem for p in providers if p.name == "CUDAExecutionProvider"), None)
    if cuda is not None and "cannot open shared object" in cuda and driver.devices and not plan:
        advice.append("The libraries of CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    engine = driver.devices and (packages["tensorrt"] or packages["tensorrt_rtx"])
    if check is None and all(p.problem for p in providers) and not (engine or packages["openvino"]):
        problems.append(f"No inference backend works (onnxruntime: {reason or 'no provider'}).")
        advice.append(backend_command(driver))
    return Diagnosis(
        read_machine(),
        packages,
        libjpeg_turbo(),
        driver,
        providers,
        list(packaged_models()),
        check,
        problems,
        advice,
    )


def as_text(found: Diagnosis) -> str:
    """Return the findings for people."""
    machine = found.machine
    rows = [("Python", machine.python), ("System", machine.system)]
    rows.append(("CPU", f"{machine.cpu}, {machine.cores} cores for this process"))
    rows.append(("CPU features", " ".join(machine.cpu_flags) or "not known"))
    if machine.memory_gib is not None:
        free = machine.memory_available_gib
        left = "" if free is None else f", {free:.1f} GiB available"
        rows.append(("Memory", f"{machine.memory_gib:.1f} GiB{left}"))
    if machine.jetson is not None:
        details = (
            machine.jetson.l4t and f"L4T {machine.jetson.l4t}",
            machine.jetson.power_mode and f"power mode {machine.jetson.power_mode}",
        )
        rows.append(("Jetson", ", ".join(filter(None, (machine.jetson.model, *details)))))
    for name, version in found.packages.items():
        note = ""
        if name == "Pillow":
            note = (
                f" (libjpeg-turbo {found.libjpeg_turbo})" if found.libjpeg_turbo else " (libjpeg)"
            )
        rows.append((name, f"{version}{note}" if version else "-"))
    cuda = found.cuda
    if cuda.version is not None:
        rows.append(("CUDA driver", f"up to CUDA {cuda.version[0]}.{cuda.version[1]}"))
    if cuda.problem is not None:
        rows.append(("CUDA driver", cuda.problem))
    for gpu in cuda.devices:
        rows.append(("GPU", f"{gpu.name}, compute capability {gpu.compute_capability / 10:.1f}"))
    for provider in found.providers:
        rows.append((provider.name, provider.problem or "works"))
    rows.append(("Packaged models", ", ".join(found.packaged_models) or "-"))
    if found.model is not None:
        rows += [("", ""), ("Model", found.model.path), *found.model.facts.items()]
    lines = [*columns(rows), ""]
    if found.model is not None and found.model.artefacts:
        lines += [*table_of(found.model.artefacts), ""]
    what = "models" if found.can_run else "any model"
    what = what if found.model is None else found.model.path
    lines.append(f"This machine {'can' if found.can_run else 'cannot'} run {what}.")
    lines += [f"Problem: {problem}" for problem in found.problems]
    lines += [f"Note: {note}" for note in (found.model.notes if found.model else ())]
    lines += [f"Try: {advice}" for advice in found.advice]
    return "\n".join(lines)


def as_json(found: Diagnosis) -> str:
    """Return the findings for programs: the fields of `Diagnosis`, and "can_run"."""
    findings = {**asdict(found), "can_run": found.can_run}
    return json_text(findings, encoding=getattr(sys.stdout, "encoding", None), indent=2)


@click.command(
    cls=GroupedCommand, context_settings=SETTINGS, examples=("", "model.onnx", "model.onnx --json")
)
@click.argument("model", type=FILE, required=False)
@click.option("--json", "json_", is_flag=True, help="The same as JSON.")
def doctor(model: Path | None, json_: bool) -> None:
    """Report on this machine, and whether it can run MODEL.

    Exit codes: 0 it can run MODEL (without MODEL: some model), 1 it cannot, 2 wrong use.
    """
    with exit_on_error():
        found = diagnose(model)
        if json_:
            click.echo(as_json(found))
        else:
            show(as_text(found))
    sys.exit(0 if found.can_run else 1)
