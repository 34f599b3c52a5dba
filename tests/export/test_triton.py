"""`numclip-export --triton`: the folder, its config against graph and protobuf, and refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from numclip_export import export as export_module
from numclip_export.cli import main
from numclip_export.delivery import triton_serving
from numclip_export.delivery.pbtxt import Message, Word, parsed, written
from numclip_export.delivery.triton_config import check_config
from numclip_export.graph.signature import read_signature
from numclip_runtime import ModelError, read_metadata
from numclip_runtime.files import sha256
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata
from numclip_runtime.model_files.names import packaged_models
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata
from tests.export.chain import Chain
from tests.runtime.plans import plan_bytes

TINY = Path(__file__).parents[1] / "data/tiny.onnx"
FACTS = EngineFacts("tensorrt", "10.13.2.6", None, 1, 8, 16, "0" * 64)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def message_of(config: Path) -> Any:
    """Return a config as Triton's own protobuf reads it."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(config.read_text("utf-8"), pb.ModelConfig())


def with_metadata(model: Path, **changes: Any) -> Path:
    """Change metadata inside an ONNX file."""
    content = onnx.load(model)
    (entry,) = [prop for prop in content.metadata_props if prop.key == METADATA_KEY]
    entry.value = replace(ModelMetadata.from_json(entry.value), **changes).to_json()
    onnx.save(content, model)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the smallest model."""
    return Path(shutil.copy(TINY, tmp_path / "a.b.onnx"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "a new" / "models"


def plan(folder: Path, facts: EngineFacts = FACTS, magic: bytes = b"ftrt") -> Path:
    path = folder / "p.plan"
    name = encode_metadata(read_metadata(TINY), facts)
    path.write_bytes(plan_bytes(name, magic, bytes((10, 13, 2, 6))))
    return path


def test_the_folder_of_an_onnx_file(model: Path, repository: Path) -> None:
    result = run(model, "--triton", repository)
    assert result.exit_code == 0, result.output
    folder = repository / "a_b"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"config.pbtxt", "bins.txt", "README.md", "1/model.onnx"}
    assert (folder / "1/model.onnx").read_bytes() == model.read_bytes()
    metadata = read_metadata(model)
    assert (folder / "bins.txt").read_text("utf-8").splitlines() == list(metadata.task.phrases)
    config = message_of(folder / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("a_b", "onnxruntime", 32)
    (images,), (values, probs) = config.input, config.output
    side, bins = metadata.preprocessing.crop, metadata.task.num_bins
    assert (images.name, list(images.dims)) == ("images", [3, side, side])
    assert (values.name, list(values.dims)) == ("values", [1])
    assert values.HasField("reshape")
    assert list(values.reshape.shape) == []
    assert (probs.name, list(probs.dims)) == ("bin_probs", [bins])
    assert probs.label_filename == "bins.txt"
    assert ModelMetadata.from_json(config.parameters["numclip"].string_value) == metadata
    assert config.parameters["numclip_sha256"].string_value == sha256(model)
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 32]
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size > 0
    assert policy.default_timeout_microseconds > 0
    assert policy.timeout_action == 0  # REJECT
    assert f"tritonserver --model-repository='{repository}'" in result.output


def test_a_packaged_model_for_a_cpu(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_serving, "usable_cores", lambda: 6)
    result = run("quality", "--triton", repository, "--target", "cpu", "--max-batch", "4")
    assert result.exit_code == 0, result.output
    config = message_of(repository / "quality" / "config.pbtxt")
    (group,) = config.instance_group
    assert (group.kind, group.count) == (group.KIND_CPU, 6)
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert list(config.dynamic_batching.preferred_batch_size) == [1]  # waiting ones stay apart
    assert config.max_batch_size == 4
    assert ModelMetadata.from_json(config.parameters["numclip"].string_value) == (
        read_metadata("quality")
    )
    again = run(repository / "quality/1/model.onnx", "--triton", repository)  # on itself
    assert again.exit_code == 0, again.output
    copied = (repository / "model/1/model.onnx").read_bytes()
    assert copied == packaged_models()["quality"].read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_export_of_a_checkpoint(
    chain: Chain,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(chain.graph)
    monkeypatch.setattr(export_module, "onnx_from_folded", lambda *args, **kwargs: graph)
    ckpt = shutil.copy(chain.ckpt, tmp_path / "a.pt")
    pixels = ("--input", "uint8") if precision == "fp16" else ()
    result = run("--ckpt", ckpt, "--precision", precision, *pixels, "--triton", repository)
    assert result.exit_code == 0, result.output
    suffix = "" if precision == "fp32" else f".{precision}"
    made = tmp_path / f"a{suffix}.onnx"
    folder = repository / f"a{suffix.replace('.', '_')}"
    assert (folder / "1/model.onnx").read_bytes() == made.read_bytes()
    side = read_metadata(made).preprocessing.crop
    (images,) = message_of(folder / "config.pbtxt").input
    if precision == "fp16":
        assert list(images.dims) == [side, side, 3]
        assert (images.format, images.data_type) == (images.FORMAT_NHWC, 2)  # TYPE_UINT8
    else:
        assert list(images.dims) == [3, side, side]
        assert (images.format, images.data_type) == (images.FORMAT_NCHW, 11)  # TYPE_FP32


def test_int8_for_a_cpu_runs_alone(model: Path, repository: Path) -> None:
    content = onnx.load(model)
    names = [content.graph.input[0].name, *("q", "scale", "zero")]
    node = onnx.helper.make_node("DynamicQuantizeLinear", names[:1], names[1:])
    content.graph.node.append(node)
    onnx.save(content, model)
    with_metadata(model, precision="int8", optimized_by="onnxruntime 1.32.0")
    result = run(model, "--triton", repository)
    assert result.exit_code == 0, result.output
    sentence = "this file has operators that onnxruntime 1.32.0 put in"
    assert f"Note: {sentence}" in result.output
    assert f"# {sentence}" in (repository / "a_b/config.pbtxt").read_text("utf-8")
    config = message_of(repository / "a_b/config.pbtxt")
    assert config.max_batch_size == 1  # its scales would depend on the neighbours
    assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]
    more = run(model, "--triton", repository, "--max-batch", "8")
    assert more.exit_code == 2
    assert "INT8 scales from all images of a batch" in more.output


def test_the_signature_is_that_of_the_onnx_package(chain: Chain) -> None:
    graph = chain.graph.graph
    with OpenModel(chain.done.onnx) as file:
        found = read_signature(file)
    names = onnx.TensorProto.DataType.Name
    for tensors, given in ((found.inputs, graph.input), (found.outputs, graph.output)):
        assert list(tensors) == [one.name for one in given]
        for one in given:
            shape = tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in one.type.tensor_type.shape.dim
            )
            kind = names(one.type.tensor_type.elem_type).lower().replace("float", "float32")
            assert (tensors[one.name].kind, tensors[one.name].shape) == (kind, shape)
    assert found.operators == {node.op_type for node in graph.node}


def test_a_plan(tmp_path: Path, repository: Path) -> None:
    result = run(plan(tmp_path), "--triton", repository)
    assert result.exit_code == 0, result.output
    folder = repository / "p"
    assert (folder / "1/model.plan").read_bytes() == (tmp_path / "p.plan").read_bytes()
    config = message_of(folder / "config.pbtxt")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    sentence = "this plan needs the Triton image with TensorRT 10.13.2.6; other versions refuse it."
    assert f"# {sentence}\n" in (folder / "config.pbtxt").read_text("utf-8")
    assert sentence[1:] in (folder / "README.md").read_text("utf-8")
    smaller = run(plan(tmp_path), "--triton", repository, "--max-batch", "4")
    assert smaller.exit_code == 0, smaller.output
    assert message_of(folder / "config.pbtxt").max_batch_size == 4


def test_another_form_of_the_same_name_takes_the_place(tmp_path: Path, repository: Path) -> None:
    onnx_file = Path(shutil.copy(TINY, tmp_path / "p.onnx"))
    assert run(onnx_file, "--triton", repository).exit_code == 0
    (repository / "p" / "1" / "mine.txt").write_text("stays")
    assert run(plan(tmp_path), "--triton", repository).exit_code == 0
    found = sorted(path.name for path in (repository / "p" / "1").iterdir())
    assert found == ["mine.txt", "model.plan"]


@pytest.mark.parametrize(
    ("facts", "magic", "more", "message"),
    [
        (FACTS, b"vtrt", (), "was built by TensorRT-RTX, which Triton does not have"),
        (replace(FACTS, builder="tensorrt-rtx"), b"ftrt", (), "was built by TensorRT-RTX"),
        (replace(FACTS, min_batch=2), b"ftrt", (), "was built for batches from 2"),
        (FACTS, b"ftrt", ("--max-batch", 17), "--max-batch 17 is more than the 16"),
        (FACTS, b"ftrt", ("--target", "cpu"), "a plan runs on a GPU"),
    ],
)
def test_plans_that_triton_cannot_run(
    tmp_path: Path,
    repository: Path,
    facts: EngineFacts,
    magic: bytes,
    more: tuple[object, ...],
    message: str,
) -> None:
    name = encode_metadata(read_metadata(TINY), facts)
    content = plan_bytes(name, magic, bytes((10, 13, 2, 6)))
    (tmp_path / "p.plan").write_bytes(content)
    result = run(tmp_path / "p.plan", "--triton", repository, *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not repository.exists()


EDITS = [
    ('name: "images"', 'name: "image"', "the inputs are image, and those of the graph are images"),
    ('name: "values"', 'name: "value"', "the outputs are value, bin_probs"),
    ("TYPE_FP32\n  format", "TYPE_UINT8\n  format", "'images' is TYPE_UINT8, and in the graph fl"),
    ("dims: [3, 8, 8]", "dims: [8, 8, 3]", "'images' has dims 8 x 8 x 3, and in the graph it is 3"),
    ("dims: [3, 8, 8]", "dims: [3, 8]", "'images' has dims 3 x 8,"),
    ("  dims: 3\n", "  dims: 4\n", "'bin_probs' has dims 4, and in the graph it is 3"),
    ("  reshape {}\n", "", "'values' has dims 1, and in the graph it is one number"),
    ("max_batch_size: 32", "max_batch_size: 0", "max_batch_size is 0"),
    ("max_batch_size: 32", "max_batch_size: 16", "a warm-up has a batch of 32"),
    ('label_filename: "bins.txt"', 'label_filename: "x"', "bin_probs has no label_filename"),
    ('key: "numclip"', 'key: "other"', "the parameter 'numclip' is not the metadata"),
    ("backend:", "backend;", "where a value"),
    ("instance_group {", "instance_group {{", "where a value or a field is expected"),
]


@pytest.mark.parametrize(("old", "new", "message"), EDITS, ids=[edit[2][:30] for edit in EDITS])
def test_a_config_that_contradicts_the_graph(
    model: Path, repository: Path, old: str, new: str, message: str
) -> None:
    assert run(model, "--triton", repository).exit_code == 0
    text = (repository / "a_b/config.pbtxt").read_text("utf-8")
    metadata = read_metadata(model)
    with OpenModel(model) as file:
        graph = read_signature(file)
    labels = list(metadata.task.phrases)
    check_config("config.pbtxt", text, labels, metadata, graph)
    with pytest.raises(ModelError, match=r"config.pbtxt: bins.txt has 4 lines, and the task has 3"):
        check_config("config.pbtxt", text, [*labels, "more"], metadata, graph)
    assert old in text
    with pytest.raises(ModelError) as caught:
        check_config("config.pbtxt", text.replace(old, new, 1), labels, metadata, graph)
    assert message in str(caught.value)


@pytest.mark.parametrize(("fixed", "most"), [(1, 1), (4, None)])
def test_a_graph_of_a_fixed_batch(
    model: Path, repository: Path, fixed: int, most: int | None
) -> None:
    content = onnx.load(model)
    for one in (*content.graph.input, *content.graph.output):
        one.type.tensor_type.shape.dim[0].dim_value = fixed
    onnx.save(content, model)
    result = run(model, "--triton", repository)
    if most is None:
        assert result.exit_code == 2
        assert "'images' is fixed to batches of 4, and Triton sends smaller ones" in result.output
        return
    assert message_of(repository / "a_b/config.pbtxt").max_batch_size == most


def test_refusals(model: Path, repository: Path, tmp_path: Path) -> None:
    foreign = repository / "a_b"
    foreign.mkdir(parents=True)
    (foreign / "config.pbtxt").write_text('name: "a_b"\n')
    own = tmp_path / "own" / "a_b" / "1"
    own.mkdir(parents=True)
    (own / "model.onnx").write_bytes(b"theirs")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "a_b").write_text("a file")
    for args, sentence in (
        ((model, "--triton", repository), "was not written by numclip-export"),
        ((model, "--triton", foreign), "is the folder of one model, for it holds config.pbtxt"),
        ((model, "--triton", tmp_path / "own"), "model.onnx: is in the way"),
        ((model, "--triton", taken), "is a file; --triton makes a folder of this name"),
        ((model, "--triton", model), "is a file; --triton takes a folder"),
        ((model, "--triton", tmp_path / "x", "--target", "tensorrt"), "build the plan first"),
        ((model, "--triton", tmp_path / "x", "--target", "tensorrt-rtx"), "does not run engines"),
        (
            (model, "--triton", tmp_path / "x", "--int8"),
            "--int8 has no use with --onnx and --triton",
        ),
        ((model, "--triton", tmp_path / "x", "--data", tmp_path), "--data has no use"),
        ((tmp_path / "no.onnx", "--triton", tmp_path / "x"), "no such file"),
        (("triton://h:1/m", "--triton", tmp_path / "x"), "a model on a server can only be run"),
    ):
        result = run(*args)
        assert result.exit_code == 2, args
        assert sentence in result.output, args
    assert (own / "model.onnx").read_bytes() == b"theirs"
    assert not (tmp_path / "x").exists()


def test_a_model_of_another_task_is_not_replaced(model: Path, repository: Path) -> None:
    assert run(model, "--triton", repository).exit_code == 0
    before = (repository / "a_b/config.pbtxt").read_bytes()
    with_metadata(model, task=replace(read_metadata(model).task, name="another"))
    result = run(model, "--triton", repository)
    assert result.exit_code == 2
    assert "config.pbtxt: is of a model that reads " in result.output
    assert (repository / "a_b/config.pbtxt").read_bytes() == before


def test_what_is_in_the_way_is_found_before_the_export(
    chain: Chain, repository: Path, tmp_path: Path
) -> None:
    foreign = repository / "a_fp16"
    foreign.mkdir(parents=True)
    (foreign / "config.pbtxt").write_text('name: "a_fp16"')
    ckpt = shutil.copy(chain.ckpt, tmp_path / "a.pt")
    result = run("--ckpt", ckpt, "--fp16", "--triton", repository)
    assert result.exit_code == 2
    assert "was not written by numclip-export" in result.output
    assert not list(tmp_path.glob("*.onnx"))


def test_a_failing_disk_leaves_the_former_folder(
    model: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(model, "--triton", repository).exit_code == 0
    before = {p: p.read_bytes() for p in repository.rglob("*") if p.is_file()}
    with_metadata(model, verified=True)
    real = Path.write_bytes

    def fails(self: Path, content: bytes) -> int:
        if "config" in self.name:
            raise OSError(28, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    result = run(model, "--triton", repository)
    assert result.exit_code == 2
    assert "No space left on device" in result.output
    assert {p: p.read_bytes() for p in repository.rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    assert run(model, "--triton", repository).exit_code == 0
    assert (repository / "a_b/1/model.onnx").read_bytes() == model.read_bytes()


def test_texts_of_every_kind_come_back() -> None:
    hard = 'quote " backslash \\ line\nend\ttab \x00 # no comment é 漢 {"a": [1]}'
    message: Message = {
        "a": [hard],
        "b": [1, -2],
        "c": [Word("true")],
        "d": [{"e": [hard]}, {}],
        "f": [],
    }
    assert parsed(written(message)) == {k: v for k, v in message.items() if v}
    text_format = pytest.importorskip("google.protobuf.text_format")
    pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = text_format.Parse(written({"name": [hard]}), pb.ModelConfig())
    assert config.name == hard
    assert parsed(text_format.MessageToString(config)) == {"name": [hard]}
