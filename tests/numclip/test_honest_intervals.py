"""Intervals hold what they state: of classes, after an epoch was chosen, and of new groups."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint
from numclip.cli.train import main
from numclip.data.samples import Sample
from numclip.data.subsets import calibration_split
from numclip.evaluation.calibration import describe_calibration, fit_calibration
from numclip.evaluation.metrics import covered, value_metrics
from numclip.evaluation.predictions import Predictions, groups_of, log_softmax
from numclip.evaluation.quantiles import (
    TRIED_LEVELS,
    conformal_quantile,
    factor_of,
    group_quantile,
    left_out_quantile,
)
from numclip.tasks import load_task
from numclip.training.fit import fit
from numclip_runtime import Calibration, ModelMetadata, Preprocessing, Task, UsageError
from numclip_runtime.calibration import Array, scales
from tests.numclip.tiny import TASK, TOWERS, write_photos

CLASS_TASKS = ("adience", "aesthetics", "historical")
QUALITY = Task("quality", "points", (0, 20, 40, 60, 80, 100), ("a", "b", "c", "d", "e"))
CENTRES = np.array([10, 30, 50, 70, 90.0])


def covers(
    fitted: Calibration, values: Array, logits: Array, labels: Array, task: Task
) -> npt.NDArray[np.bool_]:
    ends = fitted.intervals(values, np.exp(log_softmax(logits / fitted.temperature)), task)
    assert ends is not None
    return covered(ends + np.array([-1e-9, 1e-9]), labels)


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_the_scale_of_classes_is_their_spread(name: str) -> None:
    task = load_task(name)
    probs = np.zeros((3, task.num_bins))
    probs[0, 2], probs[1, 1:3], probs[2, 2:4] = 1, 0.5, 0.5  # sure; doubt below; doubt above
    value = np.full(3, 2 + task.label_offset)
    expected = [1e-6, math.sqrt(0.5), math.sqrt(0.5)]  # measured from centres: .5, .5, 1.118
    np.testing.assert_allclose(scales(value, probs, task, 1e-6), expected, rtol=1e-6)


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_doubt_below_and_above_is_covered_alike(name: str) -> None:
    task, rng = load_task(name), np.random.default_rng(0)
    classes, count, fitted_on = np.arange(task.num_bins), 4000, 1000
    seen = rng.uniform(0.5, task.num_bins - 1.5, count)
    width = rng.uniform(0.2, 1, (count, 1))
    logits = -((classes - seen[:, None]) ** 2) / (2 * width**2)
    probs = np.exp(log_softmax(logits))
    labels = (probs.cumsum(1) < rng.random((count, 1))).sum(1) + task.label_offset
    best = probs.argmax(1)
    values = best + task.label_offset
    fitted = fit_calibration(values[:fitted_on], logits[:fitted_on], labels[:fitted_on], task)
    new = slice(fitted_on, None)
    inside = covers(fitted, values[new], logits[new], labels[new], task)
    below, above = (side[new] for side in (seen < best - 0.25, seen > best + 0.25))
    # measured from the centres of [k, k + 1): 75 % and 97 %
    assert inside[below].mean() == pytest.approx(inside[above].mean(), abs=0.05)
    assert inside[below].mean() > 0.85


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_a_perfect_classifier_has_no_error(name: str) -> None:
    task = load_task(name)
    labels = np.arange(float(task.num_bins)) + task.label_offset
    found = Predictions(task, None, labels, labels, np.eye(task.num_bins))
    metrics = value_metrics(found)
    assert [metrics[key] for key in ("mae", "mae_exp", "mae_max")] == [0, 0, 0]


def test_files_from_before_keep_the_scale_that_their_factors_belong_to() -> None:
    task = replace(load_task("aesthetics"), label_offset=1.0)
    probs = np.array([[0, 0.5, 0.5, 0, 0]])
    old = {"temperature": 1.0, "scale_floor": 0.1, "coverages": [0.9], "factors": [2.0]}
    read = Calibration.from_dict(old | {"images": 40})
    assert (read.measured_from, read.groups) == ("centres", 0)
    ends = read.intervals(np.array([3.0]), probs, task)
    assert ends is not None
    half = 2 * math.sqrt(0.5 * 0.5**2 + 0.5 * 0.5**2 + 0.01)  # centres 2.5 and 3.5
    np.testing.assert_allclose(ends, [[3 - half, 3 + half]])
    spec = Preprocessing()
    text = ModelMetadata(task, spec, calibration=read).to_json()
    assert json.loads(text)["calibration"] == old | {"images": 40}  # as older numclips read it
    new = replace(read, measured_from="values", groups=11)
    again = ModelMetadata.from_json(ModelMetadata(task, spec, calibration=new).to_json())
    assert again.calibration == new


def test_only_tasks_whose_scale_changed_need_a_newer_runtime() -> None:
    rng = np.random.default_rng(0)
    values, logits = rng.uniform(0, 4, 30), rng.normal(size=(30, 5))
    labels = np.rint(values)
    assert fit_calibration(values, logits, labels, QUALITY).measured_from == "centres"
    classes = replace(load_task("historical"), label_offset=0.0)
    assert fit_calibration(values, logits, labels, classes).measured_from == "values"


def test_group_quantile_by_hand() -> None:
    # masses, of 4 = G + 1: a has 1/2 each, b 1, c 1/3 each; infinity 1
    scores = np.array([1, 5, 2, 3, 4, 6.0])
    groups = ["a", "a", "b", "c", "c", "c"]
    # cumulated: 1 .5, 2 1.5, 3 1.83, 4 2.17, 5 2.67, 6 3
    for coverage, expected in ((0.125, 1), (0.375, 2), (0.5, 4), (0.66, 5), (0.75, 6)):
        assert group_quantile(scores, groups, coverage) == expected
    assert group_quantile(scores, groups, 0.76) == math.inf


def test_groups_of_one_image_are_single_images() -> None:
    rng = np.random.default_rng(0)
    for count, coverage in itertools.product((1, 8, 9, 19, 20, 99, 480), (0.5, 0.8, 0.9, 0.95)):
        scores = rng.random(count)
        names = [f"{i}" for i in range(count)]
        assert group_quantile(scores, names, coverage) == conformal_quantile(scores, coverage)


@pytest.mark.parametrize("sizes", [(3,) * 9, (7,) * 19, (1, 2, 3, 4, 5, 6, 7, 8, 9), (49,) * 9])
def test_nine_groups_are_enough_whatever_their_sizes(sizes: tuple[int, ...]) -> None:
    groups = [str(g) for g, size in enumerate(sizes) for _ in range(size)]
    scores = np.random.default_rng(0).random(len(groups))
    assert group_quantile(scores, groups, 0.9) < math.inf  # 9 / 10, though sums are rounded
    few = [g for g in groups if g != "0"] if len(sizes) == 9 else groups[: 7 * 8]
    assert group_quantile(scores[: len(few)], few, 0.9) == math.inf


def test_too_few_groups_get_the_largest_score_and_a_sentence() -> None:
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 100, 60)
    values, logits = labels + 5 * rng.normal(size=60), rng.normal(size=(60, 5))
    groups = [str(i % 6) for i in range(60)]
    scores = np.abs(labels - values)
    assert factor_of(scores, 0.9, groups, chose_epoch=True) == scores.max()
    proven = group_quantile(scores, groups, 0.8)
    assert factor_of(scores, 0.8, groups, chose_epoch=True) == proven < scores.max()
    assert factor_of(scores, 0.8, groups) == left_out_quantile(scores, groups, 0.8) < proven
    assert factor_of(scores, 0.9, ["one"] * 60) == scores.max()
    assert factor_of(scores[:8], 0.9, groups[:8]) == math.inf  # too few images, whatever groups
    fitted = fit_calibration(values, logits, labels, QUALITY, groups=groups)
    assert (fitted.groups, fitted.coverages) == (6, (0.5, 0.8, 0.9, 0.95))
    assert fitted.promised(0.9) == pytest.approx(6 / 7)
    assert fitted.promised(0.8) == 0.8
    line = describe_calibration(fitted, values, logits, QUALITY)
    assert line.startswith("calibrated on 60 images of 6 groups: temperature ")
    assert line.endswith(
        " points; it holds for images of these groups, of a new group only 86% are promised: "
        "90% need 9 groups"
    )
    enough = fit_calibration(
        values, logits, labels, QUALITY, groups=[str(i % 9) for i in range(60)]
    )
    assert describe_calibration(enough, values, logits, QUALITY).endswith(
        "for images of new groups"
    )


@pytest.mark.parametrize("sizes", [(4,) * 10, (1, 2, 5, 9, 20), (30, 7), (1, 1)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_level_covers_each_group_by_the_others(sizes: tuple[int, ...], spread: float) -> None:
    rng = np.random.default_rng(3)
    parts = [np.abs(spread * rng.normal() + rng.normal(size=size)) for size in sizes]

    def at(parts: list[Array], level: float) -> float:
        """Return the level's quantile: group by group, score by score."""
        pairs = sorted((float(s), 1 / len(part) / len(parts)) for part in parts for s in part)
        reached = 0.0
        for score, mass in pairs:
            reached += mass
            if reached >= level - 1e-9:
                return score
        return pairs[-1][0]

    found = []
    for level in np.linspace(0.8, 1, TRIED_LEVELS):
        rest = [at(parts[:i] + parts[i + 1 :], level) for i in range(len(parts))]
        shares = [(part <= limit).mean() for part, limit in zip(parts, rest, strict=True)]
        found.append((float(np.mean(shares)), at(parts, level)))
    least = min((share for share, _ in found if share >= 0.8 - 1e-9), default=math.inf)
    expected = max((q for share, q in found if share <= least + 1e-12), default=math.inf)
    groups = [str(i) for i, part in enumerate(parts) for _ in part]
    scores = np.concatenate(parts)
    assert left_out_quantile(scores, groups, 0.8) == pytest.approx(min(expected, scores.max()))


