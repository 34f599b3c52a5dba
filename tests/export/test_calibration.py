"""Ranges of INT8's calibration, and the cache that keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from numclip_export.graph.edit import Constants, copy_of
from numclip_export.int8.calibration import cached_ranges, content_key, layer_ranges
from tests.export.outliers import FACTOR, Graph, graph_of, parts


@pytest.fixture(scope="module", params=[1, FACTOR], ids=["even", "outliers"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return graph_of(request.param)


def test_ranges_are_those_of_the_batchwise_run(graph: Graph) -> None:
    """11 images: a short last batch counts, too."""
    layer = graph.layers[0]
    got = layer_ranges(graph.model, [layer], graph.images[:11])[layer.activation]
    session_model = copy_of(graph.model)
    session_model.graph.output.append(onnx.ValueInfoProto(name=layer.activation))
    session = ort.InferenceSession(
        session_model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (whole,) = session.run([layer.activation], {"images": graph.images[:11]})
    np.testing.assert_allclose(got, np.abs(whole).max((0, 1)), rtol=1e-5)


def test_cache_serves_the_same_content_only(graph: Graph, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.json"
    ranges, cached = cached_ranges(*parts(graph), cache)
    assert not cached
    again, cached = cached_ranges(*parts(graph), cache)
    assert cached
    assert all((again[name] == ranges[name]).all() for name in ranges)

    other, cached = cached_ranges(graph.model, graph.layers, 2 * graph.images, cache)
    assert not cached
    assert any((other[name] != ranges[name]).any() for name in ranges)


def test_cache_that_cannot_be_read_is_made_anew(graph: Graph, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.json"
    cache.write_text("{")
    _, cached = cached_ranges(*parts(graph), cache)
    assert not cached
    assert cached_ranges(*parts(graph), cache)[1]


def test_key_depends_on_weights_but_not_on_metadata(graph: Graph) -> None:
    key, model = content_key(*parts(graph)), copy_of(graph.model)
    onnx.helper.set_model_props(model, {"numclip": "{}"})
    assert content_key(model, graph.layers, graph.images) == key
    constants = Constants(model)
    weight = graph.layers[0].weight
    replaced = constants.put(weight, constants.get(weight) * 2)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == weight:
                node.input[index] = replaced
    assert content_key(model, graph.layers, graph.images) != key
