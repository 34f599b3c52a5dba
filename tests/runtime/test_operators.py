"""Graphs that are refused before a session is made; what export writes: tests/export."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from numclip_runtime import ModelError, load
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.model_files import operators
from numclip_runtime.model_files.onnx_file import encoded, message, metadata_props
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph

GRAPH, PROPS, FUNCTIONS, TRAINING = 7, 14, 25, 20


def node(op: str, inputs: str = "images", output: str = "y", *more: bytes) -> bytes:
    names = [message(1, name.encode()) for name in inputs.split()]
    return message(1, *names, message(2, output.encode()), message(4, op.encode()), *more)


def number(field: int, value: int) -> bytes:
    return encoded(field << 3) + encoded(value)


def tensor(name: str, dims: tuple[int, ...], *more: bytes, raw: bytes = bytes(8)) -> bytes:
    sizes = [number(1, size) for size in dims]
    content = [*sizes, number(2, 7), message(8, name.encode()), message(9, raw), *more]
    return message(5, *content)


def refused(path: Path, *graph: bytes, rest: bytes = b"") -> str:
    path.write_bytes(message(GRAPH, *graph) + rest)
    with OpenModel(path) as model, pytest.raises(ModelError) as error:
        check_graph(model)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{path}: ")


AGAIN = ", which numclip-export never writes; make the file with `numclip-export --ckpt x.pt`."
BODY = message(1, node("Add"))
EXTERNAL = [
    number(14, 1),
    number(14, (1 << 32) + 1),  # protobuf cuts it to 1
    message(13, message(1, b"location"), message(2, b"/etc/passwd")),
]


@pytest.mark.parametrize("op", ["Loop", "If", "Scan", "SequenceMap", "RandomNormal", "Optional"])
def test_an_operator_that_is_never_written(tmp_path: Path, op: str) -> None:
    body = message(5, message(1, b"body"), message(6, BODY), number(20, 5))
    for attributes in ((), (body,)):
        found = refused(tmp_path / "a.onnx", node("Relu"), node(op, "y", "z", *attributes))
        subgraph = " with a subgraph" if attributes else ""
        assert found == f"holds the operator {op}{subgraph}{AGAIN}"


@pytest.mark.parametrize(
    "op", ["Constant", "ConstantOfShape", "EyeLike", "StringConcat", "", "\x1b"]
)
def test_other_operators(tmp_path: Path, op: str) -> None:
    assert refused(tmp_path / "a.onnx", node(op)).startswith("holds the operator ")


@pytest.mark.parametrize(
    "domain", ["com.example", "ai.onnx.ml", "ai.onnx.training", "\x1b[2J", "x" * 99]
)
def test_other_domains(tmp_path: Path, domain: str) -> None:
    found = refused(tmp_path / "a.onnx", node("Relu", "images", "y", message(7, domain.encode())))
    assert found.startswith("holds the operator ")
    assert found.isprintable()
    assert len(found) < 200


@pytest.mark.parametrize("field", [6, 11])
def test_a_subgraph_in_an_allowed_operator(tmp_path: Path, field: int) -> None:
    attribute = message(5, message(1, b"body"), message(field, BODY))
    found = refused(tmp_path / "a.onnx", node("Relu", "images", "y", attribute))
    assert found == f"holds the operator Relu with a subgraph{AGAIN}"


@pytest.mark.parametrize("external", EXTERNAL)
def test_external_data(tmp_path: Path, external: bytes) -> None:
    message_ = f"refers to weights in other files (external data){AGAIN}"
    assert refused(tmp_path / "a.onnx", tensor("w", (1,), external)) == message_
    inside = message(5, message(1, b"value"), tensor("w", (1,), external))
    assert refused(tmp_path / "a.onnx", node("Relu", "x", "y", inside)) == message_


@pytest.mark.parametrize(
    ("rest", "graph", "found"),
    [
        (message(FUNCTIONS, message(1, b"f")), b"", "holds functions of its own"),
        (message(TRAINING, b""), b"", "holds a field of number 20"),
        (message(99, b""), b"", "holds a field of number 99"),
        (b"", message(15, b""), "holds sparse weights"),
        (b"", message(50, b""), "holds a field of number 50 in its graph"),
        (b"", message(5, message(6, b"text")), "holds texts as tensors"),
        (b"", message(5, number(2, 8)), "holds texts as tensors"),
        (b"", node("Relu", "x", "y", message(5, message(22, b""))), "holds an attribute with a fi"),
    ],
)
def test_other_parts_of_onnx(tmp_path: Path, rest: bytes, graph: bytes, found: str) -> None:
    assert refused(tmp_path / "a.onnx", graph, rest=rest).startswith(found)


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 63, 2), (1 << 20, 1 << 20), (1000, 1)])
def test_more_numbers_than_bytes(tmp_path: Path, dims: tuple[int, ...]) -> None:
    found = refused(tmp_path / "a.onnx", tensor("w", dims))
    assert found.startswith("states more numbers for a tensor than its ")


@pytest.mark.parametrize(
    "bomb",
    [
        node("Expand", "w shape"),
        node("Range", "w w w"),
        node("Tile", "w w"),
        node("Pad", "w w"),
        node("Resize", "w"),
        node("MatMul", "w w"),
        node("Add", "w w"),  # (N, 1) + (1, N)
        node("Cast", "w", "c") + node("Neg", "c", "d") + node("Expand", "d w"),
        node("Expand", "c w") + node("Cast", "w", "c"),  # in any order
        node("Range", ""),
    ],
)
def test_what_onnxruntime_would_compute_on_opening(tmp_path: Path, bomb: bytes) -> None:
    found = refused(tmp_path / "a.onnx", tensor("w", (1,)), tensor("shape", (1,)), bomb)
    assert "from constants alone" in found


def test_the_same_with_variable_inputs_passes(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    graph = node("Expand", "images w"), node("DequantizeLinear", "w w", "z"), tensor("w", (1,))
    path.write_bytes(message(GRAPH, *graph))
    with OpenModel(path) as model:
        check_graph(model)


def test_a_hostile_graph_is_refused_before_onnxruntime_sees_it(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = metadata_props(tiny)[METADATA_KEY].encode()
    props = message(PROPS, message(1, METADATA_KEY.encode()), message(2, text))
    path = tmp_path / "a.onnx"
    path.write_bytes(message(GRAPH, node("Loop")) + props)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *a, **k: pytest.fail("opened"))
    for backend in ("onnxruntime", "openvino"):
        if find_spec(backend) is None:
            continue
        with pytest.raises(ModelError, match="holds the operator Loop, which numclip-export never"):
            load(path, backend=backend)


def test_a_model_without_metadata_keeps_its_message(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(message(GRAPH, node("Loop")))
    with pytest.raises(ModelError, match="holds no numclip metadata"):
        load(tmp_path / "a.onnx")


HOSTILE = {
    "many fields": b"\x08\x01" * 1_000_000,
    "many nodes": message(GRAPH, node("Relu") * 200_000),
    "nodes of many fields": message(GRAPH, message(1, b"\x0a\x00" * 1_500_000)),
    "many dimensions": message(GRAPH, message(5, b"\x08\x02" * 90_000)),
    "packed dimensions": message(GRAPH, message(5, message(1, b"\xff" * 9_000_000))),
    "zeros": bytes(16_000_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_takes_little_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(HOSTILE[kind])
    started = time.process_time()
    with OpenModel(path) as model, pytest.raises(ModelError):
        check_graph(model)
    assert time.process_time() - started < 15


@pytest.mark.parametrize("name", ["a.onnx", "a.plan"])
@pytest.mark.posix("it limits the address space")
def test_four_sparse_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    head = b"\x08\x08" if name == "a.onnx" else b"ftrt" + bytes(24)
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "from numclip_runtime import ModelError, load\n"
        "try:\n    load(sys.argv[1])\n"
        "except ModelError as error:\n    print(error)\n"
        # not ru_maxrss, which begins with the peak of the process that forked this one
        "peak = [line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line]\n"
        "print(*peak)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    error, peak_kib = done.stdout.splitlines()
    assert error.startswith(f"{path}: ")
    assert int(peak_kib) < 300_000


def test_the_lists_have_no_operator_with_a_subgraph() -> None:
    control = {b"Loop", b"If", b"Scan", b"SequenceMap"}
    assert not control & (operators.STANDARD | operators.MICROSOFT)
    assert operators.NEVER_LARGER <= operators.STANDARD
