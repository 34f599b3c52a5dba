"""An export in a process of its own that starts fast: its server has imported the packages.

Torch's exporter, which takes 3 s before the first byte is written, is left out: the graph is given.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import onnx

ARGS = ("--ckpt", "x.pt", "--fp16", "--target", "tensorrt-rtx", "--card")


def start(folder: Path, graph: Path) -> ForkServerProcess:
    """Start `numclip-export` in a folder that holds x.pt, whose float32 graph is in a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numclip_export.export", "onnxruntime"])
    process = context.Process(target=_export, args=(folder, graph))
    process.start()
    return process


def _export(folder: Path, graph: Path) -> None:
    for name in ("SIGTERM", "SIGHUP"):  # the server may have inherited that nohup ignores it
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    import numclip_export.export
    from numclip_export.cli import main

    module: Any = numclip_export.export
    module.onnx_from_folded = lambda *args, **options: onnx.load(graph)
    os.chdir(folder)
    with Path(os.devnull).open("w") as nothing:
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)
    main(ARGS)
