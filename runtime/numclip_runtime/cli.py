"""Entry point of `numclip-run`; the command is in `numclip_runtime.app.cli`.

It is imported where signals, a lack of memory and a refused thread end as in the command itself.
"""

from __future__ import annotations

from typing import Any

from numclip_runtime.console import exit_on_error


def main(*args: Any, **extra: Any) -> Any:
    """Run the command; the arguments are those of `click.Command.main`."""
    with exit_on_error():
        from numclip_runtime.app.cli import main as command

        return command.main(*args, **extra)
