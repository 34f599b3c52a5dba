"""`numclip-export`: from a checkpoint to verified model files, and to an engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.engine.build_options import MAX_BATCH, EngineOptions
from numclip_export.flags import export_flags
from numclip_export.options import (
    ENGINE_ONLY,
    ExportOptions,
    Target,
    output_path,
    refuse_beside_page,
    resolve_target,
    target_with_onnx,
)
from numclip_export.web import WebPage
from numclip_runtime import UsageError, __version__
from numclip_runtime.console import SETTINGS, Command, exit_on_error, say, show
from numclip_runtime.errors import require, require_installed

if TYPE_CHECKING:
    from numclip_export.export import ExportResult


@click.command(cls=Command, context_settings=SETTINGS)
@export_flags
@click.version_option(__version__)
def main(
    ckpt: Path | None,
    onnx_path: Path | None,
    output: Path | None,
    target: Target,
    max_batch: int | None,
    **given: Any,
) -> None:
    """Fold the text tower into the head, write ONNX and engines, and prove what was written.

    Exit codes: 0 written and equal, 1 different (nothing is left behind), 2 wrong use, 130, 143 or
    129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    with exit_on_error():
        if (ckpt is None) == (onnx_path is None):
            raise UsageError("give either --ckpt, or --onnx to build an engine from an ONNX file.")
        flags = {name: given.pop(name) for name in ENGINE_ONLY}
        chosen = {name: value for name, value in flags.items() if value is not None}
        engine = EngineOptions(max_batch=max_batch, **chosen)
        page = WebPage.of(given.pop("web"), given.pop("ort_web"), given["precision"])
        if onnx_path is not None and page is not None:
            refuse_beside_page()
            show(page.write(onnx_path))
        elif onnx_path is not None:
            engine = replace(engine, target=target_with_onnx(target, card=given["card"]))
            plan = output_path(onnx_path, output, ".plan")
            print_engine(engine_from_onnx(onnx_path, plan, engine))
        elif ckpt is not None:
            if page is not None:
                page.package  # noqa: B018 (fetched before the minutes of an export)
            wanted = "onnx" if page is not None and target == "auto" else target
            resolved = resolve_target(wanted, given["precision"], engine)
            path = output_path(ckpt, output, ".onnx")
            batch = max_batch or MAX_BATCH
            model = export(ExportOptions(ckpt, path, target=resolved, max_batch=batch, **given))
            if page is not None:
                show(page.write(model))


def export(options: ExportOptions) -> Path:
    """Run an export, print its result and return the last ONNX file.

    Exits with 1 if a file differs from the checkpoint.
    """
    require_installed("export,cpu", "torch", "open_clip", "onnx", "onnxscript", "onnxruntime")
    require("export,cpu", "torch", "onnx", "onnxscript", "onnxruntime")

    from numclip_export.export import run_export
    from numclip_export.parity import ParityError
    from numclip_export.report import summary

    def print_files(files: ExportResult) -> None:
        show("\n".join([*summary(files.details), options.target.note]))

    try:
        result = run_export(options, print_files)
    except ParityError as error:
        say(f"Error: {error}")
        sys.exit(1)
    if result.engine_missing is not None:
        say(f"Note: no engine was built here: {result.engine_missing}")
    if result.engine is not None:
        print_engine(result.engine.built)
        show(f"{result.engine.built.plan}: {result.engine.verification}")
    elif not options.for_cpu and options.precision != "fp32":
        name = result.files[-1].path.name
        show(f"on the target: numclip-export --onnx {name} --target tensorrt")
    show(f"see {result.report}{f' and {result.card.name}' if result.card else ''}")
    return result.files[-1].path


def print_engine(built: BuiltEngine) -> None:
    """Print the notes and the summary of an engine."""
    for note in built.notes:
        say(f"Note: {note}")
    show(built.summary())


if __name__ == "__main__":
    main()