def world(rng: np.random.Generator, groups: int, per: int, epochs: int) -> tuple[Array, Array]:
    """Return errors (epochs, groups, per) of correlation .8 in a group, and their known size."""
    size = 5 * np.where(rng.random((groups, per)) < 0.3, 1.6, 0.6)
    base, noise = (
        math.sqrt(0.8) * rng.normal(size=(n, groups, 1))
        + math.sqrt(0.2) * rng.normal(size=(n, groups, per))
        if per > 1
        else rng.normal(size=(n, groups, 1))
        for n in (1, epochs)
    )
    return size * (base + 0.5 * noise), size


def coverage(groups: int, per: int, epochs: int, *, honest: bool, seed: int = 0) -> float:
    """Return the mean coverage of new groups' images after the best epoch was chosen."""
    rng, fresh, shares = np.random.default_rng(seed), 1500 // per, []
    for _ in range(25):
        errors, size = world(rng, groups + fresh, per, epochs)
        labels = rng.uniform(30, 70, size.shape)
        values, labels, size = (labels + errors).reshape(epochs, -1), labels.ravel(), size.ravel()
        names = np.repeat(np.arange(groups), per).astype(str)
        samples = [
            Sample(Path(str(i)), float(labels[i]), group=name if per > 1 else "")
            for i, name in enumerate(names)
        ]
        parts = calibration_split(samples, None if honest else 0, QUALITY, seed=0)
        chose, fit = (
            np.array([int(s.path.name) for s in part])
            for part in (parts.choosing, parts.kept or parts.choosing)
        )
        best = values[np.abs(values[:, chose] - labels[chose]).mean(1).argmin()]
        logits = -2 * ((best[:, None] - CENTRES) / (size[:, None] + 8)) ** 2
        fitted = fit_calibration(
            best[fit],
            logits[fit],
            labels[fit],
            QUALITY,
            groups=names[fit].tolist() if honest and per > 1 else (),
            tuning=(best[chose], logits[chose], labels[chose]) if parts.kept else None,
            chose_epoch=epochs > 1 and not parts.kept,
        )
        new = slice(groups * per, None)
        shares.append(covers(fitted, best[new], logits[new], labels[new], QUALITY).mean())
    return float(np.mean(shares))


