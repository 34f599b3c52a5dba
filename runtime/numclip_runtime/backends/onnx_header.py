"""Read what an ONNX file says about itself without loading it, and without the onnx package."""

from __future__ import annotations

from pathlib import Path

from numclip_runtime.backends.protobuf import content_of, fields
from numclip_runtime.errors import ModelError
from numclip_runtime.metadata import METADATA_KEY, ModelMetadata

METADATA_PROPS = 14  # field of ModelProto: repeated (key, value)
KEY, VALUE = 1, 2  # fields of each of these


def metadata_of(model: Path) -> ModelMetadata | None:
    """Return what numclip wrote into an ONNX file; None for a file of others.

    Raises:
        ModelError: if it is damaged, or of a schema this version cannot read.
    """
    text = metadata_props(model).get(METADATA_KEY)
    return None if text is None else ModelMetadata.from_json(text, source=str(model))


def no_metadata(model: Path) -> ModelError:
    """Return the error for a file of others."""
    return ModelError(
        f"{model}: holds no numclip metadata, so its bins and preprocessing are unknown; "
        "make the file with `numclip-export --ckpt x.pt`."
    )


def metadata_props(model: Path) -> dict[str, str]:
    """Return the texts that an ONNX file carries, by key; empty if the file is no ONNX file.

    Walks the outermost protobuf fields and skips the graph: microseconds for any size.
    """
    found = {}
    with content_of(model) as data:
        try:
            for field in fields(data, 0, len(data)):
                if field.number == METADATA_PROPS:
                    entry = {
                        part.number: data[part.start : part.end].decode()
                        for part in fields(data, field.start, field.end)
                    }
                    found[entry[KEY]] = entry[VALUE]
        except (ValueError, KeyError):
            return {}
    return found
