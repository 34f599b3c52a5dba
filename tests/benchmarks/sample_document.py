"""A latency document of schema 2, made up: nine ways to run ViT-B/32 at batch 1 and 8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bench.machine.disturbances import disturbances
from benchmarks.bench.results import (
    SCHEMA,
    Document,
    Fidelity,
    Images,
    LabelError,
    Ratio,
    Row,
    RunEnvironment,
    StartTimes,
    State,
    Summary,
    Warmup,
)
from tests.benchmarks.recorded import lay_out, look_at

# name, backend, precision, inference at batch 1 and 8 (ms), spread, lowest cosine, MAE
WAYS = [
    ("torch eager", "torch", "fp32", (88.1, 512.0), 0.03, 1.0, 4.31),
    ("torch.compile", "torch", "fp32", (71.3, 455.2), 0.03, 1.0, 4.31),
    ("torch eager, bf16", "torch", "bf16", (27.4, 149.0), 0.04, 0.9987, 4.36),
    ("open_clip zero-shot", "torch", "fp32", (301.7, 731.0), 0.05, 1.0, 4.31),
    ("plain ONNX, onnxruntime", "onnxruntime", "fp32", (37.2, 258.9), 0.02, 0.9999995, 4.31),
    ("numclip fp32, onnxruntime", "onnxruntime", "fp32", (32.8, 241.3), 0.02, 0.9999996, 4.31),
    ("numclip INT8, onnxruntime", "onnxruntime", "int8", (13.6, 93.1), 0.06, 0.99926, 4.33),
    ("numclip fp32, OpenVINO", "openvino", "fp32", (27.9, 221.0), 0.02, 0.9999991, 4.31),
    ("numclip INT8, OpenVINO", "openvino", "int8", (10.1, 75.4), 0.09, 0.99901, 4.38),
]


def make_row(i: int, batch: int, samples: int, *, mae: bool) -> Row:
    name, backend, precision, medians, spread, cosine, error = WAYS[i]
    random = np.random.default_rng([i, batch])
    inference = medians[batch > 1] * np.exp(spread * random.standard_normal(samples))
    inference[random.integers(0, samples, max(samples // 150, 1))] *= 1 + 3 * random.random()
    if name.endswith("INT8, onnxruntime"):
        inference[samples // 3] *= 10  # a rare stall
    stages = {
        "decode": batch * 2.6 * np.exp(0.08 * random.standard_normal(samples)),
        "preprocess": batch * 0.9 * np.exp(0.08 * random.standard_normal(samples)),
        "inference": inference,
        "postprocess": 0.02 * np.exp(0.2 * random.standard_normal(samples)),
    }
    total = np.sum(list(stages.values()), axis=0)
    reference = WAYS[0][3][batch > 1] / medians[batch > 1]
    return Row(
        name=name,
        kind="artefact" if name.startswith("numclip") else "baseline",
        model=f"ViT-B-32.{precision}.{'pt' if backend == 'torch' else 'onnx'}",
        sha256=f"{i:x}" * 64,
        backend=backend,
        provider={"onnxruntime": "CPUExecutionProvider"}.get(backend, "cpu"),
        device="cpu",
        precision=precision,
        batch=batch,
        threads=2,
        stages_ms={key: Summary.of(times) for key, times in (stages | {"total": total}).items()},
        total_ms_samples=total.round(4).tolist(),
        inference_ms_samples=inference.round(4).tolist(),
        throughput_img_s=float(1e3 * batch * samples / total.sum()),
        ratio=Ratio("torch eager", "inference", reference, 0.97 * reference, 1.04 * reference)
        if i
        else None,
        fidelity=Fidelity(
            value_max=30 * (1 - cosine),
            value_mean=7 * (1 - cosine),
            cosine_min=cosine,
            cosine_mean=1 - (1 - cosine) / 4,
            images=64,
        ),
        mae=LabelError(error, "years", 500, 0) if mae else None,
        first_prediction_s=0.4 + 4 * (backend == "torch"),
        first_prediction=StartTimes(0.4 + 4 * (backend == "torch"), 0.3, 5.0, 3),
        warmup=Warmup("medians of two windows agree", 0.8, i != 1, 9),
        peak_host_mb=260.0 + 40 * i,
        peak_device_mb=None,
        ceiling_share=0.3 + 0.05 * i,
    )


def make_document(
    folder: Path,
    *,
    machine: str = "laptop",
    batches: tuple[int, ...] = (1, 8),
    samples: int = 400,
    mae: bool = False,
    ways: int = len(WAYS),
) -> Document:
    """Return a document; the state is that of a recorded machine, laid out in `folder`."""
    root = lay_out(machine, folder)
    before = look_at(root)
    hot = {"sys/class/hwmon/hwmon4/temp1_input": "97000"} if machine == "laptop" else None
    after = look_at(lay_out(machine, root, hot))
    if machine == "laptop":
        after.load_average = [3.1, 1.0, 1.0]
    assert before.ticks is not None
    after.ticks = replace(before.ticks, busy=1400, idle=5400)
    environment = RunEnvironment(
        command="python benchmarks/latency.py --peers --batch 1,8 --json latency.json",
        date="2026-11-25T17:00:00+00:00",
        numclip="0.1.0",
        python="3.11.7",
        platform="Linux-6.8.0-x86_64-with-glibc2.39",
        cpu=before.cpu.model,
        logical_cores=4,
        load_average_before=before.load_average,
        load_average_after=after.load_average,
        versions={"numpy": "2.4.6", "onnxruntime": "1.32.0", "torch": "2.13.0+cpu"},
        images=Images("synthetic", "640x480 JPEG, quality 90", 64, 0.3072),
        threads=2,
        iterations=samples,
        duration=None,
        rounds=10,
        ceilings_with="torch 2.13.0+cpu",
    )
    return Document(
        schema=SCHEMA,
        environment=environment,
        state=State(before, after, disturbances(before, after)),
        ceilings_gflops={"fp32": 474.0, "bf16": 900.0, "int8": 1900.0},
        startup=None,
        rows=[make_row(i, batch, samples, mae=mae) for batch in batches for i in range(ways)],
        notes=["ViT-B-32: random weights, as fast as trained ones."],
    )
