"""Try which of onnxruntime's providers load, each in a process of its own.

`get_available_providers` lists the providers that a build was compiled with. Missing libraries of
CUDA show only in a session: onnxruntime falls back to the CPU without raising an error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass

from numclip_runtime.backends.onnxruntime import load_cuda_packages
from numclip_runtime.model_files.onnx_file import message

TIMEOUT_S = 60.0  # TensorRT's provider loads in 5 to 20 s on a cold disk

# The smallest ONNX model, y = Relu(x) of one float, written without the onnx package
_FLOAT = message(1, b"\x08\x01", message(2, message(1, b"\x08\x01")))  # TypeProto: float32, (1,)
_NODE = message(1, message(1, b"x"), message(2, b"y"), message(4, b"Relu"))
_X, _Y = (
    message(number, message(1, name), message(2, _FLOAT))
    for number, name in ((11, b"x"), (12, b"y"))
)
TINY_MODEL = b"".join(
    (b"\x08\x08", message(7, _NODE, message(2, b"g"), _X, _Y), message(8, b"\x10\x0d"))
)  # ir_version 8, graph, opset 13


@dataclass(frozen=True)
class ProviderCheck:
    """The result of trying one provider."""

    name: str  # "CUDAExecutionProvider"
    problem: str | None  # None: it loads and computes


def check_providers() -> tuple[list[ProviderCheck], str | None]:
    """Try all providers of the installed onnxruntime.

    Returns:
        The checks, and the reason if there is none.
    """
    names, problem = _in_process("")
    if names is None:
        return [], problem
    # Azure's sends inputs to a server, and "works" everywhere
    here = [name for name in names if name != "AzureExecutionProvider"]
    return [ProviderCheck(name, _in_process(name)[1]) for name in here], None


def _in_process(provider: str) -> tuple[list[str] | None, str | None]:
    """Return the list that a process of `print_providers` prints, or why it did not."""
    command = [sys.executable, "-m", __name__, provider]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"did not answer within {TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return None, f"crashed (signal {-done.returncode})"
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return None, _last_words(done.stderr)
    if provider and provider not in found:
        return None, _last_words(done.stderr)
    return found, None


def _last_words(stderr: str) -> str:
    """Return the most informative line of a process's errors, without colours and places."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", stderr).strip().splitlines()
    missing = [line for line in lines if "cannot open shared object" in line or "No such" in line]
    line = (missing or lines or ["it gave no reason"])[-1]
    return line.rpartition("with error: ")[2].removeprefix("FAIL : ").strip()[:300]


def print_providers(provider: str) -> None:
    """Print the names of all providers, or of those that a session with one of them has.

    Args:
        provider: "" for all.
    """
    import numpy as np
    import onnxruntime as ort

    if not provider:
        print(json.dumps(ort.get_available_providers()))
        return
    load_cuda_packages(ort)  # as the backend does: pip may have installed them
    session = ort.InferenceSession(TINY_MODEL, providers=[provider])
    (output,) = session.run(None, {"x": np.array([-1.0], np.float32)})
    assert output.tolist() == [0.0]
    print(json.dumps(session.get_providers()))


if __name__ == "__main__":
    print_providers(sys.argv[1])
