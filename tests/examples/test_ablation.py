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
from examples.ablation.differences import (
    T_QUANTILES,
    column,
    questions,
    settings,
    sign_test,
    summarise,
)
from examples.ablation.methods import METHODS, parameter_groups, set_ridge, whole_numbers
from examples.ablation.report import table
from examples.ablation.run import (
    FULL,
    TUNING_SEED,
    Run,
    Size,
    World,
    at_edge,
    chosen_pictures,
    execute,
    grid,
    levels,
    pool,
    predict,
    train,
)
from examples.ablation.scenes import COUNT, SEVERITY, TASKS, draw_pictures
from examples.ablation.tiny_clip import (
    CLIP,
    LEVEL,
    SCALES,
    all_cosines,
    contrastive_loss,
    pixels,
    pretrain,
)
from numclip.model.backbone import build_clip
from numclip_runtime import Task

SMALL = Size(full=60, val=40, test=40, steps=2, seeds=2)
FEW = grid(1)
RUN = Run("numclip-released-1", "count", 1, 0, FEW[0])


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


@pytest.fixture(scope="module")
def world(clip: torch.nn.Module) -> World:
    return World(SMALL, clip.state_dict())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("shots", [1, 2])
def test_few_shot_sets_hold_each_number_equally_often(task: Task, shots: int) -> None:
    size = replace(SMALL, full=800)
    chosen = chosen_pictures(replace(RUN, task=task.name, shots=shots), task, size)
    labels = [pool(3 * 800, 1)[0][index].label(task) for index in chosen]
    numbers, counts = np.unique(labels, return_counts=True)
    assert len(numbers) == task.label_range
    assert set(counts.tolist()) == {shots}


def test_seeds_draw_different_training_sets_and_the_same_one_twice() -> None:
    sets = [chosen_pictures(replace(RUN, seed=s, shots=FULL), COUNT, SMALL) for s in (0, 0, 1)]
    assert sets[0] == sets[1]
    assert sets[0] != sets[2]
    assert len(set(sets[0])) == SMALL.full


def test_whole_numbers_have_a_bin_each() -> None:
    task = whole_numbers(SEVERITY)
    assert task.num_bins == 51
    assert task.bin_values == tuple(range(51))
    assert [task.bin_of(n) for n in (0, 1, 50)] == [0, 1, 50]


@pytest.mark.parametrize(
    "method", [key for key in METHODS if METHODS[key].trained and not key.endswith(("0.01", "0.1"))]
)
def test_each_method_learns_to_tell_two_pictures_apart(method: str, world: World) -> None:
    """40 things against 1: overfitting two pictures must be possible for every method."""
    torch.manual_seed(0)
    pictures = draw_pictures(400, 0)
    few = next(p for p in pictures if p.count == 1)
    many = next(p for p in pictures if p.count == 40)
    images, labels = pixels([few, many]), torch.tensor([1.0, 40.0])
    model = METHODS[method].build(world.clip(), COUNT)
    before = model(images).values.detach()
    run = replace(RUN, method=method, rates=(1e-3, 1e-2))
    train(model, lambda chosen: images[chosen], labels, run, 40)
    with torch.no_grad():
        after = model.eval()(images).values
    assert (after - labels).abs().sum() < 0.7 * (before - labels).abs().sum()
    assert after[0] + 5 < after[1]


def test_vectors_started_from_the_words_predict_as_the_words_do(world: World) -> None:
    images = pixels(draw_pictures(8, 0))
    outputs = []
    for key in ("numclip-plain-1", "numclip-plain-1-vectors", "numclip-plain-1-random-vectors"):
        model = METHODS[key].build(world.clip(), COUNT)
        model.image_adapter.ratio = 0.0  # each method's is random
        outputs.append(predict(model.eval(), images)[1])
    words, vectors, random = outputs
    np.testing.assert_allclose(words, vectors, rtol=1e-5)
    assert np.abs(words - random).max() > 1


