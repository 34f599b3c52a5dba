"""Whole-number labels, the range of values, and labels that a regressor cannot read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from numclip.data.checks import with_whole_numbers
from numclip.data.samples import Sample
from numclip.evaluation.metrics import evaluate_predictions, value_metrics, value_outside_bin
from numclip.evaluation.predictions import Predictions
from numclip.evaluation.report import table
from numclip.model.heads import FineRegressor
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip, point_estimate
from numclip.tasks import load_task, preset_names, unreachable
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded, operators
from numclip_runtime import Calibration, Task
from tests.numclip.tiny import TOWERS, images_of, tiny_model

ODD = Task("odd", "", (-3, 0.5, 0.75, 4, 9.5), ("a", "b", "c", "d"), whole_numbers=True)


def means(task: Task) -> list[float]:
    """Return the mean of the whole labels of each bin, by trying them all."""
    low, high = (
        round(edge + task.label_offset) for edge in (task.bin_edges[0], task.bin_edges[-1])
    )
    found = defaultdict(list)
    for label in filter(task.contains, range(low - 1, high + 2)):
        found[task.bin_of(label)].append(label - task.label_offset)
    centres = np.array(task.bin_edges[1:]) / 2 + np.array(task.bin_edges[:-1]) / 2
    return [float(np.mean(found[k])) if found[k] else centres[k] for k in range(task.num_bins)]


@pytest.mark.parametrize(
    "task",
    [
        *map(load_task, ("age", "count", "historical", "adience", "aesthetics")),
        replace(load_task("quality"), whole_numbers=True),
        ODD,
        replace(ODD, label_offset=0.25),
        replace(ODD, label_offset=-7.0),
    ],
    ids=lambda task: f"{task.name}{task.label_offset:+g}",
)
def test_a_bin_of_whole_numbers_stands_for_their_mean(task: Task) -> None:
    assert task.whole_numbers
    assert task.bin_values == pytest.approx(means(task))


def test_ages_are_not_read_half_a_year_too_old() -> None:
    assert load_task("age").bin_values == (6, 15.5, 26.5, 49.5, 83)
    unsaid = replace(load_task("age"), whole_numbers=None)
    assert unsaid.bin_values == (6.5, 16, 27, 50, 83)
    assert "whole_numbers" not in unsaid.to_dict()  # as in files from before, and for them
    assert Task.from_dict(load_task("age").to_dict()) == load_task("age")


def test_presets_say_what_their_comments_say() -> None:
    said = {name: load_task(name).whole_numbers for name in preset_names()}
    assert said == {name: None if name == "quality" else True for name in said}


def test_all_readings_of_the_bins_speak_the_same_numbers() -> None:
    """A world of whole ages where the bin is known: each reading's bias within a bin is 0."""
    task = load_task("age")
    labels = np.arange(0.0, 65)
    probs = np.eye(5)[[task.bin_of(label) for label in labels.tolist()]]
    in_torch = torch.tensor(probs, dtype=torch.float32)
    form = FineRegressor(task.bin_edges, "expected", task.bin_values)
    zero_shot = NumClip(ModelConfig(TOWERS["vit"], regressor="expected"), task)
    assert torch.equal(zero_shot.regressor(in_torch, in_torch), form(in_torch, in_torch))
    readings = {
        "expected": point_estimate(
            replace(task, prediction="expected"), in_torch.sum(1), in_torch
        ).numpy(),
        "zero-shot": form(in_torch, in_torch).numpy(),
    }
    for values in readings.values():
        assert (values - labels).mean() == pytest.approx(0, abs=1e-4)  # from centres: +0.5
    best = np.array(task.bin_values)[probs.argmax(1)]
    metrics = value_metrics(Predictions(task, None, labels, labels, probs))
    assert metrics["mae_exp"] == metrics["mae_max"] == pytest.approx(np.abs(best - labels).mean())


def test_zero_shot_checkpoints_from_before_keep_their_values() -> None:
    for task in (
        replace(load_task("age"), whole_numbers=None),
        Task("c", "", (0, 1, 2), ("a", "b")),
    ):
        old = NumClip(ModelConfig(TOWERS["vit"], regressor="expected"), task)
        middles = torch.tensor(task.bin_edges[:-1]) / 2 + torch.tensor(task.bin_edges[1:]) / 2
        eye = torch.eye(task.num_bins)
        assert torch.equal(old.regressor(eye, eye), middles)
        assert not [key for key in old.state_dict() if key.startswith("regressor")]


def samples(*labels: float, annotations: tuple[float, ...] = ()) -> list[Sample]:
    return [Sample(Path("a.png"), label, annotations) for label in labels]


@pytest.mark.parametrize(
    ("name", "said", "labels", "expected", "note"),
    [
        ("quality", None, (3, 20, 57), True, ""),
        ("quality", None, (3, 20, 57.5), None, ""),
        ("quality", None, (10, 30, 90), None, ""),  # a folder per bin: they say nothing
        ("quality", False, (3, 20, 57), False, ""),
        ("age", True, (3, 20, 57), True, ""),
        ("age", True, (3, 20.25, 57), False, "labels such as 20.25; its bins stand for"),
        ("age", True, (6, 15.5, 83), True, ""),  # a folder per bin
        ("adience", None, (0, 1, 2.5), True, ""),  # classes are one number each, in any case
    ],
)
def test_labels_decide_where_the_task_does_not(
    name: str, said: bool | None, labels: tuple[float, ...], expected: bool | None, note: str
) -> None:
    task = replace(load_task(name), whole_numbers=said)
    found, words = with_whole_numbers(task, samples(*labels))
    assert found == replace(task, whole_numbers=expected)
    assert len(words) == bool(note)
    assert note in "".join(words)


