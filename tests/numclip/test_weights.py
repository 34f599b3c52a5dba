"""Weights files are data: damaged ones are refused, and nothing in any of them is executed."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from numclip.weights.reading import read_content, state_of, without_prefix
from numclip.weights.torchscript import is_torchscript, read_torchscript
from numclip_runtime import ModelError


class Tower(torch.nn.Module):
    """Two precisions, buffers, nested and transposed parameters, other attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Parameter(torch.randn(3, 2).half())
        self.blocks = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        self.tied = torch.nn.Parameter(torch.randn(6).reshape(2, 3).T)
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("empty", torch.empty(0))
        self.sizes = [1, 2]
        self.names = {"a": 1.5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tied.sum() + self.sizes[0] + self.names["a"]


@pytest.fixture
def scripted(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, the files remain
        module: Any = torch.jit.script(Tower())
        module.save(str(path))
    return path, dict(module.state_dict())


def test_torchscript_archive_is_read_as_data(
    scripted: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, want = scripted

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the archive's code must stay untouched")

    monkeypatch.setattr(torch.jit, "load", never)
    monkeypatch.setattr(torch._C, "import_ir_module", never)
    assert is_torchscript(path)
    got = read_torchscript(path)
    assert set(got) == set(want)
    for key, tensor in want.items():
        assert got[key].dtype == tensor.dtype
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=0)
    state = state_of(read_content(path), path)
    assert state["proj"].dtype == torch.float32
    assert state["input_resolution"].dtype == torch.int64


def test_torch_save_is_no_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.zeros(1)}, path)
    assert not is_torchscript(path)
    torch.save({"x": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    assert not is_torchscript(path)
    assert list(read_content(path)) == ["x"]


class Attack:
    """Creates a file when unpickled by pickle itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def as_torch(path: Path, attack: Attack) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callbacks": attack}, path)


def as_legacy_torch(path: Path, attack: Attack) -> None:
    torch.save({"x": attack}, path, _use_new_zipfile_serialization=False)


def as_torchscript(path: Path, attack: Attack) -> None:
    archive(path, pickle.dumps(attack, protocol=2))


def as_torchscript_module(path: Path, attack: Attack) -> None:
    """Reach for code through the names of the archive's own classes."""
    reduce = b"c__torch__.os\nsystem\n(Vmkdir " + str(attack.path).encode() + b"\ntR."
    archive(path, reduce)


def as_torchscript_builtin(path: Path, attack: Attack) -> None:
    archive(path, b"cbuiltins\neval\n(Vopen('" + str(attack.path).encode() + b"', 'w')\ntR.")


def archive(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/constants.pkl", b"\x80\x02).")
        file.writestr("a/code/__torch__.py", "def __setstate__(self, x):\n  return 1\n")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (as_torch, "refused, not plain weights and settings"),
        (as_legacy_torch, "refused, not plain weights and settings"),
        (as_torchscript, "refused, not plain weights and settings (it names posix.mkdir)."),
        (as_torchscript_module, "not a readable checkpoint (_Object() takes no arguments)."),
        (
            as_torchscript_builtin,
            "refused, not plain weights and settings (it names builtins.eval)",
        ),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="names the posix module")
def test_attack_is_refused_and_not_executed(
    tmp_path: Path, write: Callable[[Path, Attack], None], message: str
) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / "a.pt"
    write(path, Attack(trace))
    with pytest.raises(ModelError) as caught:
        read_content(path)
    assert message in str(caught.value)
    assert not trace.exists()


def test_attack_would_work(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Attack(trace), protocol=2))
    assert trace.exists(), "else the test above proves nothing"


def numbers() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"hello", b"PK\x03\x04", numbers()])
def test_file_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"(not a readable|refused, not plain)[^\n]*\)\.$"):
        read_content(path)


def as_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(4000)}, path)


def as_zip(path: Path) -> None:
    torch.save({"x": torch.zeros(4000)}, path)


def as_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.script(Tower())
        module.save(str(path))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize(
    ("write", "name"),
    [(as_zip, "a.pt"), (as_safetensors, "a.safetensors"), (as_script, "a.pt")],
)
def test_truncated_file(
    tmp_path: Path, write: Callable[[Path], None], name: str, share: float
) -> None:
    path = tmp_path / name
    write(path)
    read_content(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"(not a readable|refused, not plain)[^\n]*\)\.$"):
        read_content(path)


def test_torchscript_that_reaches_outside_its_storage(
    scripted: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, _ = scripted
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, content[:-2] if "/data/" in info.filename else content)
    with pytest.raises(ModelError, match=r"storage \d+ has \d+ bytes"):
        read_content(tmp_path / "b.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "c.pt", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("/data.pkl"):  # (3, 2) becomes (3, 200)
                content = content.replace(b"(K\x03K\x02t", b"(K\x03K\xc8t", 1)
            new.writestr(info.filename, content)
    with pytest.raises(ModelError, match=r"not a readable checkpoint \(setStorage"):
        read_content(tmp_path / "c.pt")


def test_torchscript_module_inside_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"  # m = Module(); m.__setstate__({"m": m})
    archive(path, b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00mh\x00ub.")
    with pytest.raises(ModelError, match=r"module \'m\.\' occurs twice"):
        read_content(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a\.pt: no such file\.$"):
        read_content(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module.model.", "module._orig_mod."]
)
def test_prefixes(prefix: str) -> None:
    zero = torch.zeros(1)
    state = without_prefix({prefix + "visual.proj": zero, "other": zero}, ("visual.",))
    assert set(state) == {"visual.proj", "other"}
    assert set(without_prefix({"net.visual.proj": zero}, ("visual.",))) == {"net.visual.proj"}


def test_refusal_never_advises_to_load_unsafely(tmp_path: Path) -> None:
    text, code = tmp_path / "text.pt", tmp_path / "code.pt"
    text.write_text("hello")
    torch.save({"state_dict": print}, code)
    for path, reason in (
        (text, "damaged, or not a weights file"),
        (code, r"it names (\w+\.)?print"),
    ):
        with pytest.raises(ModelError, match=reason) as caught:
            read_content(path)
        assert "weights_only" not in str(caught.value)
