from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.importers.released import DEAD, own_names
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.tasks import load_task
from numclip_export import ExportOptions, run_export
from numclip_export.fold import FoldedModel
from numclip_runtime import load
from tests.numclip.released_files import (
    AGE_PHRASES,
    TINY,
    TINY_RESNET,
    VIT_B_16,
    State,
    base_state,
    convert_file,
    dead_table,
    lightning,
    official_state,
    official_table,
    oracle,
    ordinalclip_table,
    write,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def predictions(
    checkpoint: Checkpoint, images: torch.Tensor
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], ...]:
    with torch.inference_mode():
        out = checkpoint.model(images)
    return out.values.numpy(), out.bin_probs.numpy()


def test_table_of_vit_b_16() -> None:
    table = official_table(VIT_B_16)
    assert len(table) == 333
    assert sum(torch.Size(shape).numel() for shape in table.values()) == 124_734_779
    assert len(ordinalclip_table(VIT_B_16)) == 303
    assert len(dead_table(VIT_B_16)) == 24
    assert {k for k in table if DEAD.fullmatch(k)} == set(dead_table(VIT_B_16))


@pytest.mark.parametrize("key", sorted(dead_table(TINY)))
def test_only_dead_keys_are_ignored(key: str) -> None:
    near = [key + "s", "x" + key, f"module.{key}", key.replace("regressor.", "regressors.")]
    near += [key.replace("stage2", "stage3"), key.replace("stage1", "stage3")]
    near += [key.replace("stream1", "stream3"), key.replace("stream2", "stream3")]
    assert not [k for k in near if k != key and DEAD.fullmatch(k)]


def test_vit_b_16_has_the_names_and_shapes_of_our_model() -> None:
    with torch.device("meta"):
        full = {f"module.{k}": torch.empty(s) for k, s in official_table(VIT_B_16).items()}
        model = NumClip(ModelConfig(VIT_B_16.clip), load_task("age"))
    kind, state = own_names(full, Path("x.ckpt"))
    assert kind == "numclip"
    ours = {k: v.shape for k, v in model.state_dict().items()}
    assert ours.pop("prompt_learner.template") == (4, 512)
    assert {k: v.shape for k, v in state.items()} == ours


@pytest.mark.parametrize("prefix", ["module.", "model.", "", "model.module."])
def test_numclip_file_predicts_as_its_formulas(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path, prefix: str
) -> None:
    state = official_state(base)
    source = write(tmp_path / "a.ckpt", lightning(state, prefix))
    checkpoint = convert_file(source, tmp_path / "a.pt", task="age", base=base_file)
    values, bin_probs = predictions(checkpoint, images)
    want_values, want_probs = oracle(state, base, images)
    assert np.ptp(want_probs, axis=0).max() > 0.1, "the pictures must differ"
    assert np.ptp(want_values) > 1
    np.testing.assert_allclose(values, want_values, rtol=2e-4)
    np.testing.assert_allclose(bin_probs, want_probs, atol=2e-5)
    assert checkpoint.task.label_offset == 1
    assert checkpoint.model.config.clip["quick_gelu"] is True
    assert (checkpoint.preprocessing.crop, checkpoint.preprocessing.resize) == (16, 18)


def test_resnet(tmp_path: Path) -> None:
    base = base_state(TINY_RESNET)
    state = official_state(base, TINY_RESNET)
    torch.save(base, tmp_path / "base.pt")
    source = write(tmp_path / "a.ckpt", lightning(state))
    checkpoint = convert_file(source, tmp_path / "a.pt", task="age", base=str(tmp_path / "base.pt"))
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    values, bin_probs = predictions(load_checkpoint(tmp_path / "a.pt"), images)
    want_values, want_probs = oracle(state, base, images, TINY_RESNET)
    np.testing.assert_allclose(values, want_values, rtol=2e-4)
    np.testing.assert_allclose(bin_probs, want_probs, atol=2e-5)
    assert checkpoint.preprocessing.crop == 64