def test_every_annotator_counts() -> None:
    found, _ = with_whole_numbers(load_task("quality"), samples(3, annotations=(2.5, 3, 4)))
    assert found.whole_numbers is None


@pytest.mark.parametrize("name", preset_names())
def test_values_stay_in_the_range_of_the_intervals(name: str) -> None:
    task = replace(load_task(name), prediction="regressor")
    low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
    probs = torch.full((4, task.num_bins), 1 / task.num_bins)
    middle = task.label_range / 3
    values = point_estimate(task, torch.tensor([1e6, -1e6, torch.inf, middle]), probs)
    assert values.tolist() == pytest.approx([high, low, high, middle + task.label_offset])
    fitted = Calibration(1.0, 1.0, (0.9,), (2.0,), 50)
    ends = fitted.intervals(values.double().numpy(), probs.double().numpy(), task)
    assert ends is not None
    assert (ends[:, 0] <= values.numpy() + 1e-6).all()
    assert (values.numpy() <= ends[:, 1] + 1e-6).all()


@torch.no_grad()
def test_model_folded_model_and_graph_clip_alike() -> None:
    task = replace(load_task("age"), label_offset=1.0)
    model = tiny_model(task=task)
    images = images_of("vit", 6)
    assert isinstance(model.regressor, FineRegressor)
    for bias in (-20.0, 20.0):  # tanh saturates: the released form reads thousands, or half
        model.regressor.delta.bias.fill_(bias)
        out = model(images)
        values, _ = FoldedModel(model)(images)
        torch.testing.assert_close(values, out.values)
        assert out.values.max() <= 102
        assert (out.fine.max() > 1000) == (bias < 0)  # training still sees how far it is
    assert out.fine.min() > 0
    assert "Clip" in operators(onnx_from_folded(FoldedModel(model), 32))


def test_released_regressor_says_what_it_cannot_read() -> None:
    task = load_task("age")
    (line,) = unreachable(task, "released", [0, 5, 12, 13, 80])
    assert line == (
        "the released regressor reads 0 where it is sure of 'child', but 2 training labels of this "
        "bin are above; --regressor bounded reads them."
    )
    assert list(unreachable(task, "released", [0, 13, 80])) == []
    assert list(unreachable(replace(task, prediction="expected"), "released", [5])) == []
    below = Task("cold", "C", (-10, -4, 20), ("frost", "mild"), label_offset=1.0)
    first, second = unreachable(below, "released", [-9, -3.5, 10])
    assert "reads at most -4 where it is sure of 'frost', but 1 training label" in first
    assert "reads at most -1 where it is sure of 'mild', but 1 training label" in second
    regressor = FineRegressor(below.bin_edges)
    torch.nn.init.normal_(regressor.delta.bias, std=30)
    read = regressor(torch.randn(200, 2), torch.eye(2)[0].expand(200, 2))
    assert read.max() <= -5  # as said: at most -4, less the offset


def test_bounded_regressor_says_that_it_cannot_reach_an_edge() -> None:
    (line,) = unreachable(load_task("count"), "bounded", [0, 1, 1, 2, 5, 30])
    assert "all labels of 'no objects', 'a single object' are there" in line
    assert list(unreachable(load_task("count"), "released", [0, 1, 1, 2, 5, 30])) == []
    assert list(unreachable(load_task("quality"), "bounded", [0, 20, 40, 100])) == []
    assert list(unreachable(load_task("historical"), "bounded", [1, 2, 5])) == []


def test_values_outside_the_named_bin_are_counted() -> None:
    task = load_task("age")
    probs = np.array([[0.6, 0, 0.4, 0, 0], [0, 0, 1.0, 0, 0]])
    found = Predictions(task, None, np.array([20.0, 30]), np.array([25.0, 30]), probs)
    assert value_outside_bin(found) == 0.5  # the record of the first says "child" and 25
    text = table(evaluate_predictions(found), task)
    assert "value outside the most probable bin            50.0%\n" in text


def test_metrics_by_group() -> None:
    task = Task("age", "years", (0, 10, 20, 40), ("child", "teen", "adult"))
    probs = np.tile([0.0, 1, 0], (6, 1))
    labels, values = np.array([15.0, 15, 19, 15, 9, 5]), np.full(6, 15.0)
    fitted = Calibration(1.0, 4.0, (0.9,), (1.0,), 50)  # 15 +- 4
    found = Predictions(task, fitted, labels, values, probs, ("b", "b", "a", "a", "c", "c"))
    metrics = evaluate_predictions(found)
    assert [(row["group"], row["n"], row["coverage"]) for row in metrics["per_group"]] == [
        ("a", 2, 1),
        ("b", 2, 1),
        ("c", 2, 0),
    ]
    assert metrics["per_group"][2]["mae"] == 8
    lines = table(metrics, task).splitlines()
    place = lines.index(
        "90% interval over 3 groups: covers 66.7% of the mean group, 0.0% of the worst"
    )
    assert [line.split()[0] for line in lines[place + 1 :]] == ["group", "c", "a", "b"]
    bare = evaluate_predictions(replace(found, calibration=None))
    assert "covers" not in table(bare, task)
    assert "per_group" not in evaluate_predictions(replace(found, groups=()))
