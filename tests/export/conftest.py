"""Fixtures: one thread, the same random numbers and clock, torch's exporter once per model."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

from numclip.evaluation.timing import lower_quartiles_ms
from numclip_export.int8 import acceptance
from numclip_runtime.preprocess import InputArray
from tests.export.chain import Chain, make_chain
from tests.numclip.tiny import TOWERS

torch.set_num_threads(1)
REAL_EXPORTER = torch.onnx.export


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def int8_is_faster() -> Iterator[None]:
    """Let INT8 take half the time of its baseline: for small models the verdict varies with load.

    How much faster it really is, benchmarks/latency.py says.
    """

    def clock(
        runs: Sequence[tuple[Callable[[InputArray], object], InputArray]], *, batch: int = 1
    ) -> list[float]:
        for run, images in runs:
            run(images[:batch])
        return [2.0, 1.0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptance, "lower_quartiles_ms", clock)
        yield


@pytest.fixture
def real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for real, for tests of files that differ by a factor."""
    monkeypatch.setattr(acceptance, "lower_quartiles_ms", lower_quartiles_ms)


class _ByContent(pickle.Pickler):
    """Pickles tensors by their numbers; torch's own way includes addresses in memory."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return bytes, (obj.detach().numpy().tobytes() + repr((obj.dtype, obj.shape)).encode(),)
        return NotImplemented


@pytest.fixture(scope="session", autouse=True)
def exporter_runs_once() -> Iterator[None]:
    """Remember the graphs of torch's exporter, which takes 3.0 of the 3.2 s of a tiny export."""
    known: dict[str, onnx.ModelProto] = {}

    def export(model: torch.nn.Module, args: Any, **options: Any) -> Any:
        content = io.BytesIO()
        _ByContent(content).dump((model, args, {k: repr(v) for k, v in options.items()}))
        key = hashlib.sha256(content.getbuffer()).hexdigest()
        if key not in known:
            program = REAL_EXPORTER(model, args, **options)
            assert program is not None
            known[key] = program.model_proto
        copied = onnx.ModelProto()
        copied.CopyFrom(known[key])
        return SimpleNamespace(model_proto=copied)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


@pytest.fixture
def real_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's exporter run each time, for tests that compare two of its graphs."""
    monkeypatch.setattr(torch.onnx, "export", REAL_EXPORTER)


@pytest.fixture(scope="session", params=list(TOWERS))
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Return the exported model of each tower."""
    return make_chain(request.param, tmp_path_factory.mktemp(request.param))
