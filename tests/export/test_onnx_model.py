"""The graph: names, shapes, operators, what is inside and what must not be."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded, operators, parameter_count
from numclip_runtime import ModelMetadata, load
from numclip_runtime.metadata import METADATA_KEY
from tests.export.chain import Chain
from tests.numclip.tiny import images_of, tiny_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_any_batch_equals_torch(chain: Chain, batch: int) -> None:
    images = images_of(chain.tower, batch, seed=batch)
    with torch.no_grad():
        expected = chain.checkpoint.model(images)
    with load(chain.done.onnx, threads=1) as predictor:
        values, probs = predictor.backend.run(images.numpy())
    assert (values.shape, probs.shape) == ((batch,), (batch, 3))
    assert values.dtype == probs.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(values, expected.values.numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(probs, expected.bin_probs.numpy(), atol=1e-5, rtol=0)


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_names_and_shapes(chain: Chain) -> None:
    onnx.checker.check_model(chain.graph, full_check=True)
    side = chain.checkpoint.preprocessing.crop
    (images,) = chain.graph.graph.input
    assert (images.name, shape_of(images)) == ("images", ["batch", 3, side, side])
    values, probs = chain.graph.graph.output
    assert (values.name, shape_of(values)) == ("values", ["batch"])
    assert (probs.name, shape_of(probs)) == ("bin_probs", ["batch", 3])
    assert [(o.domain, o.version) for o in chain.graph.opset_import] == [("", 18)]


def test_metadata_is_inside(chain: Chain) -> None:
    (entry,) = chain.graph.metadata_props
    assert entry.key == METADATA_KEY
    metadata = ModelMetadata.from_json(entry.value)
    assert metadata.task == chain.checkpoint.task
    assert metadata.preprocessing == chain.checkpoint.preprocessing
    assert metadata.parity is not None
    assert set(metadata.parity) == {"max_value_error", "max_prob_error"}
    with load(chain.done.onnx) as predictor:
        assert predictor.metadata == metadata


def test_layer_normalisation_stays_one_operator(chain: Chain) -> None:
    got = operators(chain.graph)
    # ViT: ln_pre, ln_post and two in the one block; ResNet has batch normalisation, in its Convs.
    assert got.get("LayerNormalization", 0) == (4 if chain.tower == "vit" else 0)
    assert "BatchNormalization" not in got
    assert got["Tanh"] == 1
    assert list(got.values()) == sorted(got.values(), reverse=True)
    assert sum(got.values()) == len(chain.graph.graph.node)


def test_holds_the_image_tower_and_little_more(chain: Chain) -> None:
    model = chain.checkpoint.model
    largest = max(p.numel() for p in model.image_encoder.parameters())
    sizes = [math.prod(tensor.dims) for tensor in chain.graph.graph.initializer]
    assert max(sizes) <= largest
    tower, adapter, regressor = (
        sum(p.numel() for p in part.parameters())
        for part in (model.image_encoder, model.image_adapter, model.regressor)
    )
    needed = tower + adapter + regressor + 3 * 32  # bin_embeddings
    total = parameter_count(chain.graph)
    assert 0.95 * needed < total < needed + 100  # BatchNormalization melts into Conv
    assert chain.done.onnx.stat().st_size < 4 * total + 50_000
    names = " ".join(tensor.name for tensor in chain.graph.graph.initializer)
    assert not any(word in names for word in ("text", "prompt", "logit_scale"))


def test_nothing_tells_of_the_machine(chain: Chain) -> None:
    content = chain.done.onnx.read_bytes()
    for trace in (str(ROOT), "site-packages", '.py", line', "Traceback"):
        assert trace.encode() not in content, trace


@pytest.mark.usefixtures("real_exporter")
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opset_and_quiet(opset: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = onnx_from_folded(FoldedModel(tiny_model()), 32, opset=opset)
    onnx.checker.check_model(graph, full_check=True)
    assert [version.version for version in graph.opset_import] == [opset]
    names = {node.name for node in graph.graph.node}
    assert {"image_encoder.ln_pre/LayerNormalization", "head/Softmax"} <= names
    assert not caught


def test_parameter_count_counts_floats() -> None:
    numpy_helper, helper = onnx.numpy_helper, onnx.helper
    tensors = [
        numpy_helper.from_array(np.zeros((2, 3), np.float32), "a"),
        numpy_helper.from_array(np.zeros(5, np.float16), "b"),
        numpy_helper.from_array(np.float32(1), "scalar"),
        numpy_helper.from_array(np.zeros(100, np.int64), "shape"),
    ]
    graph = helper.make_graph([], "g", [], [], tensors)
    assert parameter_count(helper.make_model(graph)) == 6 + 5 + 1
