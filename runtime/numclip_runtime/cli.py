"""Entry point of `numclip-run`; the command is in `numclip_runtime.app.cli`."""

from __future__ import annotations

from numclip_runtime.console import entry_point

main = entry_point("numclip_runtime.app.cli")
