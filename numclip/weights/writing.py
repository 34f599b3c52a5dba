"""Write weights files; an error is always that of the system, such as a full disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from numclip.weights.reading import METADATA_KEY
from numclip_runtime.errors import causes


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain settings and tensors as `torch.load(weights_only=True)` reads them.

    Raises:
        OSError: of the system.
    """
    try:
        # Given a name, torch writes by itself, and has no reason to tell if that fails
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch ends the archive even then, and fails a second time
        for cause in causes(error):
            if isinstance(cause, (OSError, MemoryError, KeyboardInterrupt)):
                raise cause from None
        raise


def write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as `read_content` returns it: "state_dict" as tensors, the rest as JSON.

    Raises:
        OSError: of the system.
    """
    header = {k: v for k, v in content.items() if k != "state_dict"}
    tensors = {k: v.contiguous() for k, v in content["state_dict"].items()}
    try:
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header, ensure_ascii=False)})
    except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from None
