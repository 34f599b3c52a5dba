"""`mapper` in a real Spark: `make spark-test`. Needs Java."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from numclip_runtime.spark import mapper
from tests.runtime.conftest import invoke, records

sql: Any = pytest.importorskip("pyspark.sql")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("needs Java", allow_module_level=True)

COUNT = 50
# of pyspark 4.3 with pandas 3, and of its own imports
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Return a session of two workers that listens on loopback only."""
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.files.openCostInBytes", "0")
        .config("spark.sql.files.maxPartitionBytes", "64m")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT - 2):
        Image.new("RGB", (64, 48), (5 * number, number, 90)).save(folder / f"{number:04}.jpg")
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((folder / "0000.jpg").read_bytes()[:400])
    return sorted(map(str, folder.iterdir()))


def test_records_of_paths(spark: Any, tiny: Path, pictures: list[str], tmp_path: Path) -> None:
    read, out = mapper(tiny), tmp_path / "records"
    frame = spark.createDataFrame([(path,) for path in pictures], ["path"]).repartition(4)
    frame.mapInPandas(read, read.schema).write.parquet(str(out))
    rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    assert len(rows) == COUNT
    expected = {record["path"]: record for record in records(invoke(tiny, *pictures))}
    for row in rows:
        record = expected.pop(row["path"])
        assert {name: row[name] for name in record} == record
    assert not expected


def test_records_of_contents(spark: Any, tiny: Path, pictures: list[str]) -> None:
    read = mapper(tiny)
    files = spark.read.format("binaryFile").load(str(Path(pictures[0]).parent))
    rows = files.select("path", "content").mapInPandas(read, read.schema).collect()
    expected = {record["path"]: record for record in records(invoke(tiny, *pictures))}
    assert len(rows) == COUNT - 1  # Spark leaves the empty file out
    for row in rows:
        path = row["path"].removeprefix("file:")
        record = expected.pop(path)
        if "error" in record:
            assert row["error"] == f"file:{record['error']}"
        else:
            assert (row["value"], row["bin"]) == (record["value"], record["bin"])
            assert row["bin_probs"].asDict() == record["bin_probs"]
    assert [Path(path).name for path in expected] == ["empty.jpg"]


def test_a_model_that_a_worker_lacks(spark: Any, tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    shutil.copy(tiny, copy)
    read = mapper(copy)
    copy.unlink()
    frame = spark.createDataFrame([("a.jpg",)], ["path"]).mapInPandas(read, read.schema)
    with pytest.raises(Exception, match=r"copy\.onnx: no such file"):
        frame.collect()
