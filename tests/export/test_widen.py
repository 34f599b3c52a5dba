"""The steps of widening: which nodes each one names, and that nothing is tried twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from numclip_export.fold import FoldedModel
from numclip_export.graph.names import collapse
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.graph.run import cpu_session
from numclip_export.graph.types import node_precisions
from numclip_export.parity import Parity
from numclip_export.precision.mixed_precision_search import (
    STEPS,
    Network,
    all_blocks,
    attempts,
    fp32_parts,
    last_blocks,
    norms,
    overflowing,
)
from tests.export.chain import Chain
from tests.export.fragile import FIRST_BLOCK, fragile_model
from tests.numclip.tiny import images_of

BLOCKS = {
    "vit": ["image_encoder.transformer.resblocks.0"],
    "resnet": [f"image_encoder.layer{n}.0" for n in (1, 2, 3, 4)],
}
GOOD = Parity("given", 1, 1, (1,), 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
BAD = replace(GOOD, max_value_error=2.0)


@pytest.fixture
def network(chain: Chain) -> Network:
    return Network(chain.graph, images_of(chain.tower, 3).numpy())


@pytest.fixture(scope="module")
def fragile() -> Network:
    graph = onnx_from_folded(FoldedModel(fragile_model(3e4)), 32)
    return Network(graph, images_of("vit", 9).numpy())


def test_blocks(chain: Chain, network: Network) -> None:
    assert list(network.blocks) == BLOCKS[chain.tower]


def test_norms(chain: Chain, network: Network) -> None:
    inside = {name for name in norms(network) if name.startswith("image_encoder")}
    if chain.tower == "vit":
        assert {name.rpartition(".")[2] for name in inside} == {
            "ln_pre/LayerNormalization",
            "ln_1/LayerNormalization",
            "ln_2/LayerNormalization",
            "ln_post/LayerNormalization",
            "attn/Softmax",
        }
    else:
        assert inside == {"image_encoder.attnpool/Softmax", "image_encoder.attnpool/ReduceMean"}


def test_last_blocks(chain: Chain, network: Network) -> None:
    everything = node_precisions(chain.graph)

    def parts(nodes: set[str]) -> tuple[str, ...]:
        return collapse(nodes & everything.keys(), everything)

    if chain.tower == "vit":
        assert last_blocks(1)(network) == set()  # there is one: see all_blocks
        assert "image_encoder.transformer" in parts(all_blocks(network))
        assert "image_encoder.conv1/Conv" not in all_blocks(network)
        assert "image_encoder/MatMul" in all_blocks(network)
    else:
        assert parts(last_blocks(1)(network)) == ("image_encoder.attnpool", "image_encoder.layer4")
        assert len(parts(last_blocks(2)(network))) == 3
        assert last_blocks(4)(network) == set()
        assert parts(all_blocks(network)) == (
            "image_encoder.attnpool",
            *(f"image_encoder.layer{n}" for n in (1, 2, 3, 4)),
        )
    assert not {name for name in all_blocks(network) if name.startswith("head")}


def test_largest_activations(chain: Chain, network: Network) -> None:
    found = network.activations
    probe = onnx.ModelProto()
    probe.CopyFrom(chain.graph)
    node = next(node for node in probe.graph.node if node.op_type in ("Softmax", "Relu"))
    kind = onnx.TensorProto.FLOAT
    probe.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
    (array,) = cpu_session(probe).run([node.output[0]], {"images": network.images})
    assert found[node.output[0]] == pytest.approx(np.abs(array).max())
    made = [name for n in chain.graph.graph.node for name in n.output]
    if chain.tower == "vit":
        assert set(found) < set(made)  # shapes are made, too
    else:
        assert set(found) == set(made)
    assert overflowing(network) == set()


def test_overflowing(fragile: Network) -> None:
    assert overflowing(fragile) == {
        f"{FIRST_BLOCK}.ln_2/LayerNormalization",  # makes it
        f"{FIRST_BLOCK}.mlp.c_fc/MatMul",  # reads it
    }
    endless = Network(fragile.model, np.full_like(fragile.images, np.nan))
    assert "image_encoder.conv1/Conv" in overflowing(endless)


def test_steps_grow_until_one_passes(fragile: Network) -> None:
    verdicts = iter([BAD, BAD, GOOD])
    tried = list(attempts(fragile, lambda model: next(verdicts)))
    assert [attempt.step for attempt in tried] == [step.name for step in STEPS[:3]]
    sizes = [len([k for k in node_precisions(a.model).values() if k == "fp32"]) for a in tried]
    assert sizes == sorted(set(sizes))  # each larger than the one before
    assert tried[0].added == ("adapter", "head", "regressor")
    assert not {part for part in tried[1].added if part.startswith("head")}  # no news
    assert set(fp32_parts(tried[-1].model)) > {"adapter", "head", "image_encoder.ln_pre"}
    assert tried[-1].to_dict()["passed"]


def test_steps_that_add_nothing_are_left_out(chain: Chain, network: Network) -> None:
    tried = [attempt.step for attempt in attempts(network, lambda model: BAD)]
    expected = ["head", "normalisation layers and softmax"]
    if chain.tower == "resnet":
        expected += ["last block", "last 2 blocks"]
    assert tried == [*expected, "all blocks, not the stem"]
