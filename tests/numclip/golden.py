"""Golden cases: inputs and outputs of the method, computed in float64 by other code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from numclip.model.heads import FineRegressor
from numclip_runtime import Task

GOLDEN: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "golden.json").read_text("utf-8")
)
AGE_EDGES = (0.0, 13.0, 19.0, 35.0, 65.0, 101.0)
LEVELS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
FIVE = Task("five", "", AGE_EDGES, ("a", "b", "c", "d", "e"))
DIGITS = 2e-6  # the file is rounded to 6 digits


def case(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs of a case."""
    return GOLDEN[name]["in"], GOLDEN[name]["out"]


def tensor(value: Any) -> torch.Tensor:
    """Return float64, as the golden cases were computed."""
    return torch.tensor(value, dtype=torch.float64)


@torch.no_grad()
def set_regressor(regressor: FineRegressor, weights: dict[str, Any]) -> None:
    """Set a golden regressor, 3 hidden units wide; the others stay silent at 0."""
    for parameter in regressor.parameters():
        parameter.zero_()
    hidden = len(weights["b1"])
    regressor.fc.weight[:hidden] = tensor(weights["A1"])
    regressor.fc.bias[:hidden] = tensor(weights["b1"])
    regressor.delta.weight[:, :hidden] = tensor(weights["A2"])
    regressor.delta.bias.copy_(tensor(weights["b2"]))
