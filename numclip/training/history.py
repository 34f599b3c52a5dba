"""A training's history: what it says of the model, as a table and as a picture; needs no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from numclip_runtime import Task
from numclip_runtime.console import visible
from numclip_runtime.errors import first_line, require
from numclip_runtime.files import atomic_path, atomic_text

Epoch = dict[str, float]  # "epoch" from 1 on, "loss", "l1" and other losses, "val_mae" ...
CONSTANT = "constant"  # name of the baseline that says the same number for every image
NO_BETTER, HARDLY_BETTER = 0.95, 0.8  # shares of the constant's MAE
WORSE = 1.15  # so much of the best validation MAE is worse, not noise of the epochs
BY_HEART, LEARNT = 0.5, 0.25  # training error / validation MAE; validation MAE / constant's

_BLUE, _RED, _SOFT = "#0072b2", "#d55e00", "#777777"  # Okabe-Ito, safe for all eyes


def findings(history: Sequence[Epoch], baselines: Mapping[str, float], task: Task) -> Iterator[str]:
    """Yield a sentence about each thing that a user should know of a finished training.

    Args:
        history: Its epochs, those without a finite MAE included.
        baselines: Validation MAE of simpler predictors by name, label units; see `CONSTANT`.
        task: Determines the digits of errors.
    """

    def text(error: float) -> str:
        return f"{task.number(error, 3)} {visible(task.unit)}".rstrip()

    finite = [epoch for epoch in history if epoch["val_mae"] < float("inf")]
    if not finite:
        return
    best, last = min(finite, key=lambda epoch: epoch["val_mae"]), finite[-1]
    mae, constant = best["val_mae"], baselines.get(CONSTANT, 0.0)
    if mae > HARDLY_BETTER * constant > 0:
        how = "no better" if mae > NO_BETTER * constant else "hardly better"
        yield (
            f"the model is {how} than a constant: its validation MAE is {text(mae)}, that of the "
            f"labels' median {text(constant)}. Try more epochs, --lr three times as high or low, "
            "or --pretrained; and check that images and labels belong together."
        )
    for name, other in baselines.items():
        if name != CONSTANT and mae > other:
            yield (
                f"the {name} is better than the model: its validation MAE is {text(other)}, the "
                f"model's {text(mae)}."
            )
    ways_out = "More or more varied images help, or a smaller network, or a lower --lr."
    if last["val_mae"] > WORSE * mae and last["l1"] < best["l1"]:
        yield (
            f"training and validation drift apart: after epoch {best['epoch']:.0f} the error on "
            f"training images fell from {text(best['l1'])} to {text(last['l1'])}, on validation "
            f"images it rose from {text(mae)} to {text(last['val_mae'])}. The weights of epoch "
            f"{best['epoch']:.0f} are kept. {ways_out}"
        )
    elif last["l1"] < BY_HEART * last["val_mae"] and mae > LEARNT * constant > 0:
        yield (
            f"training and validation drift apart: at the end the error is {text(last['l1'])} on "
            f"training and {text(last['val_mae'])} on validation images; the model knows the "
            f"former by heart. {ways_out}"
        )


def save_history(
    folder: Path, history: Sequence[Epoch], baselines: Mapping[str, float], task: Task
) -> str | None:
    """Write results.csv and, where matplotlib is installed, results.png.

    Returns:
        A sentence where there is no picture.
    """
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    with atomic_text(folder / "results.csv") as file:
        rows = csv.DictWriter(file, [*names, *(f"val_mae_{name}" for name in baselines)])
        rows.writeheader()
        beside = {f"val_mae_{name}": mae for name, mae in baselines.items()}
        rows.writerows({**row, "epoch": int(row["epoch"]), **beside} for row in history)
    try:
        require("plot", "matplotlib")
        _draw(folder / "results.png", history, baselines, task)
    except Exception as error:  # whatever it is, the picture is not worth the training
        return f"{folder / 'results.png'} is not drawn: {first_line(error)}"
    return None


def _draw(path: Path, history: Sequence[Epoch], baselines: Mapping[str, float], task: Task) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    errors, losses = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    marker = "o" if len(epochs) < 20 else ""
    for name, label, colour in (("val_mae", "validation", _BLUE), ("l1", "training", _RED)):
        values = [epoch[name] for epoch in history]
        errors.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3)
    styles = ((6, 3), (2, 2), (6, 2, 1, 2))
    for (name, mae), dashes in zip(baselines.items(), styles, strict=False):
        label = f"{name}, validation"
        errors.axhline(mae, color=_SOFT, linewidth=1, dashes=dashes, label=label)
    unit = f", {visible(task.unit)}" if task.unit else ""
    errors.set(title=f"mean absolute error{unit}", xlabel="epoch")
    errors.set_ylim(bottom=0)
    losses.plot(epochs, [e["loss"] for e in history], color=_RED, marker=marker, markersize=3)
    losses.set(title="training loss", xlabel="epoch")
    errors.legend(frameon=False)
    for axes in (errors, losses):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
