"""A graph is written once; what was compared is what is kept, and it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from numclip_export import ParityError
from numclip_export.exported_file import Draft, write_fp32
from numclip_export.graph.onnx_model import metadata_entry
from numclip_export.parity import Parity
from numclip_runtime import ModelError, load, read_metadata
from numclip_runtime.files import sha256

TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"
PARITY = Parity("given", 1, 1, (1,), 0.1, 0.2, 0.05, 0.04, 0.05, 0.1, 0)


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Draft(tmp_path / "x.onnx", tmp_path / "part.onnx")


def test_only_the_metadata_change_after_the_comparison(draft: Draft) -> None:
    model, metadata = onnx.load(TINY), read_metadata(TINY)
    draft.write(model, metadata)
    compared = draft.temporary.read_bytes()[: draft.graph_bytes]
    assert onnx.load_from_string(compared).graph == model.graph
    images = np.zeros((1, 3, 8, 8), np.float32)
    with draft.open() as predictor:
        before = predictor.backend.run(images)
    done = draft.finish(metadata, PARITY, model, more=1)
    kept = draft.temporary.read_bytes()
    assert kept[: draft.graph_bytes] == compared
    (entry,) = onnx.load(draft.temporary).metadata_props
    assert entry.value == done.metadata.to_json()
    assert done.metadata.parity == {"max_value_error": 0.05, "max_prob_error": 0.1}
    assert (done.sha256, done.details["more"]) == (sha256(draft.temporary), 1)
    with load(draft.temporary) as predictor:
        assert predictor.metadata == done.metadata
        for got, expected in zip(predictor.backend.run(images), before, strict=True):
            assert np.array_equal(got, expected)


def test_the_kept_file_is_opened_again(draft: Draft) -> None:
    """In every precision, also unverified: a file that the runtime refuses is not kept."""
    model, metadata = onnx.load(TINY), read_metadata(TINY)
    model.graph.node[0].op_type = "NoSuchOperator"
    draft.write(model, metadata)
    onnx_model: Any = onnx.load(TINY)
    for parity in (None, PARITY):
        with pytest.raises(ModelError):
            draft.finish(metadata, parity, onnx_model)


def test_what_is_kept_was_run(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    model, metadata = onnx.load(TINY), read_metadata(TINY)
    draft.write(model, metadata)
    with draft.open():
        pass
    real = metadata_entry

    def damaging(metadata: Any) -> bytes:
        """Change a weight between the comparison and the end, as a faulty disk may."""
        content = draft.temporary.read_bytes()
        weights = np.array([5, 15, 25], np.float32)
        assert content.count(weights.tobytes()) == 1
        draft.temporary.write_bytes(content.replace(weights.tobytes(), (weights + 1).tobytes()))
        return real(metadata)

    monkeypatch.setattr("numclip_export.exported_file.metadata_entry", damaging)
    with pytest.raises(ModelError, match="gives other numbers than the one that was compared"):
        draft.finish(metadata, PARITY, model)


def test_a_file_that_gives_no_numbers_is_not_kept(draft: Draft) -> None:
    model = onnx.load(TINY)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full(onnx.numpy_helper.to_array(tensor).shape, np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    draft.write(model, read_metadata(TINY))
    with pytest.raises(ModelError, match="not kept, the finished file gives no numbers"):
        draft.finish(read_metadata(TINY), PARITY, model)


def test_the_file_is_run_and_not_the_graph_in_memory(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind:
        """A reference that accepts what it opens, and remembers how often it ran."""

        images: Any = type("Images", (), {"inputs": np.zeros((1, 3, 8, 8), np.float32)})
        runs = 0

        def judge(self, run: Any, precision: str, features: object) -> Parity:
            Blind.runs += run(self.images.inputs)[0].shape == (1,)
            return Parity("given", 1, 1, (1,), 0.0, 0.2, 1.0, 1.0, 1.0, 0.1, 0)

    monkeypatch.setattr("numclip_export.exported_file.GraphRun", lambda model: _Features())
    reference: Any = Blind()
    with pytest.raises(ParityError, match=r"x\.onnx: not kept, its values differ .* --opset"):
        write_fp32(draft, onnx.load(TINY), read_metadata(TINY), reference)
    assert Blind.runs == 1


class _Features:
    def features(self, images: object) -> None:
        return None
