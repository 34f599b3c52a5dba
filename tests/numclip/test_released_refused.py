"""Every file and argument that cannot be converted is refused, in one sentence that says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from numclip.cli.convert import main
from numclip_runtime import ModelError, NumclipError, UsageError
from tests.numclip.released_files import (
    AGE_PHRASES,
    State,
    convert_file,
    lightning,
    official_state,
    write,
)


def refused(source: Path, base: str, *, task: str = "age") -> NumclipError:
    target = source.with_name("out.pt")
    with pytest.raises((ModelError, UsageError)) as caught:
        convert_file(source, target, task=task, base=base)
    assert not target.exists()
    assert str(caught.value).count("\n") == 0
    assert isinstance(caught.value, NumclipError)
    return caught.value


def rename(state: State) -> None:
    state["logit_scales"] = state.pop("logit_scale")


def rename_block(state: State) -> None:
    key = "image_encoder.transformer.resblocks.1.ln_1.weight"
    state[key.replace(".1.", ".9.")] = state.pop(key)


def add(state: State) -> None:
    for i in range(5):
        state[f"regressor.stage3_{i}.weight"] = torch.zeros(1)


def near_dead(state: State) -> None:
    state["regressor.stage2_delta_k.1.weight"] = torch.zeros(1)


def reshape(state: State) -> None:
    state["image_adapter.fc.2.weight"] = torch.zeros(32, 9)


def integers(state: State) -> None:
    state["regressor.stage1_delta_k.0.bias"] = torch.zeros(5, dtype=torch.int8)


def drop_conv(state: State) -> None:
    del state["image_encoder.conv1.weight"]


def flat_conv(state: State) -> None:
    state["image_encoder.conv1.weight"] = torch.zeros(128, 3)


def narrow_ranks(state: State) -> None:
    state["prompt_learner.rank_embeds"] = torch.zeros(5, 2, 32)


def odd_grid(state: State) -> None:
    state["image_encoder.positional_embedding"] = torch.zeros(7, 128)


def odd_width(state: State) -> None:
    state["text_encoder.positional_embedding"] = torch.zeros(77, 65)


def baseline(state: State) -> None:
    for key in [k for k in state if not k.startswith("image_encoder.")]:
        del state[key]
    state["last_project.weight"] = torch.zeros(5, 32)


def vgg(state: State) -> None:
    state["image_encoder.features.0.weight"] = torch.zeros(1)


def torchvision_resnet(state: State) -> None:
    state["image_encoder.fc.weight"] = torch.zeros(1)


def too_many_ranks(state: State) -> None:
    state["prompt_learner.rank_embeds"] = torch.zeros(6, 2, 64)


def context_per_bin(state: State) -> None:
    state["prompt_learner.context_embeds"] = torch.zeros(5, 8, 64)


def long_context(state: State) -> None:
    state["prompt_learner.context_embeds"] = torch.zeros(10, 64)


def long_phrases(state: State) -> None:
    state["prompt_learner.rank_embeds"] = torch.zeros(5, 4, 64)


def other_words(state: State) -> None:
    state["prompt_learner.rank_embeds"] = state["prompt_learner.rank_embeds"].flip(0)


def other_base(state: State) -> None:
    key = "text_encoder.positional_embedding"
    state[key] = torch.randn(state[key].shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (rename, ModelError, r"missing 1 key (logit_scale); unexpected 1 key (logit_scales)."),
        (
            rename_block,
            ModelError,
            "missing 1 key (image_encoder.transformer.resblocks.1.ln_1.weight); "
            "unexpected 1 key (image_encoder.transformer.resblocks.9.ln_1.weight).",
        ),
        (
            add,
            ModelError,
            "unexpected 5 keys (regressor.stage3_0.weight, regressor.stage3_1.weight, "
            "regressor.stage3_2.weight, ...).",
        ),
        (near_dead, ModelError, "unexpected 1 key (regressor.stage2_delta_k.1.weight)."),
        (
            reshape,
            ModelError,
            "differently shaped 1 key (image_adapter.fc.2.weight [32, 9] for [32, 8]).",
        ),
        (integers, ModelError, "regressor.delta.bias torch.int8 for torch.float32"),
        (narrow_ranks, ModelError, "prompt_learner.rank_embeds [5, 2, 32] for [5, 2, 64]"),
        (
            drop_conv,
            ModelError,
            "lacks image_encoder.conv1.weight, which determines",
        ),
        (flat_conv, ModelError, "image_encoder.conv1.weight has shape [128, 3], expected 4"),
        (odd_grid, ModelError, "7 image positions are not 1 + a square number"),
        (odd_width, ModelError, "a transformer 65 wide has no whole number of 64-wide heads"),
        (baseline, ModelError, "the plain classifier (baseline), which has no text tower"),
        (vgg, ModelError, "its image tower is a VGG16"),
        (torchvision_resnet, ModelError, "its image tower is a plain ResNet"),
        (too_many_ranks, UsageError, "has 6 base ranks, task 'age' has 5 bins; give the task"),
        (context_per_bin, ModelError, "has one context per bin"),
        (long_context, UsageError, "its context has 10 tokens, 'age estimation: the person is a'"),
        (long_phrases, UsageError, "its longest phrase has 4 tokens, that of task 'age' 2"),
        (other_words, UsageError, "has 2 tokens where 'child' of task 'age' has 1"),
        (other_base, UsageError, "was not trained from these weights (cosine"),
    ],
)
def test_changed_state(
    base: State,
    base_file: str,
    tmp_path: Path,
    change: Callable[[State], None],
    error: type[Exception],
    message: str,
) -> None:
    state = official_state(base)
    change(state)
    caught = refused(write(tmp_path / "a.ckpt", lightning(state)), base_file)
    assert isinstance(caught, error)
    assert message in str(caught)
    assert "a.ckpt" in str(caught)


def test_other_number_of_bins(base: State, base_file: str, tmp_path: Path) -> None:
    task = tmp_path / "three.toml"
    task.write_text('name = "t"\nunit = ""\nbin_edges = [0, 1, 2, 3]\nphrases = ["a", "b", "c"]\n')
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    message = str(refused(source, base_file, task=str(task)))
    assert message.endswith("has 5 bins, task 't' has 3; give the task that it was trained with.")
    source = write(tmp_path / "b.ckpt", lightning(official_state(base, kind="ordinalclip")))
    message = str(refused(source, base_file, task=str(task)))
    assert message.endswith(
        "has 5 ranks, task 't' has 3 bins; give the task that it was trained with."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"visual.proj": torch.zeros(2)}, "plain CLIP model; give them to `numclip-train"),
        ({"weight": torch.zeros(2)}, "no key starts with prompt_learner."),
        ({"state_dict": {"module.x": 3, "module.y": torch.zeros(1)}}, "1 entry (module.x) among"),
        ({"state_dict": {}}, "holds no weights"),
        ({"epoch": 3}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({"x": torch.zeros(2).to_sparse()}, "1 entry (x) among its weights: not a plain tensor"),
        (
            {"x": torch.zeros(1).half().expand(1 << 50)},
            "1 entry (x) among its weights: not a plain",
        ),
    ],
)
def test_other_content(base_file: str, tmp_path: Path, content: object, message: str) -> None:
    assert message in str(refused(write(tmp_path / "a.ckpt", content), base_file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("token_embedding.weight"), "holds only an image tower (visual.*)"),
        (lambda s: s.pop("positional_embedding"), "lacks the token or position embeddings"),
        (
            lambda s: s.update({"token_embedding.weight": torch.zeros(49408, 32)}),
            "embeds [49408, 32] tokens at [77, 64] positions",
        ),
    ],
)
def test_other_base_weights(
    base: State, tmp_path: Path, change: Callable[[State], None], message: str
) -> None:
    changed = dict(base)
    change(changed)
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    other = write(tmp_path / "base.pt", changed)
    assert message in str(refused(source, str(other)))
    message = str(refused(source, "nonsense"))
    assert "--base 'nonsense' is neither a file nor a tag" in message
    assert "neither a file nor a tag" in str(refused(source, "openai")), "no CLIP is that small"


def test_base_that_is_a_trained_model(base: State, tmp_path: Path) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    assert "`numclip-convert` reads it" in str(refused(source, str(source)))


def test_command(base: State, base_file: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    made, again = tmp_path / "a.pt", tmp_path / "a.safetensors"

    def run(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, [str(word) for word in words])
        return result.exit_code, result.output

    code, output = run(source, "--task", "age", "--base", base_file, "-o", made)
    assert (code, output) == (
        0,
        f"{made}: 5 bins from 1 to 102 years, label offset 1, regressor released\n",
    )
    assert run(made, "-o", again)[0] == 0
    assert again.is_file()

    for words, message in (
        ((source, "-o", again), "give --task (its bins and phrases) and --base"),
        ((source, "--task", "age", "-o", again), "give --task"),
        (
            (made, "--task", "age", "-o", again),
            "leave out --task, --base, --label-offset, --prompt and --r",
        ),
        ((made, "-o", tmp_path / "a.onnx"), "the name must end in .pt or .safetensors"),
        ((tmp_path / "absent.ckpt", "-o", made), "no such file"),
        ((source, "--task", "x", "--base", base_file, "-o", made), "unknown task 'x'"),
        ((made, "-o", source / "a.pt"), "cannot write there"),
        ((tmp_path, "-o", made), "is a folder; give the checkpoint inside it"),
        ((tmp_path / "a.onnx", "-o", made), "a.onnx: is an exported model, not a checkpoint"),
    ):
        code, output = run(*words)
        assert code == 2
        assert re.fullmatch(r"Error: [^\n]+\n", output)
        assert message in output


def test_phrases_of_the_test_are_the_preset() -> None:
    from numclip.tasks import load_task

    assert load_task("age").phrases == AGE_PHRASES
