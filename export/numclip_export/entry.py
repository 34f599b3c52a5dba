"""Entry point of `numclip-export`; the command is in `numclip_export.cli`."""

from __future__ import annotations

from numclip_runtime.console import entry_point

export = entry_point("numclip_export.cli")
