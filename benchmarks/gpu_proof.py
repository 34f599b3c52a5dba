"""Prove on a GPU what tests on a CPU cannot show, in one command of at most 9 minutes.

Run from the repository: `python benchmarks/gpu_proof.py --out DIR`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.gpu.checks import Settings
from benchmarks.bench.gpu.proof import (
    PART_LETTERS,
    PROOF_FILE,
    Proof,
    chosen_parts,
    read_proof,
    run_proof,
)
from benchmarks.bench.gpu.proof_page import REHEARSAL, part_lines
from benchmarks.bench.gpu.stand_in import compile_driver
from numclip_runtime.console import SETTINGS, exit_on_error
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.errors import GpuRequiredError, UsageError, require

MINUTES = 9.0


def parse_letters(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Turn "a,c" into ("a", "c"), each the letter of a part."""
    if text is None:
        return None
    letters = tuple(dict.fromkeys(text.replace(",", "")))
    if not letters or set(letters) - set(PART_LETTERS):
        raise click.BadParameter(
            f"{text!r} is no list of parts; choose from {','.join(PART_LETTERS)}.", param=parameter
        )
    return letters


@click.command(context_settings=SETTINGS)
@click.option("--only", callback=parse_letters, help="Parts, such as a,c.  [default: all]")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=MINUTES,
    show_default=True,
    help="Of all parts together.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/gpu-proof"),
    show_default=True,
    help=f"Folder of {PROOF_FILE} and of the parts' files.",
)
@click.option("--rehearse", is_flag=True, help="On the CPU, with a stand-in for the driver.")
def main(only: tuple[str, ...] | None, minutes: float, out: Path, rehearse: bool) -> None:
    """Prove the parts that need a GPU; what has been found is kept if one ends early.

    A second call with the same --out replaces the results of its own parts, and keeps the others.

    Parts: a CUDA driver by ctypes, b ONNX on the CUDA provider, c latency beside torch, d lanes and
    timeline, e TensorRT-RTX, f training.

    Exit codes: 0 all passed, 1 a part failed, 2 wrong use or no GPU.
    """
    with exit_on_error():
        proof = prove(only, minutes=minutes, out=out, rehearse=rehearse, argv=sys.argv)
        if not proof.passed:
            sys.exit(1)


def prove(
    only: tuple[str, ...] | None, *, minutes: float, out: Path, rehearse: bool, argv: list[str]
) -> Proof:
    """Run the parts, and print a line for each.

    Raises:
        GpuRequiredError: if there is no GPU and this is no rehearsal.
        UsageError: if the folder cannot be written, or there is no compiler for a rehearsal.
    """
    require("bench", "psutil", "jinja2")
    driver = probe_cuda()
    if not rehearse and driver.problem is not None:
        raise GpuRequiredError(
            f"no GPU can be used: {driver.problem}; go to a machine with one, or try the parts on "
            "this CPU with --rehearse."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made ({error.strerror}).") from None
    found = out / PROOF_FILE
    earlier = read_proof(found) if found.exists() else None
    with tempfile.TemporaryDirectory(prefix="numclip-gpu-proof-") as work:
        if rehearse:
            click.echo(REHEARSAL)
            compile_driver(Path(work))
        else:
            click.echo(f"{driver.devices[0].name}, {minutes:g} minutes at most")
        models = Path(work) / "models"
        models.mkdir()
        settings = Settings(rehearse, work, str(out.resolve()), str(models), 60 * minutes)
        proof = run_proof(
            chosen_parts(only),
            settings,
            argv=argv,
            on_part=lambda part: click.echo("\n".join(part_lines(part))),
            earlier=earlier,
        )
    click.echo(f"{found}: {'all passed' if proof.passed else 'not all passed'}.")
    return proof


if __name__ == "__main__":
    main()
