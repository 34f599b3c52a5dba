"""What the server says of itself: OpenAPI, metrics, and the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime.files import sha256
from numclip_runtime.serve.openapi import openapi
from numclip_runtime.serve.serve_options import ServeOptions
from tests.serve.conftest import TINY, Running, ask, form, picture, running


def document(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = ask(server.port, "/openapi.json").json
    return found


def test_the_document_is_valid(server: Running, tmp_path: Path) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document(server))
    validator.validate(openapi(ServeOptions(token_file=tmp_path)))
    broken = document(server)
    del broken["paths"]["/predict"]["post"]["responses"]
    broken["info"].pop("title")
    with pytest.raises(validator.validation.exceptions.OpenAPIValidationError):
        validator.validate(broken)


def test_its_paths_are_those_of_the_server(server: Running) -> None:
    paths = document(server)["paths"]
    for path, methods in paths.items():
        for method in methods:
            body = picture() if method == "post" else None
            assert ask(server.port, path, body).status == 200


def test_answers_are_as_it_says(server: Running) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    found = document(server)
    responses = found["paths"]["/predict"]["post"]["responses"]
    several, kind = form([("a", picture()), ("b", b"no")])
    for body, given in (
        (picture(), "image/png"),
        (several, kind),
        (b"", "image/png"),
        (b"text", "image/png"),
        (b"x", "text/plain"),
        (picture(size=(64, 48))[:300], "image/png"),
    ):
        answer = ask(server.port, body=body, content_type=given)
        schema = responses[str(answer.status)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json, {**schema, "components": found["components"]})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"path": 1}, {**schema, "components": found["components"]})
    facts = ask(server.port, "/model").json
    jsonschema.validate(facts, {"$ref": "#/components/schemas/Model", **found})


def test_the_model(server: Running) -> None:
    facts = ask(server.port, "/model").json
    assert (facts["file"], facts["sha256"]) == ("tiny.onnx", sha256(TINY))
    assert facts["task"]["phrases"] == ["dark", "medium", "bright"]


@pytest.fixture
def fresh() -> Iterator[Running]:
    with running() as started:
        yield started


def metrics(server: Running) -> dict[str, float]:
    page = ask(server.port, "/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    rows = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", page.body.decode(), re.MULTILINE)
    return {name: float(value) for name, value in rows}


def test_metrics_count_what_happened(fresh: Running) -> None:
    for _ in range(3):
        ask(fresh.port, body=picture())
    ask(fresh.port, body=b"text")
    several, kind = form([("a", picture()), ("b", b"no"), ("c", picture())])
    ask(fresh.port, body=several, content_type=kind)
    ask(fresh.port, "/../etc")
    found = metrics(fresh)
    assert found['numclip_requests_total{route="/predict",status="200"}'] == 4
    assert found['numclip_requests_total{route="/predict",status="415"}'] == 1
    assert found['numclip_requests_total{route="other",status="404"}'] == 1
    assert found['numclip_images_total{outcome="predicted"}'] == 5
    assert found['numclip_images_total{outcome="failed"}'] == 2
    assert found["numclip_predict_seconds_count"] == 4
    assert found["numclip_decode_seconds_count"] == found["numclip_inference_seconds_count"] == 5
    assert found["numclip_requests_in_flight"] == 1  # this one
    assert found["numclip_images_waiting"] == found["numclip_body_bytes"] == 0
    assert found["numclip_images_per_second"] > 0
    info = next(name for name in found if name.startswith("numclip_model_info"))
    assert f'sha256="{sha256(TINY)}"' in info


def test_foreign_paths_make_no_new_rows(fresh: Running) -> None:
    before = len(metrics(fresh))
    for number in range(20):
        ask(fresh.port, f"/{number}")
    assert len(metrics(fresh)) <= before + 4  # one status, its time, and those of /metrics
