"""`numclip-export --push`: what arrives on a hub, which is a stand-in on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard

from numclip_export.cli import main
from numclip_runtime import load, read_metadata
from tests.export.fragile import save_fragile
from tests.runtime.standin_hub import OWNER_TOKEN, READER_TOKEN, Hub, Repository, standin_hub

pytest.importorskip("huggingface_hub")
# of the library's way to send a large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PUSH = ("--push", "owner/name", "--license", "apache-2.0")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with standin_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_what_is_pushed_runs_from_there(tmp_path: Path, hub: Hub) -> None:
    ckpt = save_fragile(tmp_path, 1)
    result = export(ckpt, "--fp16", "--target", "onnx", *PUSH)
    assert result.exit_code == 0, result.output
    repository = hub.repositories["owner/name"]
    assert repository.private
    commit = repository.names["main"]
    assert result.output.splitlines()[-2:] == [
        "pushed to owner/name (private)",
        f"to run it: numclip run hf://owner/name/model.fp16.onnx@{commit} photo.jpg",
    ]
    files = repository.commits[commit]
    assert set(files) == {"model.onnx", "model.fp16.onnx", "model.report.json", "README.md"}
    assert files["model.onnx"] == (tmp_path / "x.onnx").read_bytes()
    assert files["model.fp16.onnx"] == (tmp_path / "x.fp16.onnx").read_bytes()
    assert read_metadata(f"hf://owner/name/model.fp16.onnx@{commit}").precision == "fp16"
    photo = Path(__file__).parents[2] / "docs/demo.png"
    with load(f"hf://owner/name@{commit}", device="cpu") as there:
        found = there.predict(photo)
    with load(tmp_path / "x.onnx", device="cpu") as here:
        assert here.predict(photo).value == found.value


def test_the_card_of_a_repository(tmp_path: Path, hub: Hub) -> None:
    result = export(save_fragile(tmp_path, 1, {"mae": 2.5}), *PUSH, "--public")
    assert result.exit_code == 0, result.output
    assert not hub.repositories["owner/name"].private
    files = hub.repositories["owner/name"].files("main")
    assert files is not None
    card = files["README.md"].decode()
    assert "\nnumclip-run hf://owner/name@main photo.jpg\n" in card
    assert "its license" not in card
    front = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    assert (front["library_name"], front["license"]) == ("numclip", "apache-2.0")
    assert front["pipeline_tag"] == "image-classification"
    assert {"clip", "ordinal-regression", "onnx"} <= set(front["tags"])
    ((result,),) = (model["results"] for model in front["model-index"])
    assert result["dataset"]["name"] == "validation images of the training"
    assert result["metrics"][0]["value"] == 2.5
    report = json.loads(files["model.report.json"])
    assert [item["file"] for item in report["artefacts"]] == ["model.onnx"]


def test_a_readme_that_somebody_wrote_stays(tmp_path: Path, hub: Hub) -> None:
    hub.repositories["owner/name"] = Repository()
    hub.repositories["owner/name"].commit({"README.md": b"mine"})
    result = export(save_fragile(tmp_path, 1), *PUSH)
    assert result.exit_code == 0, result.output
    assert "pushed to owner/name (public); its README.md was kept, the new card is CARD.md" in (
        result.output
    )
    files = hub.repositories["owner/name"].files("main")
    assert files is not None
    assert files["README.md"] == b"mine"
    assert files["CARD.md"].startswith(b"---\nlibrary_name: numclip\n")


def test_a_token_that_may_not_write(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER_TOKEN)
    result = export(save_fragile(tmp_path, 1), *PUSH)
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "Error: --push owner/name: this token may not write there; log in as the owner with "
        "`hf auth login`; the files are complete here, and were not pushed.\n"
    )
    assert (tmp_path / "x.onnx").is_file()


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_unknown", "the hub does not know this token; log in with `hf auth login`"),
        (None, "nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN"),
    ],
)
def test_who_is_not_logged_in_hears_it_before_the_export(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, said: str
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    result = export(save_fragile(tmp_path, 1), *PUSH)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.glob("*.onnx"))


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    result = export(save_fragile(tmp_path, 1), *PUSH)
    assert result.exit_code == 2
    assert "--push owner/name: the hub cannot be reached (" in result.stderr
    assert result.stderr.endswith("; nothing was exported.\n")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m.pt", "--push", "name", "--license", "mit"), "which is OWNER/NAME"),
        (("m.pt", "--push", "owner/name"), "--push needs the licence of the model"),
        (("m.pt", "--license", "mit"), "--license is for --push OWNER/NAME"),
        (("m.pt", "--public"), "--public is for --push OWNER/NAME"),
        (("m.onnx", *PUSH), "--push needs --ckpt"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str) -> None:
    result = export(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