def test_the_choice_of_the_epoch_costs_no_coverage() -> None:
    assert coverage(100, 1, 50, honest=False) < 0.885  # as it was
    assert 0.89 < coverage(100, 1, 50, honest=True) < 0.93


@pytest.mark.parametrize(("groups", "per"), [(11, 50), (15, 20), (100, 4)])
def test_new_groups_are_covered(groups: int, per: int) -> None:
    before, after = (coverage(groups, per, 10, honest=honest) for honest in (False, True))
    assert before < 0.9
    assert 0.89 < after < 0.97
    assert after > before + 0.015


@pytest.mark.parametrize(("groups", "per"), [(5, 30), (11, 50), (15, 20), (30, 10)])
def test_new_groups_are_covered_where_no_epoch_was_chosen(groups: int, per: int) -> None:
    assert 0.86 < coverage(groups, per, 1, honest=True) < 0.94


def samples_of(count: int, *, groups: int = 0) -> list[Sample]:
    return [
        Sample(Path(f"{i}.png"), float(i % 100), group=f"p{i % groups}" if groups else "")
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "groups", "share", "kept"),
    [
        (39, 0, None, 0),
        (200, 0, None, 100),
        (200, 10, None, 0),  # 5 groups could promise 83 %
        (200, 40, None, 100),
        (200, 0, 0, 0),
        (200, 0, 0.2, 40),
        (30, 0, 0.5, 15),  # as asked for
        (200, 10, 0.5, 100),
        (200, 1, None, 0),
    ],
)
def test_calibration_split(count: int, groups: int, share: float | None, kept: int) -> None:
    samples = samples_of(count, groups=groups)
    parts = calibration_split(samples, share, QUALITY, seed=3)
    assert len(parts.kept) == pytest.approx(kept, abs=count // 20)
    assert bool(parts.kept) == bool(kept)
    both = [*parts.choosing, *parts.kept]
    assert sorted(s.path for s in both) == sorted(s.path for s in samples)
    assert not {s.group for s in parts.choosing} & {s.group for s in parts.kept} - {""}
    assert parts == calibration_split(samples, share, QUALITY, seed=3)
    said = f"{len(parts.kept)}{' of 20 groups' * (groups == 40)} are kept for the intervals alone"
    if groups != 10:
        assert (said if kept else f"all {count} images choose the epoch and fit") in parts.note


def test_a_share_that_cannot_be_kept_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"^--calibration-share 0\.5: .* --calibration-share 0\.$"):
        calibration_split(samples_of(50, groups=1), 0.5, QUALITY, seed=0)