def test_random_words_replace_the_phrases_and_keep_the_context(world: World) -> None:
    words, random = (
        METHODS[f"numclip-plain-1{start}"].build(world.clip(), COUNT).prompt_learner
        for start in ("", "-random-words")
    )
    assert torch.equal(words.context_embeds, random.context_embeds)
    assert random.num_tokens == [2] * 5
    assert float(random.rank_embeds.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_without_an_l1_loss_the_number_is_the_bins_expectation(world: World) -> None:
    model = METHODS["numclip-released-0"].build(world.clip(), COUNT).eval()
    values, logits = predict(model, pixels(draw_pictures(8, 0)))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # the middles of 1 to 3, 4 to 8, 9 to 16, 17 to 26, and 27 to 41, which closes the last bin
    np.testing.assert_allclose(values, shares @ [2, 6, 12.5, 21.5, 34], rtol=1e-5)


def test_frozen_tower_is_not_trained_and_what_is_new_is(world: World) -> None:
    model = METHODS["numclip-released-1"].build(world.clip(), COUNT)
    trained = {
        name
        for group in parameter_groups(model, 0.0, 1e-3)
        for chosen in group["params"]  # type: ignore[attr-defined]
        for name, parameter in model.named_parameters()
        if parameter is chosen
    }
    assert {name.split(".")[0] for name in trained} == {
        "image_adapter",
        "prompt_learner",
        "regressor",
    }


def test_features_are_the_towers_in_all_four_flips(world: World) -> None:
    tower = world.clip().get_submodule("visual").eval()
    images = pool(SMALL.val, 2)[1]
    with torch.no_grad():
        flips = [tower(images.flip(axes)) for axes in ((), (2,), (3,), (2, 3))]
    found = world.features(SMALL.val, 2)
    torch.testing.assert_close(found, torch.stack(flips), rtol=1e-4, atol=1e-5)


def test_frozen_runs_measure_on_features_what_the_whole_model_measures(world: World) -> None:
    """At a rate of 1e-12 the tower stays where it is, but is run on pixels."""
    frozen, whole = (
        execute(replace(RUN, rates=(image, 2e-3)), replace_steps(world, 0))
        for image in (0.0, 1e-12)
    )
    assert frozen["mae"] == pytest.approx(whole["mae"], abs=1e-3)
    assert frozen["spearman"] == pytest.approx(whole["spearman"], abs=0.01)


def replace_steps(world: World, steps: int) -> World:
    return World(replace(world.size, steps=steps), world.weights)


def test_ridge_finds_a_line_in_the_features(world: World) -> None:
    features = world.features(3 * SMALL.full, 1)
    line = torch.randn(64, generator=torch.Generator().manual_seed(0))
    labels = 20 + 30 * features[0] @ line / (features[0] @ line).std() / 10
    model = METHODS["ridge"].build(world.clip(), COUNT)
    set_ridge(model, features[:1], labels)
    model.image_encoder = torch.nn.Identity()
    assert np.abs(predict(model.eval(), features[0])[0] - labels.numpy()).mean() < 0.3


def test_edge_of_the_grid_is_where_a_better_rate_may_lie_outside() -> None:
    few, full = ([at_edge(rates, shots) for rates in grid(shots)] for shots in (4, FULL))
    assert few == [True, False, True, False, True]
    assert full == [True, False, True, False, False, True]


def test_rates_are_chosen_by_the_mean_over_all_tuning_seeds() -> None:
    """A rate that is best with one seed and bad with the others is not chosen."""
    results = {}
    for seed, errors in enumerate([(1, 9, 5, 9, 9), (9, 9, 5, 9, 9), (9, 9, 5, 9, 2)]):
        for rates, error in zip(FEW, errors, strict=True):
            key = replace(RUN, seed=TUNING_SEED + seed, rates=rates).key
            results[key] = {"val_mae": error}
    assert ablation.best_rates(RUN, Size(), results) == FEW[2]
    assert ablation.best_rates(RUN, Size(tuning_seeds=1), results) == FEW[0]


def test_each_run_has_a_key_of_its_own() -> None:
    runs = list(ablation.tuning_runs(Size()))
    assert len({run.key for run in runs}) == len(runs)
    assert {run.seed for run in runs} == {100, 101, 102}


def test_interval_and_sign_test_are_the_textbooks() -> None:
    found = summarise(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found.mean == 3
    assert found.half == pytest.approx(1.9632, abs=1e-3)  # 2.7764 * 1.5811 / sqrt(5)
    assert T_QUANTILES[0] == pytest.approx(np.tan(np.pi * 0.475), abs=1e-3)  # Cauchy
    assert sign_test(np.array([-1.0, -1, -1, -1, -1, -1])) == (6, 6, 2 / 64)
    assert sign_test(np.array([-1.0, 1, 0, 0])) == (1, 2, 1)
    below, count, p = sign_test(np.array([-1.0] * 15 + [1.0] * 5))
    assert (below, count) == (15, 20)
    assert p == pytest.approx(0.0414, abs=1e-4)


def test_questions_change_one_thing_at_a_time() -> None:
    asked = questions()
    assert len({question[0] for question in asked}) == len(asked) == 12 + 6 + 7
    for _, first, second in asked[:12]:
        assert first.split("-")[2] == second.split("-")[2]  # the weight of L1
    for _, first, second in asked[12:18]:
        assert first.split("-")[:3] == second.split("-")[:3]  # losses and their weights


def test_equal_captions_share_the_target() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    target = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    both = [
        -(target * (side - np.log(np.exp(side).sum(1, keepdims=True)))).sum() / 3
        for side in (logits.numpy(), logits.numpy().T)
    ]
    loss = contrastive_loss(logits, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(sum(both) / 2, abs=1e-6)


def test_cosines_are_those_of_features_of_unit_length(clip: torch.nn.Module) -> None:
    images, tokens = pixels(draw_pictures(3, 0)), torch.zeros(3, 24, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = 49406, torch.tensor([320, 330, 550]), 49407
    with torch.no_grad():
        found = all_cosines(clip, images, tokens)
        features = (clip.encode_image(images), clip.encode_text(tokens))  # type: ignore[operator]
    image, text = (f.double().numpy() for f in features)
    expected = (
        image @ text.T / np.linalg.norm(image, axis=1)[:, None] / np.linalg.norm(text, axis=1)
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_pretraining_lowers_the_loss_and_puts_the_logits_where_openais_are() -> None:
    torch.manual_seed(0)
    clip, losses = pretrain(256, 8)
    assert losses[-1] < losses[0]
    assert float(clip.logit_scale.exp()) == pytest.approx(SCALES[1])  # type: ignore[operator]
    found = levels(World(SMALL, clip.state_dict()))
    for task in TASKS:
        assert found[task]["mean"] == pytest.approx(SCALES[1] * LEVEL, abs=5)


@pytest.fixture
def three_methods() -> Iterator[None]:
    """Leave three methods; afterwards all are back, in their order."""
    everything = dict(METHODS)
    for key in set(METHODS) - {"zero-shot", "ridge", "numclip-released-1"}:
        del METHODS[key]
    yield
    METHODS.clear()
    METHODS.update(everything)


@pytest.mark.usefixtures("three_methods")
def test_command_measures_goes_on_where_it_stopped_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "QUICK", replace(ablation.QUICK, shots=(1,)))
    path, plot = tmp_path / "ablation.json", tmp_path / "ablation.svg"
    command = ["--quick", "--jobs", "1", "--json", str(path), "--plot", str(plot)]

    first = CliRunner().invoke(ablation.main, command)
    assert first.exit_code == 0, first.output
    report = json.loads(path.read_text())
    tuned = [key for key in report["results"] if f"/{TUNING_SEED}/" in key]
    assert len(tuned) == 2 * len(FEW)  # 2 tasks
    assert len(report["results"]) == len(tuned) + 2 * (1 + 2 + 2)  # zero-shot once, 2 seeds
    assert "| NumCLIP, released FCRC + 1 L1 | " in first.output
    assert "| NumCLIP / ridge | " in first.output
    assert "Frozen " in first.output
    assert "NumCLIP / zero-shot" in plot.read_text()
    assert column(report, "count", 1, "zero-shot", "mae").std() == 0
    assert settings(report) == [("count", 1), ("severity", 1)]
    assert not path.with_suffix(".clip.pt").exists()

    lost = "severity/1/numclip-released-1/0"
    before = report["results"].pop(lost)
    del report["environment"]  # what an interrupted run leaves
    path.write_text(json.dumps(report))
    second = CliRunner().invoke(ablation.main, command)
    assert second.exit_code == 0, second.output
    assert second.output.count("/1  severity/1/numclip-released-1/0 ") == 1
    assert "2/" not in second.output.split("**count**")[0]
    after = json.loads(path.read_text())["results"][lost]
    assert after["mae"] == pytest.approx(before["mae"], rel=0.02)  # the CLIP was trained anew


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
    final = [r for key, r in report["results"].items() if int(key.split("/")[3]) < TUNING_SEED]
    assert all(0.85 <= run["coverage"] <= 0.95 for run in final)
    trained = sum(method.trained for method in METHODS.values())
    assert len(final) == 2 + 2 * 2 * 5 * (trained + 1)  # zero-shot; trained ones and ridge
