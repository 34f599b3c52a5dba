"""`numclip serve`: read numbers off images that clients send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from numclip_runtime import __version__
from numclip_runtime.app.flags import SERVER, SERVER_MONITOR, speed_options
from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.backends import BackendName, DeviceKind, OpenOptions
from numclip_runtime.commands import GroupedCommand, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.serve.serve_options import ServeOptions

_D = ServeOptions()


def _seconds(flag: str, least: float, text: str) -> Any:
    default = getattr(_D, flag[2:].replace("-", "_"))
    kind = click.FloatRange(least, 86_400)
    return click.option(flag, type=kind, default=default, metavar="SECONDS", help=text)


def _number(flag: str, least: int, text: str) -> Any:
    default = getattr(_D, flag[2:].replace("-", "_"))
    return click.option(flag, type=click.IntRange(least), default=default, help=text)


ADDRESS = group(
    "Address",
    click.option("--model", "named_model", type=FILE, help="The model, in place of MODEL."),
    click.option(
        "--host",
        default=_D.host,
        help="Address to listen on. Other machines reach 0.0.0.0; it needs --token-file.",
    ),
    click.option("--port", type=click.IntRange(0, 65535), default=_D.port, help="0: a free one."),
    click.option(
        "--token-file", type=FILE, help="Clients must send the secret that stands in this file."
    ),
    click.option("--no-token", is_flag=True, help="Everybody who reaches --host may use it."),
)
LIMITS = group(
    "Limits",
    _seconds("--max-wait", 0, "Refuse (429) pictures that would wait longer for their turn."),
    _number("--max-bytes", 1, "Largest body of a request."),
    _number("--max-images", 1, "Most pictures in a request."),
    _number("--max-buffer", 1, "Most bytes of all bodies in memory."),
    _seconds("--read-timeout", 0.1, "Time in which a request must arrive."),
)
WORK = speed_options(batch="Most images", threads="1")
LIFE = group(
    "Life",
    _seconds("--reload-every", 0, "Look for a new model file this often; 0: never."),
    _seconds("--drain-delay", 0, "Time of `not ready` before the server stops to listen."),
    _seconds("--drain-timeout", 1, "Time for requests under way when it stops."),
    click.option("-q", "--quiet", is_flag=True, help="Print no line per request."),
)


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "model.onnx",
        "quality --port 9000 --max-wait 0.5",
        "model.onnx --host 0.0.0.0 --token-file token.txt",
    ),
)
@click.argument("model", required=False, type=FILE)
@ADDRESS
@LIMITS
@WORK
@SERVER
@SERVER_MONITOR
@LIFE
@click.version_option(__version__)
@click.pass_context
def main(
    context: click.Context,
    /,
    model: Path | None,
    named_model: Path | None,
    threads: int | None,
    fast_decode: bool,
    device: DeviceKind,
    backend: BackendName | None,
    bf16: bool | None,
    require_gpu: bool,
    sha256: str | None,
    monitor: Path | None,
    monitor_every: int | None,
    monitor_reference: Path | None,
    **flags: Any,
) -> None:
    """Answer HTTP requests with numbers read off their images.

    POST /predict takes the bytes of one picture, or several as multipart/form-data. The page at /
    takes photos that are dropped on it. A model file that is replaced is used at once.

    Exit codes: 2 wrong use or bad model; 130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP,
    after the requests under way were answered.
    """
    with exit_on_error():
        if model is not None and named_model is not None:
            context.fail("MODEL and --model are both given; leave one out.")
        if (path := named_model or model) is None:
            context.fail("Missing argument 'MODEL'.")
        opening = OpenOptions(
            threads=threads,
            device=device,
            backend=backend,
            sha256=sha256,
            require_gpu=require_gpu,
            fast_decode=fast_decode,
            bf16=bf16,
        )
        from numclip_runtime.serve.serving import serve  # numpy and the rest

        monitoring = MonitorOptions(monitor, monitor_every, monitor_reference)
        serve(path, ServeOptions(opening=opening, monitoring=monitoring, **flags))
