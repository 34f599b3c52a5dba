"""A process that has imported one command and forks a child for each request: 0.1 s, not 4 s.

It is started with the shim of `shim.c` preloaded. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import ImageFile

HANDLERS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
MAINS = {
    "run": "numclip_runtime.app.cli",
    "export": "numclip_export.cli",
    "train": "numclip.cli.train",
    "distill": "numclip.cli.distill",
    "eval": "numclip.cli.evaluate",
}
# What the commands import once they work
PRELOAD = {
    "run": ("numclip_runtime.app.run", "onnxruntime"),
    "export": ("numclip_export.export", "onnxruntime"),
    "train": ("numclip.training.fit", "numclip.evaluation.calibration"),
    "distill": ("numclip.distillation.judgement", "numclip.distillation.student"),
    "eval": ("numclip.evaluation.predictions", "onnxruntime"),
}


def main() -> None:
    """Answer requests until standard input ends."""
    command = sys.argv[1]
    for name in (MAINS[command], *PRELOAD[command]):
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(request, command)  # leaves by sys.exit: the interpreter ends as it always does
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def _child(request: dict[str, Any], command: str) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        handle = os.open(request[name], flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(request["folder"])
    for signum, handler in HANDLERS.items():  # nohup and background jobs ignore some
        signal.signal(signum, handler)
    if request["graph"]:
        _give_graph(request["graph"])
    if request["fault"]:
        _arm(request["fault"], Path(request["count"]))
    entry = importlib.import_module(MAINS[command]).main
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.argv = [f"numclip-{command}", *request["args"]]
    if request["input_rate_s"]:
        _slow_decoding(request["input_rate_s"])
    if command == "run":
        entry()
        sys.exit(0)
    _leave_fast(entry)


def _leave_fast(entry: Callable[[], None]) -> None:
    """Leave as multiprocessing's children do: taking torch apart module by module takes 3 s."""
    code = 0
    try:
        entry()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _arm(fault: dict[str, Any], count: Path) -> None:
    shim = ctypes.CDLL(None)
    main_thread = threading.get_ident()

    def report() -> None:
        if threading.get_ident() == main_thread:
            found = shim.fault_count()
            shim.fault_arm(b"", 0, 0, 0, b"")
            count.write_text(str(found))

    atexit.register(report)
    shim.fault_arm(
        fault["call"].encode(),
        fault["errno"],
        fault["nth"],
        int(fault["sticky"]),
        fault["path"].encode(),
    )


def _give_graph(path: str) -> None:
    """Leave out torch's exporter, which takes 3 s before the first byte is written."""
    import onnx

    import numclip_export.export as module

    vars(module)["onnx_from_folded"] = lambda *args, **options: onnx.load(path)


def _slow_decoding(seconds: float) -> None:
    """Make every photo take its time, so that a run of a few photos can be disturbed."""
    import time

    real = ImageFile.ImageFile.load

    def load(self: Any) -> Any:
        time.sleep(seconds)
        return real(self)

    ImageFile.ImageFile.load = load  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
