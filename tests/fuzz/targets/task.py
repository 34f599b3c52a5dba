"""Task files in TOML; task, calibration and preprocessing from JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources

from numclip.tasks import load_task, preset_names
from numclip_runtime import Calibration, Preprocessing, Task
from tests.fuzz.harness import FindingError, refusals, written

TOML, TASK, CALIBRATION, PREPROCESSING = range(4)  # of the first byte: the form of the rest


def target(data: bytes) -> None:
    kind = data[0] % 4 if data else TOML
    if kind == TOML:
        with refusals():
            _check(load_task(str(written(data[1:], ".toml"))))
        return
    try:
        plain = json.loads(data[1:])
    except (ValueError, RecursionError):
        return  # another target's
    if not isinstance(plain, dict):
        return
    with refusals():
        if kind == TASK:
            _check(Task.from_dict(plain))
        elif kind == CALIBRATION:
            Calibration.from_dict(plain)
        else:
            Preprocessing.from_dict(plain)


def _check(task: Task) -> None:
    if Task.from_dict(task.to_dict()) != task:
        raise FindingError(f"another one after its round trip: {task}")
    for value in task.bin_values:
        task.bin_of(value)


def seeds() -> Iterator[bytes]:
    for name in preset_names():
        yield bytes((TOML,)) + (resources.files("numclip") / f"presets/{name}.toml").read_bytes()
    yield bytes((TOML,)) + b"name = " + b"[" * 400
    yield bytes((TOML,)) + b'name = "x"\nunit = ""\nbin_edges = [-inf, nan, 0x7f, 1e400, 1_0]\n'
    task = Task("x", "kg", (0, 1, 2.5), ("a", "b"), label_offset=3.0, prediction="class")
    yield bytes((TASK,)) + json.dumps(task.to_dict()).encode()
    yield (
        bytes((CALIBRATION,))
        + json.dumps(
            {
                "temperature": 1.5,
                "scale_floor": 0.1,
                "coverages": [0.5, 0.9],
                "factors": [0.7, 2.0],
                "images": 100,
            }
        ).encode()
    )
    yield (
        bytes((PREPROCESSING,))
        + json.dumps(
            {
                "crop": 8,
                "resize": 10,
                "resize_mode": "shortest",
                "interpolation": "bicubic",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
            }
        ).encode()
    )
