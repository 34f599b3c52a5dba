"""A server runs a proved model in bfloat16 as `load` does, and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from numclip_runtime import load, read_metadata
from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends import bf16 as choice
from numclip_runtime.serve import serving
from numclip_runtime.serve.serve_command import main
from numclip_runtime.serve.serve_options import ServeOptions
from tests.runtime.test_bf16 import PROOF, write
from tests.serve.conftest import TINY, ask, picture, running


@pytest.mark.parametrize(("asked", "expected"), [(None, "bf16"), (False, "fp32")])
def test_a_proved_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, expected: str
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    metadata = replace(read_metadata(TINY), bf16=PROOF)
    model = write(tmp_path / "proved.onnx", TINY.with_name("foreign.onnx"), metadata)
    body = picture()
    with running(model=model, opening=OpenOptions(bf16=asked)) as server:
        assert ask(server.port, "/model").json["precision"] == expected
        assert f'precision="{expected}"' in ask(server.port, "/metrics").body.decode()
        found = ask(server.port, body=body).json["value"]
    with load(TINY) as exact:
        np.testing.assert_allclose(found, exact.predict(body).value, atol=0.2)


@pytest.mark.parametrize(
    ("words", "expected"), [((), None), (("--bf16",), True), (("--no-bf16",), False)]
)
def test_the_flag(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: bool | None
) -> None:
    started: list[ServeOptions] = []
    monkeypatch.setattr(serving, "serve", lambda path, options: started.append(options))
    assert CliRunner().invoke(main, [str(TINY), *words]).exit_code == 0
    assert [options.opening.bf16 for options in started] == [expected]
