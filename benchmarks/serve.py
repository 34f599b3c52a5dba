"""Measure `numclip serve` under load: at multiples of what it manages, or for hours.

Run from the repository: `python benchmarks/serve.py model.onnx --images photos`, and for an hour of
mixed load `python benchmarks/serve.py model.onnx --soak 60`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.images import open_images
from benchmarks.bench.machine.environment import script_report
from benchmarks.bench.serving.offered_load import LoadRow, closed_loop, open_loop
from benchmarks.bench.serving.server_process import ServerProcess, server_process
from benchmarks.bench.serving.soak import Minute, soak, verdict
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.files import sha256
from numclip_runtime.model_files.names import model_path

TIMES = (0.5, 1.0, 1.5, 3.0)  # of the capacity
CAPACITY_CLIENTS = 4  # keep 2 workers busy
MOST_PICTURES = 64


@click.command(context_settings=SETTINGS)
@click.argument("model", type=FILE)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, help="Of each load.")
@click.option("--max-wait", type=click.FloatRange(0), default=0.5, help="Of the server.")
@click.option("--soak", "minutes", type=click.IntRange(4), help="Minutes of mixed load instead.")
@click.option("--share", type=click.FloatRange(0.01, 1), default=0.1, help="Of it: of capacity.")
@click.option("--json", "json_path", type=FILE, help="Write all results.")
def main(**options: Any) -> None:
    """Start a server of MODEL and put it under load from this process, on the same machine."""
    with exit_on_error():
        measure_server(**options, argv=sys.argv)


def measure_server(
    model: Path,
    *,
    images: Path | None = None,
    seconds: float = 10.0,
    max_wait: float = 0.5,
    minutes: int | None = None,
    share: float = 0.1,
    json_path: Path | None = None,
    argv: list[str],
) -> list[LoadRow] | list[Minute]:
    """Measure, print, and write the JSON.

    Args:
        model: Exported model, or the name of a packaged one.
        images: Folder; None makes synthetic images.
        seconds: Of each load.
        max_wait: Of the server, seconds.
        minutes: Of a soak; None: the loads.
        share: Of the capacity, during a soak.
        json_path: File for all results.
        argv: Command line, script first; named in the JSON.

    Raises:
        ModelError: if the server does not start.
    """
    about = {"name": model_path(model).name, "sha256": sha256(model_path(model))}
    flags = ["--max-wait", f"{max_wait}"]
    with script_report(json_path, argv) as write, open_images(images) as found:
        pictures = [Path(path).read_bytes() for path in found.paths[:MOST_PICTURES]]
        click.echo(f"{about['name']}; {found.about}")
        with server_process(str(model), flags) as server:
            capacity = asyncio.run(_capacity(server, pictures, seconds)).accepted_per_s
            click.echo(f"capacity {capacity:.1f} images/s, {CAPACITY_CLIENTS} clients")
            common = {"images": found.about, "model": about, "capacity_per_s": capacity}
            if minutes is not None:
                past = asyncio.run(
                    soak(
                        server, pictures, rate=share * capacity, minutes=minutes, told=_show_minute
                    )
                )
                judged = verdict(past)
                click.echo(f"\n{'flat' if judged.flat else 'NOT flat'}: {judged}")
                write(**common, share=share, minutes=past, verdict=judged)
                return past
            rows = asyncio.run(_loads(server, pictures, capacity, max_wait, seconds))
            write(**common, max_wait_s=max_wait, loads=rows)
            return rows


async def _capacity(server: ServerProcess, pictures: list[bytes], seconds: float) -> LoadRow:
    return await closed_loop(server, pictures, times=0, clients=CAPACITY_CLIENTS, seconds=seconds)


async def _loads(
    server: ServerProcess,
    pictures: list[bytes],
    capacity: float,
    max_wait: float,
    seconds: float,
) -> list[LoadRow]:
    click.echo(
        "\nloop    times  clients  offered/s  accepted/s  p50 ms  p99 ms  refused/s  RSS MiB"
    )
    rows = []
    full = math.ceil(capacity * max_wait) + CAPACITY_CLIENTS  # clients that fill the queue
    for times in TIMES:
        rows.append(
            await closed_loop(
                server, pictures, times=times, clients=math.ceil(times * full), seconds=seconds
            )
        )
        _show_row(rows[-1])
    for times in TIMES:
        rows.append(
            await open_loop(server, pictures, times=times, rate=times * capacity, seconds=seconds)
        )
        _show_row(rows[-1])
    return rows


def _show_row(row: LoadRow) -> None:
    click.echo(
        f"{row.loop:<6}  {row.times:>5}  {row.clients:>7}  {row.offered_per_s:>9.1f}  "
        f"{row.accepted_per_s:>10.1f}  {row.p50_ms:>6.0f}  {row.p99_ms:>6.0f}  "
        f"{row.refused_per_s:>9.1f}  {row.rss_mib:>7.0f}   {row.statuses}"
    )


def _show_minute(minute: Minute) -> None:
    click.echo(
        f"{minute.minute:>4}: {minute.requests:>5} requests, p50 {minute.p50_ms:.0f}, p99 "
        f"{minute.p99_ms:.0f} ms, RSS {minute.rss_mib:.1f} MiB, {minute.descriptors} descriptors, "
        f"{minute.threads} threads, {minute.cpu_share:.0%} of a core, {minute.statuses}"
    )


if __name__ == "__main__":
    main()
