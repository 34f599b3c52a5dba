"""Triton's `model.py`: runs the ONNX file beside it, since the wheel's server has no onnxruntime.

This file is copied into a model's folder, and imported by Triton alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)  # which Triton's interpreter ignores
import numpy as np  # noqa: E402


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        import onnxruntime

        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.dims = {tensor["name"]: tensor for tensor in config["input"]}
        delay = config["parameters"].get("delay_s")
        self.delay = 0.0 if delay is None else float(delay["string_value"])
        self.log = folder / "batches.txt"

    def execute(self, requests: list[Any]) -> list[Any]:
        # There inside Triton only
        import triton_python_backend_utils as triton  # type: ignore[import-not-found]

        images = [triton.get_input_tensor_by_name(r, "images").as_numpy() for r in requests]
        sizes = [len(one) for one in images]
        with self.log.open("a") as log:
            log.write(f"{sum(sizes)}\n")
        time.sleep(self.delay)
        values, bin_probs = self.session.run(
            ["values", "bin_probs"], {"images": np.concatenate(images)}
        )
        ends = np.cumsum(sizes)[:-1]
        return [
            triton.InferenceResponse(
                [triton.Tensor("values", one), triton.Tensor("bin_probs", probs)]
            )
            for one, probs in zip(np.split(values, ends), np.split(bin_probs, ends), strict=True)
        ]
