"""The graph that takes pixels against the one that takes normalised planes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded, save_with_metadata
from numclip_export.graph.uint8_input import with_uint8_input
from numclip_runtime import ModelMetadata, load
from tests.numclip.tiny import TASK, TOWERS, spec_of, tiny_model


@pytest.fixture(scope="module", params=TOWERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model in both forms; its normalisation differs in every channel."""
    folder = tmp_path_factory.mktemp(request.param)
    spec = replace(spec_of(request.param), mean=(0.2, 0.5, 0.7), std=(0.2, 0.3, 0.1))
    plain = onnx_from_folded(FoldedModel(tiny_model(request.param)), spec.crop)
    metadata = ModelMetadata(TASK, spec)
    save_with_metadata(plain, metadata, folder / "float32.onnx")
    pixels = with_uint8_input(plain, spec)
    onnx.checker.check_model(pixels)
    save_with_metadata(pixels, replace(metadata, input="uint8"), folder / "uint8.onnx")
    return folder


def test_predictions_are_those_of_the_float32_form(pair: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(5)]
    with load(pair / "float32.onnx") as plain, load(pair / "uint8.onnx") as pixels:
        assert pixels.preprocess(photos[0]).dtype == np.uint8
        expected, got = plain.predict_batch(photos), pixels.predict_batch(photos)
        alone = pixels.predict(Image.fromarray(photos[3]))
    assert [p.value for p in got] == pytest.approx([p.value for p in expected], abs=1e-4)
    assert alone.value == pytest.approx(got[3].value, abs=1e-4)
    assert len({round(p.value, 3) for p in expected}) > 1  # photos that the model tells apart


def test_input_is_pixels_with_a_free_batch(pair: Path) -> None:
    (images,) = onnx.load(pair / "uint8.onnx").graph.input
    tensor = images.type.tensor_type
    side = load(pair / "uint8.onnx").metadata.preprocessing.crop
    assert tensor.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in tensor.shape.dim][1:] == [side, side, 3]
    assert tensor.shape.dim[0].dim_param


def test_the_source_is_not_changed(pair: Path) -> None:
    model = onnx.load(pair / "float32.onnx")
    before = model.SerializeToString(deterministic=True)
    with_uint8_input(model, spec_of("vit"))
    assert model.SerializeToString(deterministic=True) == before
