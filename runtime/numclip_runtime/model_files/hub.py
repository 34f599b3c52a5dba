"""Models on the Hugging Face hub: one ONNX file of a pinned revision, kept in the hub's cache."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from numclip_runtime.errors import ModelError, UsageError, first_line, import_extra

DEFAULT_FILE = "model.onnx"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(f"{_PART}/{_PART}")
_PLACE = re.compile(
    rf"hf:/{{1,2}}(?P<repository>{_PART}/{_PART})(?P<file>(?:/{_PART})+)?(?:@(?P<revision>[^@\s]+))?"
)
FORM = "hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE.onnx@REVISION"


def hub_file(place: str) -> Path:
    """Return an ONNX file of a repository, downloaded unless it is in the cache.

    A network is needed once. Only ONNX files are downloaded: a checkpoint's pickle and a plan are
    code that would run.

    Args:
        place: "hf://OWNER/NAME@REVISION", which means its model.onnx, or
            "hf://OWNER/NAME/FILE.onnx@REVISION". The revision is a commit, which stays what it is,
            or a tag or branch. HF_ENDPOINT names another hub.

    Raises:
        UsageError: if the name is incomplete, or of another kind of file.
        MissingDependencyError: if the extra `hub` is not installed.
        ModelError: if there is no such file, or it cannot be fetched.
    """
    found = _PLACE.fullmatch(place)
    shown = re.sub("^hf:/+", "hf://", place)
    if found is None:
        raise UsageError(f"{shown}: not the name of a model on a hub, which is {FORM}.")
    repository, revision = found["repository"], found["revision"]
    file = (found["file"] or f"/{DEFAULT_FILE}")[1:]
    if not file.lower().endswith(".onnx"):
        raise UsageError(
            f"{shown}: only ONNX files are loaded from a hub, since other kinds could run code; "
            "name a file that ends in .onnx."
        )
    if revision is None:
        raise UsageError(
            f"{shown}: does not say which revision, so the model could change from one day to "
            f"the next; give its commit (or a tag, or main): {shown}@COMMIT"
        )
    hub, errors = hub_library()
    try:
        return Path(
            hub.hf_hub_download(
                repository,
                file,
                revision=revision,
                # the library reads both when it is imported, which may have been before
                endpoint=hub_address(),
                cache_dir=os.environ.get("HF_HUB_CACHE"),
            )
        )
    except errors.GatedRepoError:
        reason = "it is shown only to those who asked its owner; log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private; log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the repository has no revision {revision}"
    except errors.LocalEntryNotFoundError:
        reason = "it is not in the cache, and the hub cannot be reached"
    except errors.EntryNotFoundError:
        reason = f"the repository has no file {file} at this revision"
    except Exception as error:  # of the HTTP client, the server or the disk
        reason = f"it cannot be fetched ({first_line(error)})"
    raise ModelError(f"{shown}: {reason}.")


def is_repository(name: str) -> bool:
    """Return whether a name is of the form OWNER/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def hub_address() -> str | None:
    """Return the address of the hub that HF_ENDPOINT names; None: that of huggingface.co."""
    return os.environ.get("HF_ENDPOINT")


def hub_library() -> tuple[Any, Any]:
    """Return `huggingface_hub` and its errors; it counts no use, and draws bars on terminals only.

    Raises:
        MissingDependencyError: if the extra `hub` is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    hub = import_extra("hub", "huggingface_hub")
    utils = import_extra("hub", "huggingface_hub.utils")
    if sys.stderr is None or not sys.stderr.isatty():
        utils.disable_progress_bars()
    return hub, import_extra("hub", "huggingface_hub.errors")