def test_activation_is_explicit(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    quick, plain = (
        convert_file(source, tmp_path / "a.pt", task="age", base=base_file, quick_gelu=choice)
        for choice in (True, False)
    )
    assert plain.model.config.clip["quick_gelu"] is False
    assert not np.array_equal(predictions(quick, images)[1], predictions(plain, images)[1])


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
def test_converted_checkpoint_is_ours(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path, name: str
) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    made = convert_file(source, tmp_path / name, task="age", base=base_file)
    loaded = load_checkpoint(tmp_path / name)
    assert loaded.task == made.task
    assert loaded.model.config == made.model.config
    assert loaded.preprocessing == made.preprocessing
    for got, want in zip(predictions(loaded, images), predictions(made, images), strict=True):
        np.testing.assert_array_equal(got, want)
    with torch.inference_mode():
        values, bin_probs = FoldedModel(loaded.model)(images)
    np.testing.assert_allclose(values.numpy(), predictions(made, images)[0], rtol=1e-4)
    np.testing.assert_allclose(bin_probs.numpy(), predictions(made, images)[1], atol=1e-5)


def test_numclip_file_to_onnx(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path
) -> None:
    state = official_state(base)
    source = write(tmp_path / "a.ckpt", lightning(state))
    convert_file(source, tmp_path / "a.safetensors", task="age", base=base_file)
    run_export(ExportOptions(tmp_path / "a.safetensors", tmp_path / "a.onnx"))
    with load(tmp_path / "a.onnx") as predictor:
        assert predictor.metadata.task.label_offset == 1
        values, _ = predictor.backend.run(images.numpy())
    np.testing.assert_allclose(values, oracle(state, base, images)[0], rtol=1e-4)


def test_half_precision_becomes_float32(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path
) -> None:
    half = {k: v.half() for k, v in official_state(base).items()}
    source = write(tmp_path / "a.ckpt", lightning(half))
    checkpoint = convert_file(source, tmp_path / "a.pt", task="age", base=base_file)
    assert {v.dtype for v in checkpoint.model.state_dict().values()} == {torch.float32}
    want, _ = oracle({k: v.float() for k, v in half.items()}, base, images)
    np.testing.assert_allclose(predictions(checkpoint, images)[0], want, rtol=2e-4)


def test_dead_weights_do_not_matter(
    base: State, base_file: str, images: torch.Tensor, tmp_path: Path
) -> None:
    state = official_state(base)
    without = {k: v for k, v in state.items() if k not in dead_table(TINY)}
    assert len(without) == len(state) - 24
    odd = state | {k: torch.full((7,), torch.nan) for k in dead_table(TINY)}
    results = [
        predictions(
            convert_file(
                write(tmp_path / "a.ckpt", lightning(each)),
                tmp_path / "a.pt",
                task="age",
                base=base_file,
            ),
            images,
        )[0]
        for each in (state, without, odd)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(("given", "offset"), [(None, 1.0), (0.0, 0.0), (-3.5, -3.5)])
@pytest.mark.parametrize("kind", ["numclip", "ordinalclip"])
def test_label_offset(
    base: State,
    base_file: str,
    images: torch.Tensor,
    tmp_path: Path,
    kind: str,
    given: float | None,
    offset: float,
) -> None:
    state = official_state(base, kind=kind)
    source = write(tmp_path / "a.ckpt", lightning(state))
    task = whole_labels(tmp_path) if kind == "ordinalclip" else "age"
    checkpoint = convert_file(
        source, tmp_path / "a.pt", task=task, base=base_file, label_offset=given
    )
    if kind == "ordinalclip" and given is None:
        offset = 0.0  # their code trains on the label as it is
    assert checkpoint.task.label_offset == offset
    want, _ = oracle(state, base, images, offset=offset)
    np.testing.assert_allclose(predictions(checkpoint, images)[0], want, rtol=2e-4, atol=1e-4)


def test_task_that_has_an_offset_keeps_it(base: State, base_file: str, tmp_path: Path) -> None:
    task = tmp_path / "own.toml"
    task.write_text(Path(whole_labels(tmp_path)).read_text() + "label_offset = 2\n")
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    checkpoint = convert_file(source, tmp_path / "a.pt", task=str(task), base=base_file)
    assert checkpoint.task.label_offset == 2


def whole_labels(folder: Path, edges: str = "0, 1, 2, 3, 4, 5") -> str:
    path = folder / "task.toml"
    path.write_text(
        f'name = "level"\nunit = ""\nbin_edges = [{edges}]\nphrases = {list(AGE_PHRASES)}\n'
        'context = "age estimation: the person is a"\n'
    )
    return str(path)


@pytest.mark.parametrize(
    ("edges", "centres"),
    [
        ("0, 1, 2, 3, 4, 5", [0, 1, 2, 3, 4]),  # bins are the labels
        ("1, 2, 3, 4, 5, 6", [1, 2, 3, 4, 5]),
        ("0, 10, 20, 30, 40, 50", [5, 15, 25, 35, 45]),  # bins are ranges
        ("-0.5, 0.5, 1.5, 2.5, 3.5, 4.5", [0, 1, 2, 3, 4]),
    ],
)
def test_ordinalclip_predicts_the_expectation(
    base: State,
    base_file: str,
    images: torch.Tensor,
    tmp_path: Path,
    edges: str,
    centres: list[float],
) -> None:
    state = official_state(base, kind="ordinalclip")
    source = write(tmp_path / "a.ckpt", lightning(state))
    task = whole_labels(tmp_path, edges)
    checkpoint = convert_file(source, tmp_path / "a.safetensors", task=task, base=base_file)
    values, bin_probs = predictions(load_checkpoint(tmp_path / "a.safetensors"), images)
    _, want_probs = oracle(state, base, images)
    np.testing.assert_allclose(bin_probs, want_probs, atol=2e-5)
    np.testing.assert_allclose(values, want_probs @ np.array(centres), rtol=1e-4, atol=1e-4)
    assert not list(checkpoint.model.image_adapter.parameters())
    assert not list(checkpoint.model.regressor.parameters())
    assert [checkpoint.task.bin_of(c) for c in centres] == [0, 1, 2, 3, 4]
    with torch.inference_mode():
        folded, _ = FoldedModel(checkpoint.model)(images)
    np.testing.assert_allclose(folded.numpy(), values, rtol=1e-4, atol=1e-4)


def test_interrupted_save_leaves_the_old_file(
    base: State, base_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.ckpt", lightning(official_state(base)))
    target = tmp_path / "a.safetensors"
    checkpoint = convert_file(source, target, task="age", base=base_file)
    before = target.read_bytes()

    def fail(tensors: State, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("numclip.weights.writing.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(target, checkpoint)
    assert target.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"a.ckpt", "a.safetensors"}
