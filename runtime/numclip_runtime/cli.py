"""Entry point of `numclip-run`; the command is in `numclip_runtime.app.cli`."""

from numclip_runtime.app.cli import main

__all__ = ["main"]
