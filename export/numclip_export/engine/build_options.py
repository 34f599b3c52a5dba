"""Options of an engine, checked before anything is loaded or built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from numclip_runtime import UsageError
from numclip_runtime.model_files.plan import Builder

EngineTarget = Literal["auto", "tensorrt", "tensorrt-rtx"]
MAX_BATCH = 32  # by default
OPT_BATCH = 8  # batch size for which engines are tuned by default


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine. None leaves a choice to numclip or to TensorRT.

    Raises:
        UsageError: if a field is out of range, or two contradict each other.
    """

    target: EngineTarget = "auto"  # auto: TensorRT where a GPU is, else TensorRT-RTX
    min_batch: int | None = None  # None: 1, or the batch of a model whose batch is fixed
    opt_batch: int | None = None  # the batch that is fastest; None: 8, or the nearest allowed
    max_batch: int | None = None  # None: 32; memory on the device grows with it
    workspace_mib: int | None = None  # most scratch memory of the engine; None: all
    timing_cache: Path | None = None  # read and written; makes the next build on this GPU faster
    version_compatible: bool = False  # TensorRT: run on later versions as well
    hardware_compatible: bool = False  # TensorRT: run on every GPU from Ampere (8.0) on
    # TensorRT-RTX: the GPUs it is for, 86 means 8.6; empty: its own choice, see RTX_CHOICE
    compute_capabilities: tuple[int, ...] = ()
    # Round inputs of FP32 matrix products to 10 bits. TensorRT's default is yes; here no: it
    # would undo the FP32 of the head, where exp(logit_scale) of about 100 amplifies rounding.
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.target not in get_args(EngineTarget):
            raise UsageError(
                f"unknown --target {self.target!r}; choose from {get_args(EngineTarget)}."
            )
        # sorted, because the order changes the bytes of the engine
        capabilities = tuple(sorted(set(self.compute_capabilities)))
        object.__setattr__(self, "compute_capabilities", capabilities)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"--workspace-mib must be at least 1, got {self.workspace_mib}.")
        self.batches(None)

    def batches(self, fixed: int | None) -> tuple[int, int, int]:
        """Return the smallest, the optimal and the largest batch.

        Args:
            fixed: The fixed batch of the model; None: any.

        Raises:
            UsageError: unless 1 <= min <= opt <= max, all equal to a fixed batch.
        """
        low = self.min_batch if self.min_batch is not None else fixed or 1
        high = self.max_batch if self.max_batch is not None else max(low, fixed or MAX_BATCH)
        best = self.opt_batch if self.opt_batch is not None else min(max(OPT_BATCH, low), high)
        if not 1 <= low <= best <= high:
            raise UsageError(
                f"batches must be 1 <= --min-batch <= --opt-batch <= --max-batch, got {low}, "
                f"{best}, {high}."
            )
        if fixed is not None and (low, high) != (fixed, fixed):
            raise UsageError(
                f"the model's batch is fixed at {fixed}, so an engine for {low} to {high} cannot "
                "be built; leave the batch options out, or export with a dynamic batch."
            )
        return low, best, high

    def check(self, builder: Builder) -> None:
        """Refuse options that the chosen builder does not have.

        Raises:
            UsageError: naming the way out.
        """
        if builder == "tensorrt-rtx":
            if self.version_compatible:
                raise UsageError(
                    "TensorRT-RTX builds no version-compatible engines (its Python package "
                    "holds no lean runtime); build again after an update, in seconds."
                )
            if self.hardware_compatible:
                raise UsageError(
                    "TensorRT-RTX engines fit every GPU from compute capability 8.0 on; leave "
                    "--hardware-compatible out, or name GPUs with --compute-capability."
                )
        elif self.compute_capabilities:
            raise UsageError(
                "TensorRT builds for the GPU of this machine; leave --compute-capability out, or "
                "use --target tensorrt-rtx."
            )
