"""OrdinalCLIP's interpolated rank prompts: read as their formulas say, or refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint
from numclip.cli.convert import main
from numclip.model.model_config import PLAIN
from numclip_export import ExportOptions, run_export
from numclip_runtime import load
from tests.numclip.released_files import (
    AGE_PHRASES,
    State,
    convert_file,
    lightning,
    official_state,
    oracle,
    write,
)

RANKS = "prompt_learner.rank_embeds"
TASK = f"""
name = "level"
unit = ""
bin_edges = [0, 1, 2, 3, 4, 5]
phrases = {list(AGE_PHRASES)}
context = "age estimation: the person is a"
"""
Array = np.ndarray[Any, Any]


def shares(base_ranks: int, kind: str, bins: int = 5) -> Array:
    """Each base rank's share in each bin, (K, Kb), written down from the paper's three forms."""
    distance = np.abs(np.arange(bins)[:, None] - np.linspace(0, bins - 1, base_ranks))
    if base_ranks == 1:
        distance = np.abs(np.arange(bins)[:, None] - (bins - 1) / 2)
    forms = {
        "linear": 1 - distance / (bins - 1),
        "inverse": 1 / (distance + 1e-5),
        "normal": np.exp(-(distance**2)),
    }
    result: Array = forms[kind] / forms[kind].sum(1, keepdims=True)
    return result


def rank_state(
    base: State, base_ranks: int, *, tokens: int = 2, kind: str = "ordinalclip"
) -> State:
    """A trained model of interpolated prompts; base ranks far apart, so that shares count."""
    state = official_state(base, kind=kind)
    noise = torch.randn(base_ranks, tokens, 64, generator=torch.Generator().manual_seed(3))
    return state | {RANKS: noise}


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "task.toml"
    path.write_text(TASK, "utf-8")
    return str(path)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("base_ranks", "tokens", "flags", "kind"),
    [
        (3, 2, {"prompt": "rank"}, "linear"),  # the paper's
        (3, 2, {"rank_interpolation": "inverse"}, "inverse"),  # implies --prompt rank
        (3, 1, {"prompt": "rank", "rank_interpolation": "normal"}, "normal"),
        (1, 4, {"prompt": "rank"}, "linear"),
        (5, 2, {"prompt": "rank"}, "linear"),  # as many as bins, but said to be base ranks
    ],
)
def test_predicts_as_the_formulas(
    base: State,
    base_file: str,
    task: str,
    images: torch.Tensor,
    tmp_path: Path,
    base_ranks: int,
    tokens: int,
    flags: dict[str, Any],
    kind: str,
) -> None:
    state = rank_state(base, base_ranks, tokens=tokens)
    source, target = write(tmp_path / "a.ckpt", lightning(state)), tmp_path / "a.safetensors"
    convert_file(source, target, task=task, base=base_file, **flags)
    with torch.inference_mode():
        out = load_checkpoint(target).model(images)
    want_values, want_probs = oracle(
        state, base, images, offset=0.0, shares=shares(base_ranks, kind)
    )
    if base_ranks > 1:
        assert np.ptp(want_probs, axis=0).max() > 0.1, "the pictures must differ"
        others = {"linear", "inverse", "normal"} - {kind}
        for other in others:  # and so must the interpolations
            _, probs = oracle(state, base, images, shares=shares(base_ranks, other))
            assert np.abs(probs - want_probs).max() > 1e-3
    np.testing.assert_allclose(out.bin_probs.numpy(), want_probs, atol=2e-5)
    np.testing.assert_allclose(out.values.numpy(), want_values, rtol=2e-4, atol=1e-4)


def test_regressor_of_numclip_tells_that_ranks_are_base_ranks(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path
) -> None:
    state = rank_state(base, 3, kind="numclip")
    source = write(tmp_path / "a.ckpt", lightning(state))
    checkpoint = convert_file(source, tmp_path / "a.pt", task="age", base=base_file)
    with torch.inference_mode():
        out = checkpoint.model(images)
    want_values, want_probs = oracle(state, base, images, shares=shares(3, "linear"))
    np.testing.assert_allclose(out.bin_probs.numpy(), want_probs, atol=2e-5)
    np.testing.assert_allclose(out.values.numpy(), want_values, rtol=2e-4)


def test_as_many_ranks_as_bins_are_their_words(
    base: State, base_file: str, task: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base, kind="ordinalclip")))
    checkpoint = convert_file(source, tmp_path / "a.pt", task=task, base=base_file)
    assert checkpoint.model.config.prompts == PLAIN


def test_command_to_onnx(
    base: State, base_file: str, task: str, images: torch.Tensor, tmp_path: Path
) -> None:
    state = rank_state(base, 3)
    source, made = write(tmp_path / "a.ckpt", lightning(state)), tmp_path / "a.pt"
    words = (source, "--task", task, "--base", base_file, "-o", made, "--prompt", "rank")
    result = CliRunner().invoke(main, [*map(str, words), "--rank-interpolation", "normal"])
    assert (result.exit_code, result.output) == (
        0,
        f"{made}: 5 bins from -0.5 to 4.5, label offset 0, regressor expected, normal "
        "interpolation of 3 base ranks\n",
    )
    run_export(ExportOptions(made, tmp_path / "a.onnx"))
    want, _ = oracle(state, base, images, offset=0.0, shares=shares(3, "normal"))
    with load(tmp_path / "a.onnx") as predictor:
        values, _ = predictor.backend.run(images.numpy())
    np.testing.assert_allclose(values, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("base_ranks", "kind", "flags", "message"),
    [
        (
            3,
            "ordinalclip",
            "",
            "has 3 ranks, task 'level' has 5 bins; give the task that it was trained with, or "
            "--prompt rank if these are base ranks of interpolated prompts.",
        ),
        (3, "ordinalclip", "--prompt plain", "has 3 ranks, task 'level' has 5 bins"),
        (3, "numclip", "--prompt plain", "has 3 ranks, task 'level' has 5 bins"),
        (
            7,
            "ordinalclip",
            "--prompt rank",
            "has 7 base ranks, task 'level' has 5 bins; give the task that it was trained with.",
        ),
        (7, "numclip", "", "has 7 base ranks, task 'level' has 5 bins"),
        (
            5,
            "ordinalclip",
            "--prompt plain --rank-interpolation normal",
            "belongs to --prompt",
        ),
        (3, "ordinalclip", "--prompt rank --rank-interpolation cubic", "'cubic' is not one of"),
    ],
)
def test_flags_against_the_file(
    base: State,
    base_file: str,
    task: str,
    tmp_path: Path,
    base_ranks: int,
    kind: str,
    flags: str,
    message: str,
) -> None:
    source = write(tmp_path / "a.ckpt", lightning(rank_state(base, base_ranks, kind=kind)))
    words = (source, "--task", task, "--base", base_file, "-o", tmp_path / "a.pt")
    result = CliRunner().invoke(main, [*map(str, words), *flags.split()])
    assert result.exit_code == 2
    assert re.search(r"^Error: [^\n]+\n\Z", result.output, re.MULTILINE)
    assert message in result.output
    assert not (tmp_path / "a.pt").exists()
