"""The work of a process of a cluster, without a cluster: the records are those of `numclip-run`."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime import ModelError, UsageError
from numclip_runtime.app.engines.ray_actor import FATAL, ChunkReader, Work
from numclip_runtime.app.engines.ray_cluster import Needs, room_for_actors
from numclip_runtime.backends import OpenOptions
from numclip_runtime.jobs.worker import WorkerModel
from numclip_runtime.spark import mapper
from tests.runtime.conftest import invoke, records

DIGEST = "0" * 64


@pytest.fixture
def broken(photos: Path) -> list[str]:
    """Return paths of pictures that can be read, of an empty, a cut and a missing one."""
    (photos / "empty.jpg").touch()
    (photos / "cut.jpg").write_bytes((photos / "light.jpg").read_bytes()[:300])
    names = ("dark.png", "empty.jpg", "light.jpg", "cut.jpg", "gone.jpg", "sub/mid.PNG")
    return [str(photos / name) for name in names]


def model_of(path: Path, **options: Any) -> WorkerModel:
    return WorkerModel(str(path), OpenOptions(threads=1, **options), workers=1)


def plain(found: object) -> Any:
    return json.loads(json.dumps(found))


def test_records_of_paths(tiny: Path, broken: list[str]) -> None:
    assert plain(model_of(tiny).records(broken)) == records(invoke(tiny, *broken))


def test_records_of_contents(tiny: Path, broken: list[str]) -> None:
    """Contents give the same records, messages with names included."""
    contents = [Path(path).read_bytes() if Path(path).exists() else None for path in broken]
    found = model_of(tiny).records(broken, contents)
    expected = records(invoke(tiny, *broken))
    gone = broken.index(next(path for path in broken if path.endswith("gone.jpg")))
    assert found[gone]["error"] == f"{broken[gone]}: has no content; give the bytes of its file."
    del found[gone], expected[gone]
    assert plain(found) == expected


def test_a_process_keeps_its_predictor(tiny: Path) -> None:
    first = model_of(tiny)
    again = pickle.loads(pickle.dumps(first))
    assert again.predictor() is first.predictor()
    assert model_of(tiny, fast_decode=True).predictor() is not first.predictor()


def test_another_model_on_a_worker_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"its SHA-256 is 4cb31f.*states 0000"):
        model_of(tiny, sha256=DIGEST).records(["a.jpg"])


@pytest.mark.parametrize(
    ("have", "free", "needs", "wanted", "expected"),
    [
        ({"CPU": 8}, {"CPU": 8}, Needs(), None, 8),
        ({"CPU": 8}, {"CPU": 5.5}, Needs(cpus=2), None, 2),
        ({"CPU": 8}, {"CPU": 8}, Needs(), 3, 3),
        ({"CPU": 2}, {"CPU": 2}, Needs(), 3, 2),
        ({"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}, Needs(gpus=1), None, 1),
        ({}, {}, Needs(), None, "needs 1 CPU, and the cluster has 0;"),
        ({"CPU": 2}, {"CPU": 2}, Needs(cpus=4), None, "needs 4 CPU, and the cluster has 2;"),
        ({"CPU": 4}, {"CPU": 0.5}, Needs(), 2, "has 4, and 4 of them are used by other jobs"),
        ({"CPU": 8}, {"CPU": 8}, Needs(gpus=1), None, "needs 1 GPU, and the cluster has 0;"),
    ],
)
def test_room_for_actors(
    have: dict[str, float],
    free: dict[str, float],
    needs: Needs,
    wanted: int | None,
    expected: int | str,
) -> None:
    if isinstance(expected, int):
        assert room_for_actors(have, free, needs, wanted) == expected
        return
    with pytest.raises(UsageError, match=expected):
        room_for_actors(have, free, needs, wanted)


def chunk_of(paths: list[str]) -> Any:
    arrow = pytest.importorskip("pyarrow")
    return arrow.table(
        {
            "index": list(range(len(paths))),
            "path": arrow.array([os.fsencode(path) for path in paths], arrow.binary()),
        }
    )


def test_an_actor_gives_the_local_records(
    tiny: Path, broken: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(broken[0]).parent
    odd = "h\udcff.png"
    Image.new("L", (8, 8), 40).save(folder / "plain.png")
    os.rename(folder / "plain.png", folder / odd)  # noqa: PTH104
    paths = [*(os.path.relpath(path, folder) for path in broken), odd]
    monkeypatch.chdir(tmp_path)
    reader = pickle.loads(pickle.dumps(ChunkReader(Work(model_of(tiny), str(folder)))))
    table = reader(chunk_of(paths))
    assert table["index"].to_pylist() == list(range(7))
    assert Path.cwd() == folder  # where the actor works now
    assert [json.loads(text) for text in table["record"].to_pylist()] == records(
        invoke(tiny, *paths)
    )


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (Work(model_of(Path("/gone.onnx")), None), "/gone.onnx: no such file"),
        (Work(model_of(Path("/gone.onnx")), "/gone"), "/gone: cannot enter this folder"),
    ],
)
def test_an_actor_says_why_it_cannot_work(work: Work, words: str) -> None:
    table = ChunkReader(work)(chunk_of(["/a.jpg", "/b.jpg"]))
    assert table["index"].to_pylist() == [FATAL]
    (sentence,) = table["record"].to_pylist()
    assert sentence.startswith(f"on {socket.gethostname()}: {words}")


def test_a_mapper_of_spark_on_frames_of_pandas(
    tiny: Path, broken: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pandas, arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    monkeypatch.chdir(tiny.parent)
    read = pickle.loads(pickle.dumps(mapper(tiny.name)))
    monkeypatch.chdir(tmp_path)  # a worker starts elsewhere
    frames = [pandas.DataFrame({"path": part}) for part in (broken[:2], broken[2:], [])]
    found = list(read(iter(frames)))
    assert [len(frame) for frame in found] == [2, 4, 0]
    # to Arrow as Spark does it
    rows = [
        row
        for frame in found
        for row in arrow.Table.from_pandas(frame, preserve_index=False).to_pylist()
    ]
    for row, record in zip(rows, records(invoke(tiny, *broken)), strict=True):
        assert {name: row[name] for name in record} == record
        assert all(row[name] is None for name in set(row) - set(record))
    contents = [Path(path).read_bytes() if Path(path).exists() else None for path in broken]
    (frame,) = read([pandas.DataFrame({"path": broken, "content": contents})])
    assert [str(error) for error in frame["error"] if error] == [
        f"{broken[1]}: the file is empty.",
        *(str(row["error"]) for row in rows if row["path"] == broken[3]),
        f"{broken[4]}: has no content; give the bytes of its file.",
    ]


def test_the_schema_of_spark_has_the_columns_of_parquet(tiny: Path, tmp_path: Path) -> None:
    parquet, out = pytest.importorskip("pyarrow.parquet"), tmp_path / "out.parquet"
    assert invoke(tiny, tmp_path / "gone.jpg", "-o", out).exit_code == 1
    names = {"int64": "bigint", "string": "string", "double": "double"}

    def ddl(kind: Any, quote: str) -> str:
        if not str(kind).startswith("struct"):
            return names[str(kind)]
        inner = ", ".join(f"{quote}{field.name}{quote}: {ddl(field.type, '')}" for field in kind)
        return f"struct<{inner}>"

    schema = parquet.read_schema(out)
    expected = ", ".join(
        f"{field.name} {ddl(field.type, '`' if field.name == 'bin_probs' else '')}"
        for field in schema
    )
    assert mapper(tiny).schema == expected


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("gone.onnx",), "gone.onnx: no such file"),
        (("tiny", DIGEST), "the given SHA-256 states 0000"),
    ],
)
def test_a_mapper_refuses_at_once(tiny: Path, args: tuple[str, ...], words: str) -> None:
    model = tiny if args[0] == "tiny" else args[0]
    with pytest.raises(ModelError, match=words):
        mapper(model, sha256=args[1] if len(args) > 1 else None)


def test_a_frame_without_paths(tiny: Path, make_frame: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="has the columns file, and no 'path'"):
        list(mapper(tiny)([make_frame({"file": ["a.jpg"]})]))


@pytest.fixture
def make_frame() -> Callable[..., Any]:
    """Return pandas.DataFrame."""
    frame: Callable[..., Any] = pytest.importorskip("pandas").DataFrame
    return frame
