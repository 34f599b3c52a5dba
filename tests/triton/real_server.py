"""The tritonserver of the wheel nvidia-pytriton, on loopback; it has a Python backend only."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

STARTS_S = 120  # at most; 4 s on an idle machine


def wheel() -> Path:
    """Return the folder of the server."""
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tritonserver"


def adapt(folder: Path, **parameters: str) -> None:
    """Let Triton's Python backend run the ONNX file of a model; the rest of its config stays.

    Args:
        folder: Of the model.
        parameters: For `onnx_model.py`.
    """
    config = folder / "config.pbtxt"
    text = config.read_text("utf-8")
    for old, new in (
        ('backend: "onnxruntime"', 'backend: "python"'),
        ('default_model_filename: "model.onnx"', 'default_model_filename: "model.py"'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    for key, value in parameters.items():
        text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    config.write_text(text, "utf-8")
    shutil.copy(Path(__file__).with_name("onnx_model.py"), folder / "1" / "model.py")


@dataclass(frozen=True)
class RealServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    http: str  # host and port
    grpc: str
    log: Path

    def ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.http}/v2/health/ready") as a:
            return bool(a.status == 200)
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def backends(folder: Path) -> Path:
    """Make the folder of backends that this Python can run."""
    target = folder / "backends" / "python"
    shutil.copytree(wheel() / "backends" / "python", target)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel() / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, target)
    return target.parent


def environment() -> dict[str, str]:
    import sysconfig

    libraries = [str(wheel().parents[1] / "nvidia_pytriton.libs")]
    libraries += [str(sysconfig.get_config_var("LIBDIR"))]
    site = [path for path in sys.path if path.endswith("site-packages")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHONPATH": ":".join(site),
        "OMP_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(
    repository: Path, folder: Path, *extra: str, ports: tuple[int, int, int] | None = None
) -> Iterator[RealServer]:
    """Run a server until the block ends.

    Args:
        repository: Of models.
        folder: For its log and backends; made.
        extra: Options.
        ports: Of HTTP, gRPC and metrics; None: free ones.
    """
    folder.mkdir(parents=True)
    http, grpc, metrics = ports or (_free_port(), _free_port(), _free_port())
    command = [
        str(wheel() / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends(folder)}",
        *("--http-address=127.0.0.1", f"--http-port={http}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
        *("--exit-on-error=false", "--disable-auto-complete-config", *extra),
    ]
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
    server = RealServer(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    try:
        end = time.monotonic() + STARTS_S
        while not server.ready():  # all models are
            text = log.read_text("utf-8", "replace")
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()
