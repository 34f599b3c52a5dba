"""The description of the server's interface, for tools: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from numclip_runtime import __version__
from numclip_runtime.serve.serve_options import ServeOptions

_RECORD = {
    "type": "object",
    "required": ["path", "value", "unit", "interval", "bin", "bin_probs"],
    "properties": {
        "path": {"type": "string", "description": "The picture's name, as the client gave it."},
        "value": {"type": "number"},
        "unit": {"type": "string"},
        "interval": {
            "description": "It holds the true number in 9 of 10 images; null: not calibrated.",
            "oneOf": [
                {"type": "null"},
                {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            ],
        },
        "bin": {"type": "string", "description": "Phrase of the most probable bin."},
        "bin_probs": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "additionalProperties": False,
}
_FAILED = {
    "type": "object",
    "required": ["path", "error"],
    "properties": {"path": {"type": "string"}, "error": {"type": "string"}},
    "additionalProperties": False,
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "additionalProperties": False,
}
_STATUS = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}},
}
_BYTES = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _busy(description: str) -> dict[str, Any]:
    header = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
    return {**_json(description, _ref("Error")), "headers": {"Retry-After": header}}


def openapi(options: ServeOptions) -> dict[str, Any]:
    """Return the document of a server with these flags."""
    one_or_many = {"oneOf": [_ref("Record"), {"type": "array", "items": _ref("RecordOrFailed")}]}
    error = _ref("Error")
    unread = {"oneOf": [_ref("Failed"), error]}
    predict = {
        "summary": "Read a number off each picture.",
        "description": "Raw: the bytes of one picture, answered by one record. multipart/form-data:"
        " each part a picture, answered by a list, in order; those that cannot be read have an "
        f"error in it. At most {options.max_bytes} bytes and {options.max_images} pictures.",
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _BYTES,
                "application/octet-stream": _BYTES,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "additionalProperties": _BYTES["schema"],
                        "maxProperties": options.max_images,
                    }
                },
            },
        },
        "responses": {
            "200": _json("The record, or the list.", one_or_many),
            "400": _json("The body is empty or damaged.", error),
            "401": _json("The token is missing or wrong.", error),
            "403": _json("A page of another site sent it.", error),
            "408": _json("The body came too slowly.", error),
            "413": _json("Too many bytes, pixels or pictures.", unread),
            "415": _json("Not a picture that is read.", unread),
            "421": _json("Asked under another name than localhost.", error),
            "422": _json("A picture that is damaged.", _ref("Failed")),
            "429": _busy("The wait would be too long; nothing was computed."),
            "503": _busy("Not ready, or out of memory."),
        },
    }

    def read(summary: str, response: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"get": {"summary": summary, "responses": {"200": response, **more}}}

    text = {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    status = _ref("Status")
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "numclip serve", "version": __version__},
        "paths": {
            "/predict": {"post": predict},
            "/healthz": read("Whether the process answers.", _json("It does.", status)),
            "/readyz": read(
                "Whether it takes pictures.",
                _json("It does.", status),
                **{"503": _json("Warming up, draining, or broken.", status)},
            ),
            "/metrics": read("Numbers for Prometheus.", text),
            "/model": read("The model that answers.", _json("Its facts.", _ref("Model"))),
            "/openapi.json": read("This document.", _json("OpenAPI.", {"type": "object"})),
        },
        "components": {
            "schemas": {
                "Record": _RECORD,
                "Failed": _FAILED,
                "RecordOrFailed": {"oneOf": [_ref("Record"), _ref("Failed")]},
                "Error": _ERROR,
                "Status": _STATUS,
                "Model": {
                    "type": "object",
                    "required": ["file", "sha256", "task", "precision", "calibrated", "version"],
                    "properties": {
                        "file": {"type": "string"},
                        "sha256": {"type": "string"},
                        "task": {"type": "object"},
                        "precision": {"type": "string"},
                        "calibrated": {"type": "boolean"},
                        "version": {"type": "string"},
                    },
                },
            }
        },
    }
    if options.token_file is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            document["paths"][path]["get"]["security"] = []
    return document
