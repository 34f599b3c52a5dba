"""Parts of a distillation: views, the loss, intervals without labels, and what may be lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from numclip.distillation.bound import Answers, bounded_calibration, teachers_level
from numclip.distillation.distill_options import TradeError
from numclip.distillation.teaching import Weights, teaching_losses
from numclip.distillation.trade import limit_of, measured_loss, require_accepted
from numclip.distillation.views import PairedView
from numclip.evaluation.calibration import fit_calibration, fit_temperature
from numclip.evaluation.predictions import RawOutputs
from numclip.model.numclip import NumClip
from numclip_runtime import Preprocessing
from tests.numclip.tiny import TASK, images_of, tiny_model

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def slopes() -> Image.Image:
    """Return a picture whose red tells the column, and green the row."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    return Image.fromarray(np.stack([x, y, x], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["squash", "shortest", "fragments"])
def test_both_networks_see_the_same_part(mode: str) -> None:
    pieces = {"fragments": 2} if mode == "fragments" else {}
    fragments = mode == "fragments"
    small, large = (
        Preprocessing(side, side if fragments else side * 3 // 2, mode, **PLAIN, **pieces)  # type: ignore[arg-type]
        for side in (32, 64)
    )
    view, offsets = PairedView(small, large, flip=True), []
    for _ in range(8):
        seen = view(slopes())
        assert not isinstance(seen, Tensor)
        means = torch.stack([one.mean((1, 2)) for one in seen]) * 256
        if not fragments:  # whose sides are 16 and 32 pixels of the photo
            torch.testing.assert_close(means[0], means[1], atol=4, rtol=0)
        offsets.append(means[1])
        mirrored = [bool(one[0, :, 0].mean() > one[0, :, 15].mean()) for one in seen]
        assert mirrored[0] == mirrored[1]
    assert torch.stack(offsets).std(0).min() > 1  # other parts each time


def test_networks_of_the_same_input_share_a_view() -> None:
    spec = Preprocessing(32, 36)
    seen = PairedView(spec, spec, flip=False)(slopes())
    assert isinstance(seen, Tensor)
    assert seen.shape == (3, 32, 32)


def losses(student: NumClip, teacher: NumClip, temperature: float = 1.0) -> dict[str, Tensor]:
    images = images_of("vit", 6)
    weights = Weights(temperature, 10.0, 0.0)
    return teaching_losses(student(images), teacher(images), student, teacher, weights)


@pytest.mark.parametrize("head", ["numclip", "distribution", "probe"])
def test_a_copy_has_lost_nothing(head: str) -> None:
    model = tiny_model(head=head, vectors="prototypes")
    found = losses(model, model)
    assert all(abs(loss.item()) < 1e-6 for loss in found.values())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_by_hand(temperature: float) -> None:
    student, teacher = tiny_model(seed=1), tiny_model(seed=2)
    found = losses(student, teacher, temperature)
    images = images_of("vit", 6)
    p, q = (
        torch.distributions.Categorical(logits=model(images).logits / temperature)
        for model in (teacher, student)
    )
    kl = torch.distributions.kl_divergence(p, q).mean() * temperature**2
    l1 = (student(images).fine - teacher(images).fine).abs().mean()
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert found["l1"].item() == pytest.approx(l1.item(), rel=1e-4)
    assert found["loss"].item() == pytest.approx((kl + 10 * l1 / 30).item(), rel=1e-4)


def test_distributions_over_one_grid_are_compared_point_by_point() -> None:
    student, teacher = (tiny_model(head="distribution", seed=seed) for seed in (1, 2))
    images = images_of("vit", 6)
    p, q = (torch.distributions.Categorical(logits=m(images).scores) for m in (teacher, student))
    expected = torch.distributions.kl_divergence(p, q).mean()
    assert losses(student, teacher)["kl"].item() == pytest.approx(expected.item(), rel=1e-4)
    other = tiny_model(head="distribution", grid_points=7, seed=2)
    assert torch.isfinite(losses(other, teacher)["loss"])  # by bins


def draw(count: int, rng: np.random.Generator) -> tuple[Answers, np.ndarray]:
    """Draw images: labels, a teacher that errs more where it is unsure, and a worse student."""
    labels = rng.uniform(5, 25, count)
    unsure = rng.uniform(0.5, 3, count)
    told = labels + unsure * rng.normal(size=count)
    said = told + 0.5 * unsure * rng.normal(size=count)
    outputs = []
    for values in (said, told):
        distance = np.abs(values[:, None] - np.array([5, 15, 25]))
        outputs.append(RawOutputs(values, -distance / (2 * unsure[:, None]), np.zeros((count, 6))))
    return Answers(*outputs), labels


def test_the_bound_holds_what_it_states() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        fitted, labels = draw(200, rng)
        teacher = fit_calibration(fitted.teacher.values, fitted.teacher.logits, labels, TASK)
        kept, tuning = draw(200, rng)[0], draw(100, rng)[0]
        calibration = bounded_calibration(kept, tuning, teacher, TASK)
        assert calibration.coverages == (0.5, 0.8, 0.9)
        new, labels = draw(1000, rng)
        logits = torch.tensor(new.student.logits / calibration.temperature)
        probs = logits.softmax(-1).numpy()
        row = []
        for coverage in calibration.coverages:
            ends = calibration.intervals(new.student.values, probs, TASK, coverage)
            assert ends is not None
            row.append(((ends[:, 0] <= labels) & (labels <= ends[:, 1])).mean())
        shares.append(row)
    assert (np.mean(shares, 0) > [0.5, 0.8, 0.9]).all()


def test_the_teachers_part_of_the_bound() -> None:
    answers, labels = draw(200, np.random.default_rng(1))
    outputs = answers.teacher
    teacher = fit_calibration(outputs.values, outputs.logits, labels, TASK)
    assert [teachers_level(teacher, c) for c in (0.5, 0.8, 0.9, 0.95)] == [0.8, 0.9, 0.95, None]
    groups = [f"g{i % 9}" for i in range(200)]  # nine promise 90 % of a new one, and no more
    grouped = fit_calibration(outputs.values, outputs.logits, labels, TASK, groups=groups)
    assert teachers_level(grouped, 0.9) is None
    assert teachers_level(grouped, 0.8) == 0.9
    # too few images for the rest
    few = Answers(*(RawOutputs(*(column[:15] for column in one)) for one in answers))
    assert bounded_calibration(few, few, teacher, TASK).coverages == (0.5, 0.8)
    assert bounded_calibration(few, few, grouped, TASK).groups == 9


def test_a_temperature_can_be_fitted_to_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(500, 4))
    probs = torch.tensor(logits / 2.5).softmax(-1).numpy()
    assert fit_temperature(logits, probs) == pytest.approx(2.5, rel=0.05)
    bins = logits.argmax(1)
    assert fit_temperature(logits, np.eye(4)[bins]) == pytest.approx(fit_temperature(logits, bins))


def test_what_may_be_lost() -> None:
    assert limit_of(0.3, 8.0, {"mae": 1.0}, TASK) == (0.3, "--max-loss")
    assert limit_of(None, 8.0, {"mae": 1.0}, TASK)[0] == 2
    assert limit_of(None, None, {"mae": 1.0}, TASK)[0] == 0.5
    assert limit_of(None, None, {}, TASK)[0] == pytest.approx(0.75)
    answers, _ = draw(20, np.random.default_rng(0))
    answers = answers._replace(student=answers.student._replace(values=np.full(20, math.nan)))
    loss = measured_loss(
        answers, [], labelled=False, measured_on="test", task=TASK, metrics={}, max_loss=1.0
    )
    with pytest.raises(TradeError, match=r"nan points, 1\.000 are allowed"):
        require_accepted(loss, TASK, "")