def test_samples_without_a_group_stand_for_themselves() -> None:
    assert groups_of(samples_of(3)) == ()
    mixed = [*samples_of(4, groups=2), *samples_of(2)]
    assert len(set(groups_of(mixed))) == 4
    assert asdict(Calibration(1, 1, (), (), 3))["groups"] == 0


@pytest.mark.filterwarnings("ignore")  # Lightning's own deprecations
@pytest.mark.parametrize("share", [None, 0.0, 0.25])
def test_training_keeps_images_for_the_intervals(
    share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chose: list[Sample] = []

    def spy(*given: Any, **more: Any) -> Any:
        chose.extend(given[2])
        return fit(*given, **more)

    monkeypatch.setattr("numclip.training.fit.fit", spy)
    for name, count in (("train", 8), ("val", 60)):
        write_photos(tmp_path, name, count)
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (tmp_path / "task.toml").write_text(
        "\n".join(f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items()), "utf-8"
    )
    given = {"train": "train.csv", "val": "val.csv", "task": "task.toml", "backbone": "tiny.json"}
    flags = [text for key, file in given.items() for text in (f"--{key}", str(tmp_path / file))]
    flags += ["--epochs", "1", "--workers", "0", "-o", str(tmp_path / "c.pt")]
    flags += [] if share is None else ["--calibration-share", str(share)]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 0, result.output
    kept = {None: 30, 0: 0, 0.25: 15}[share]
    assert len(chose) == 60 - kept
    assert f"calibrated on {kept or 60} images: temperature" in result.output
    note = (
        f"{60 - kept} images choose the epoch, {kept} are kept" if kept else "all 60 images choose"
    )
    assert f"validation: {note}" in result.output
    calibration = load_checkpoint(tmp_path / "c.pt").calibration
    assert calibration is not None
    assert calibration.images == (kept or 60)
