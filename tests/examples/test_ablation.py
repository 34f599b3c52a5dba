"""The ablation, on sizes that say nothing but run every line."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from examples.ablation import compare as ablation
from examples.ablation.methods import METHODS, Head, whole_numbers
from examples.ablation.report import table
from examples.ablation.run import FULL, RATES, TUNING_SEED, Run, Size, train, training_set
from examples.ablation.scenes import COUNT, SEVERITY, TASKS, draw_pictures
from examples.ablation.tiny_clip import CLIP, contrastive_loss, pixels, pretrain
from numclip.model.backbone import build_clip
from numclip_runtime import Task

SMALL = Size(full=60, val=40, test=40, steps=2, seeds=2)
RUN = Run("linear", "count", 1, 0, RATES[0])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on tensors this small, more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_clip(CLIP)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("shots", [1, 2])
def test_few_shot_sets_hold_each_number_equally_often(task: Task, shots: int) -> None:
    size = replace(SMALL, full=800)
    _, labels = training_set(Run("linear", task.name, shots, 0, RATES[0]), task, size)
    numbers, counts = np.unique(labels.numpy(), return_counts=True)
    assert len(numbers) == task.label_range
    assert set(counts.tolist()) == {shots}


def test_seeds_draw_different_training_sets_and_the_same_one_twice() -> None:
    sets = [training_set(replace(RUN, seed=s, shots=FULL), COUNT, SMALL)[1] for s in (0, 0, 1)]
    assert torch.equal(sets[0], sets[1])
    assert not torch.equal(sets[0], sets[2])


def test_whole_numbers_have_a_bin_each() -> None:
    task = whole_numbers(SEVERITY)
    assert task.num_bins == 51
    assert task.bin_values == tuple(range(51))
    assert [task.bin_of(n) for n in (0, 1, 50)] == [0, 1, 50]


@pytest.mark.parametrize("method", [key for key in METHODS if METHODS[key].trained])
def test_each_method_learns_to_tell_two_pictures_apart(method: str, clip: torch.nn.Module) -> None:
    """40 things against 1: overfitting two pictures must be possible for every method."""
    torch.manual_seed(0)
    pictures = draw_pictures(400, 0)
    few = next(p for p in pictures if p.count == 1)
    many = next(p for p in pictures if p.count == 40)
    images, labels = pixels([few, many]), torch.tensor([1.0, 40.0])
    fresh = build_clip(CLIP)
    fresh.load_state_dict(clip.state_dict())
    model = METHODS[method].build(fresh, COUNT)
    before = model(images).values.detach()
    train(model, images, labels, replace(RUN, method=method, rates=(1e-3, 1e-2)), 40)
    with torch.no_grad():
        after = model.eval()(images).values
    assert (after - labels).abs().sum() < 0.7 * (before - labels).abs().sum()
    assert after[0] + 5 < after[1]


def test_regression_head_starts_near_the_middle(clip: torch.nn.Module) -> None:
    head = Head(clip, whole_numbers(COUNT), regression=True)
    values = head(pixels(draw_pictures(8, 0))).values
    assert (values - 21).abs().max() < 30
    assert values.shape == (8,)


def test_equal_captions_share_the_target(clip: torch.nn.Module) -> None:
    images, tokens = pixels(draw_pictures(3, 0)), torch.zeros(3, 24, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = 49406, torch.tensor([320, 320, 550]), 49407
    with torch.no_grad():
        loss = contrastive_loss(clip, images, tokens, torch.tensor([0, 0, 1]))
        features = (clip.encode_image(images), clip.encode_text(tokens))  # type: ignore[operator]
        image, text = (f.double().numpy() for f in features)
        scale = float(clip.logit_scale.exp())  # type: ignore[operator]
    logits = scale * image @ text.T
    logits /= np.linalg.norm(image, axis=1)[:, None] * np.linalg.norm(text, axis=1)
    target = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    both = [
        -(target * (side - np.log(np.exp(side).sum(1, keepdims=True)))).sum() / 3
        for side in (logits, logits.T)
    ]
    assert loss.item() == pytest.approx(sum(both) / 2, abs=1e-5)


def test_pretraining_lowers_the_loss() -> None:
    _, losses = pretrain(512, 3)
    assert losses[-1] < losses[0]


@pytest.fixture
def three_methods() -> Iterator[None]:
    """Leave three methods; afterwards all are back, in their order."""
    everything = dict(METHODS)
    for key in set(METHODS) - {"zero-shot", "linear", "numclip"}:
        del METHODS[key]
    yield
    METHODS.clear()
    METHODS.update(everything)


@pytest.mark.usefixtures("three_methods")
def test_command_measures_goes_on_where_it_stopped_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "QUICK", replace(ablation.QUICK, shots=(1,), seeds=1))
    path, plot = tmp_path / "ablation.json", tmp_path / "ablation.svg"
    command = ["--quick", "--jobs", "1", "--json", str(path), "--plot", str(plot)]

    first = CliRunner().invoke(ablation.main, command)
    assert first.exit_code == 0, first.output
    report = json.loads(path.read_text())
    tuned = [key for key in report["results"] if f"/{TUNING_SEED}/" in key]
    assert len(tuned) == 2 * 2 * len(RATES)
    assert len(report["results"]) == len(tuned) + 2 * 3
    assert "| NumCLIP | " in first.output
    assert "NumCLIP" in plot.read_text()
    assert not path.with_suffix(".clip.pt").exists()

    lost = "severity/1/numclip/0"
    before = report["results"].pop(lost)
    del report["environment"]  # what an interrupted run leaves
    path.write_text(json.dumps(report))
    second = CliRunner().invoke(ablation.main, command)
    assert second.exit_code == 0, second.output
    assert second.output.count(" MAE ") == 1
    after = json.loads(path.read_text())["results"][lost]
    assert after["mae"] == pytest.approx(before["mae"], abs=1e-3)  # the CLIP was trained anew


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "missing/ablation.json"], "no such folder"),
        (["--json", "broken.json"], "is not a JSON file"),
        (["--json", "new.json", "--plot", "a.pdf"], "use .png or .svg"),
    ],
)
def test_wrong_use_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    run = CliRunner().invoke(ablation.main, ["--quick", *arguments])
    assert run.exit_code == 2
    assert message in run.output
    assert "training" not in run.output


def test_the_published_table_is_that_of_the_published_runs() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    report = json.loads((folder / "ablation.json").read_text("utf-8"))
    assert report["size"] == json.loads(json.dumps(asdict(Size())))
    assert table(report) in (folder / "ablation.md").read_text("utf-8")
    final = [r for key, r in report["results"].items() if f"/{TUNING_SEED}/" not in key]
    assert all(0.85 <= run["coverage"] <= 0.95 for run in final)
    assert len(final) == 242
