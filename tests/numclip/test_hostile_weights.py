"""Weights files and configurations of strangers: one sentence, little memory, no network."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.model.backbone import build_clip, clip_config
from numclip.tasks import load_task
from numclip.weights.reading import read_content
from numclip.weights.writing import write_safetensors
from numclip_runtime import ModelError, NumclipError, Task, UsageError
from tests.numclip.bounded import bounded
from tests.numclip.tiny import TEXT, TOWERS, VIT, spec_of, tiny_model

Content = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a.pt"
    save_checkpoint(path, Checkpoint(tiny_model(), spec_of("vit"), {"mae": 1.0}, "val.csv"))
    return path


@pytest.fixture
def content(whole: Path) -> Content:
    loaded: Content = torch.load(whole, weights_only=True)
    return loaded


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 900 + len(str(path))


NESTED: Any = {}
for _ in range(400):
    NESTED = {"a": NESTED}
VISION = {"vision_cfg": VIT | {"timm_model_name": "hf-hub:org/x"}}
LIES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "deep": (("config", "clip", "x"), NESTED, "larger or deeper"),
    "deep task": (("task", "name"), NESTED, "must be text"),
    "no task": (("task",), 3, "must be a table"),
    "layers": (("config", "clip", "vision_cfg"), VIT | {"layers": 10**9}, "from 1 to 256"),
    "width": (("config", "clip", "text_cfg"), TEXT | {"width": 10**9}, "from 1 to 16,384"),
    "length": (("config", "clip", "text_cfg"), TEXT | {"context_length": 10**9}, "1 to 4,096"),
    "vocabulary": (("config", "clip", "text_cfg"), TEXT | {"vocab_size": 10**9}, "to 1,000,000"),
    "largest": (
        ("config", "clip"),
        {"embed_dim": 16384, "vision_cfg": VIT | {"width": 16384, "layers": 256}, "text_cfg": TEXT},
        r"(missing|differently shaped) \d+ keys",
    ),
    "no width": (("config", "clip", "vision_cfg"), VIT | {"width": 0}, "from 1 to 16,384, got 0"),
    "patch": (("config", "clip", "vision_cfg"), VIT | {"patch_size": 0}, "from 1 to 1,024, got 0"),
    "flag": (("config", "clip", "vision_cfg"), VIT | {"layers": True}, "whole number, got True"),
    "digits": (("config", "clip", "embed_dim"), 10**100, "more than 64 bits"),
    "huge": (("config", "clip", "init_logit_scale"), 10**400, "beyond the limit"),
    "nan": (("config", "clip", "init_logit_scale"), float("nan"), "beyond the limit"),
    "heads": (("config", "clip", "text_cfg"), TEXT | {"heads": 5}, "cannot build this config"),
    "tensor for text": (("config", "clip", "x"), torch.zeros(2), "must be a number, text or table"),
    "tensor name": (("task", "name"), torch.zeros(2), "'name' must be text"),
    "ratio": (("config", "adapter_ratio"), float("nan"), "must be finite"),
    "negative ratio": (("config", "adapter_ratio"), -1.0, "between 0 and 1"),
    "reduction": (("config", "adapter_reduction"), 0, "at least 1"),
    "adapter": (("config", "adapter_width"), 10**9, "from 1 to 65,536"),
    "words": (("config", "prompts", "random_rank_tokens"), 10**9, "at most 1,000"),
    "kind": (("config", "prompts", "kind"), "x", "must be one of plain, rank"),
    "std": (("preprocessing", "std"), (1.0, float("nan"), 1.0), "finite"),
    "negative std": (("preprocessing", "std"), (1.0, -1.0, 1.0), "std"),
    "another K": (("task",), {"name": "a", "unit": "", "bin_edges": [0, 1, 2, 3, 4], "phrases":
                  ["a", "b", "c", "d"]}, r"differently shaped \d+ keys"),
    "phrases": (("task", "phrases"), ["a"] * 20_000, "items"),
    "long phrase": (("task", "phrases"), ["a" * 5000, "b", "c"], "characters"),
    "metrics": (("metrics",), {"mae": "good"}, "'metrics' must be a table of numbers"),
    "versions": (("versions",), {"torch": 3}, "must be text"),
    "paths": (("validation_csv",), 3, "'validation_csv' must be text"),
    "schema": (("schema_version",), NESTED, "schema a table is unknown"),
    "hub": (("config", "clip", "vision_cfg"), VISION["vision_cfg"], "no architecture of timm"),
    "folder": (
        ("config", "clip", "vision_cfg"),
        VIT | {"timm_model_name": "local-dir:/etc"},
        "no architecture of timm",
    ),
    "fetched": (
        ("config", "clip", "vision_cfg"),
        VIT | {"timm_model_name": "resnet18", "timm_model_pretrained": True},
        "would fetch weights",
    ),
    "tokenizer": (
        ("config", "clip", "text_cfg"),
        TEXT | {"hf_tokenizer_name": "org/x"},
        "another tokenizer",
    ),
    "transformers": (
        ("config", "clip", "text_cfg"),
        TEXT | {"hf_model_name": "org/x"},
        "Hugging Face",
    ),
    "coca": (("config", "clip", "multimodal_cfg"), {}, "multimodal"),
}  # fmt: skip


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("loading a checkpoint must not touch the network")


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_one_sentence(
    name: str, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    place, value, message = LIES[name]
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(content, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", message)


WEIGHTS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "nan": (lambda w: w * float("nan"), "NaN or infinity in 1 weight"),
    "integers": (lambda w: w.long(), r"differently shaped 1 key .*int64 for torch.float32"),
    "complex": (lambda w: w.to(torch.complex64), r"differently shaped 1 key .*complex64"),
    "text": (lambda w: "a", "1 entry .* not a plain tensor"),
    "sparse": (lambda w: w.to_sparse(), "1 entry .* not a plain tensor"),
    "expanded": (lambda w: torch.zeros(()).expand(10**6, 10**6), "1 entry .* not a plain tensor"),
    "shape": (lambda w: w[:1], "differently shaped 1 key"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_odd_weights(name: str, content: Content, tmp_path: Path) -> None:
    change, message = WEIGHTS[name]
    key = "image_encoder.proj"
    content["state_dict"][key] = change(content["state_dict"][key])
    torch.save(content, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", message)


def test_half_precision_is_read(content: Content, tmp_path: Path) -> None:
    content["state_dict"] = {k: w.half() for k, w in content["state_dict"].items()}
    torch.save(content, tmp_path / "b.pt")
    assert load_checkpoint(tmp_path / "b.pt").model.logit_scale.dtype == torch.float32


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "pointer of Git LFS",
        ),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"", "it is empty"),
    ],
)
@pytest.mark.parametrize("name", ["b.pt", "b.safetensors"])
def test_no_weights_at_first_sight(head: bytes, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head)
    refused(tmp_path / name, message)


@pytest.mark.parametrize("name", ["b.pt", "b.safetensors"])
def test_a_pipe_or_folder_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "is a pipe, socket or device")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(UsageError, match="is a pipe"):
        clip_config(str(tmp_path / "x.json"))


def script(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/constants.pkl", b"\x80\x02).")
    return buffer.getvalue()


def torch_file(data: bytes, compression: int = zipfile.ZIP_STORED, numbers: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", numbers)
    return buffer.getvalue()


def storage(count: int) -> bytes:
    tensor = (
        pickle.dumps(None, 2)[:2] + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    )
    kind = b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + struct.pack(
        "<i", count
    )
    return tensor + kind + b"tQK\x00J" + struct.pack("<i", count) + b"\x85K\x01\x85\x89}tR."


MEMO = b"\x80\x02}r" + struct.pack("<I", 1 << 30) + b"."
FILLED = b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2_000_000_000) + b"\x85R."
LEGACY = b"".join(
    pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
BOMBS: dict[str, tuple[bytes, str]] = {
    "memo.pt": (script(MEMO), "it claims more memory"),
    "memo as text.pt": (script(b"}p1073741824\n."), "it claims more memory"),
    "filled.pt": (torch_file(FILLED), "it names builtins.bytearray"),
    "legacy filled.pt": (LEGACY + FILLED, "it names builtins.bytearray"),
    "legacy memo.pt": (LEGACY + MEMO, "not a readable checkpoint"),
    "script filled.pt": (script(FILLED), "it names builtins.bytearray"),
    "compressed.pt": (
        torch_file(storage(500_000_000), zipfile.ZIP_DEFLATED, bytes(1 << 24)),
        "it is compressed",
    ),
    "compressed script.pt": (
        torch_file(b"\x80\x02}.", zipfile.ZIP_DEFLATED, bytes(1 << 24)).replace(
            b"byteorder", b"constants"
        ),
        "it is compressed",
    ),
    "storage.pt": (torch_file(storage(2_000_000_000), numbers=b"1234"), "not a readable|refused"),
    "long.pt": (script(b"\x80\x02\x8a\xff" + bytes(10) + b"."), "not a readable checkpoint"),
    "text.pt": (script(b"\x80\x02X\xff\xff\xff\x7fabc."), "not a readable checkpoint"),
    "deep.pt": (script(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "not a readable"),
    "bytes.pt": (script(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc."), "not a readable"),
    "header.safetensors": (struct.pack("<Q", 1 << 40) + b"{}", "its header claims"),
    "large header.safetensors": (
        struct.pack("<Q", 17_000_000) + b" " * 17_000_000,
        "its header claims",
    ),
    "shape.safetensors": (
        (lambda head: struct.pack("<Q", len(head)) + head)(
            b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'
        ),
        "not a readable checkpoint",
    ),
}
CHILD = r"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from pathlib import Path
from numclip.checkpoint import load_checkpoint
from numclip_runtime import ModelError
for name in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_checkpoint(name)
    except ModelError as error:
        # not ru_maxrss, which begins with the peak of the process that forked this one
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s*(\d+)", status)[1]) >> 10
        print(json.dumps([name.name, str(error), peak]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its /proc tells the peak")
def test_bombs_need_no_memory(tmp_path: Path) -> None:
    """Each is refused within 1 GiB at peak, imports included."""
    for name, (data, _) in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / part) for part in ("", "export", "runtime"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {name: (text, peak) for name, text, peak in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(BOMBS)
    for name, (_, message) in BOMBS.items():
        text, peak = found[name]
        assert any(part in text for part in message.split("|")), (name, text)
        assert "\n" not in text
        assert peak < 1024, (name, peak)


def test_metadata_of_safetensors_that_lie(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    write_safetensors(path, content)
    assert read_content(path)["task"] == content["task"]
    for text, message in (
        ("[" * 10_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("[]", "its metadata are no table"),
        ('{"format": "numclip-checkpoint"}', "schema None is unknown"),
    ):
        from safetensors.torch import save_file

        save_file(content["state_dict"], path, metadata={"numclip": text})
        refused(path, message)


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "hf-hub:a/b", -1, 0, 1 << 40])
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
BOUNDED = bounded(50)


def places(table: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, value in table.items():
        if key != "state_dict":
            found.append((*before, key))
            found += places(value, (*before, key)) if isinstance(value, dict) else []
    return found


@given(data=st.data())
@BOUNDED
def test_any_mutation_of_a_checkpoint_is_refused_or_valid(
    data: st.DataObject, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numclip.checkpoint import checkpoint_from_content

    content = torch.load(whole, weights_only=True)
    place = data.draw(st.sampled_from(places(content)))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[place[-1]] = data.draw(VALUES)
    else:
        del inner[place[-1]]
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    try:
        found = checkpoint_from_content(content, Path("a.pt"))
    except NumclipError as error:
        assert "\n" not in str(error)  # noqa: PT017 (a valid mutation raises nothing)
        return
    assert found.task.num_bins == 3


TASK_FILE = 'name = "light"\nunit = "x"\nbin_edges = [0, 30, 70]\nphrases = ["dark", "bright"]\n'


@given(data=st.data())
@BOUNDED
def test_any_mutation_of_a_task_file_is_refused_or_valid(
    data: st.DataObject, tmp_path: Path
) -> None:
    text = TASK_FILE.encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 9, len(text))))
    odd = st.sampled_from([b"nan", b"1e999", b"9" * 400, b"[", b'"', b"\0", b"\x1b", b"\n", b"-"])
    new = b"".join(data.draw(st.lists(odd | st.binary(max_size=3), max_size=3)))
    path = tmp_path / "t.toml"
    path.write_bytes(text[:start] + new + text[end:])
    try:
        task = load_task(str(path))
    except UsageError:
        return
    assert Task.from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 10_000, "nested too deeply"),
        ("a = " + "{a = " * 10_000, "nested too deeply"),
        ("bin_edges = [" + "9" * 5000 + "]", "not valid TOML"),
        ("a = 1\n" * (1 << 18), "is larger than 1,048,576 bytes"),
        (TASK_FILE.replace("30", "9" * 400), "must be finite"),
        (TASK_FILE.replace("30", "nan"), "finite"),
        (TASK_FILE.replace('"x"', "1979-05-27"), "'unit' must be text"),
    ],
)
def test_task_files_that_lie(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        load_task(str(path))
    os.mkfifo(tmp_path / "p.toml")
    with pytest.raises(UsageError, match="is a pipe"):
        load_task(str(tmp_path / "p.toml"))


def test_a_named_timm_tower_is_still_built() -> None:
    vision = {"timm_model_name": "resnet18", "timm_pool": "", "timm_proj": "linear"}
    config = TOWERS["vit"] | {"vision_cfg": vision | {"image_size": 64, "timm_pool": "avg"}}
    assert any(True for _ in build_clip(config).parameters())
