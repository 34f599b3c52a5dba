"""The runtime opens float16 files on the CPU; onnxruntime by itself crashes on them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded, save_with_metadata
from numclip_export.precision.fp16 import fp16_from_fp32, head_nodes
from numclip_runtime import ModelMetadata
from tests.numclip.tiny import TASK, TEXT, TOWERS, VIT, spec_of

TWO_BLOCKS = {"embed_dim": 32, "vision_cfg": VIT | {"layers": 2}, "text_cfg": TEXT}
READ = """
import sys, numpy as np
from numclip_runtime import load
with load(sys.argv[1]) as predictor:
    side = predictor.metadata.preprocessing.crop
    values, probs = predictor.backend.run(np.ones((3, 3, side, side), np.float32))
    print(np.isfinite(values).all() and np.isfinite(probs).all())
"""


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_runtime_opens_fp16(tmp_path: Path, tower: str) -> None:
    clip = TWO_BLOCKS if tower == "vit" else TOWERS[tower]  # the crash needs two blocks
    spec = spec_of(tower)
    model = NumClip(ModelConfig(clip), TASK).eval()
    graph = onnx_from_folded(FoldedModel(model), spec.crop)
    metadata = replace(ModelMetadata(TASK, spec), precision="fp16")
    path = tmp_path / "a.fp16.onnx"
    save_with_metadata(fp16_from_fp32(graph, head_nodes(graph)), metadata, path)
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
