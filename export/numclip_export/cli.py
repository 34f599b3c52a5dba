"""`numclip-export`: from a checkpoint to verified model files, and to an engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from numclip_export.delivery.bundle import FleetBundle
from numclip_export.delivery.bundle_artefacts import bundle_summary
from numclip_export.delivery.hub import Publication, PublishError
from numclip_export.delivery.triton import TritonRepository
from numclip_export.delivery.web import WebPage
from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.engine.build_options import MAX_BATCH, EngineOptions
from numclip_export.flags import FLAGS, precision_of
from numclip_export.options import (
    ENGINE_ONLY,
    ONNX_ONLY,
    ExportOptions,
    Target,
    output_path,
    refuse_beside_bundle,
    refuse_beside_copies,
    refuse_of_export,
    refused_with_onnx,
    resolve_target,
    target_with_onnx,
)
from numclip_runtime import UsageError, __version__
from numclip_runtime.commands import GroupedCommand
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, say, show
from numclip_runtime.errors import require, require_installed
from numclip_runtime.model_files.given import is_model_name, require_checkpoint, require_images
from numclip_runtime.model_files.names import is_named_model, model_path

if TYPE_CHECKING:
    from numclip_export.export import ExportResult
    from numclip_runtime.metadata import Precision
    from numclip_runtime.model_files.bundle import Bundle


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "checkpoint.pt",
        "checkpoint.pt --int8 --target cpu -o models/",
        "checkpoint.pt --fp16 --card",
        "checkpoint.fp16.onnx --target tensorrt",
        "checkpoint.pt --bundle fleet/ --targets cpu,onnx-fp16",
    ),
)
@click.argument("source", type=FILE, required=False)
@FLAGS
@click.version_option(__version__)
def main(
    source: Path | None,
    ckpt: Path | None,
    onnx_path: Path | None,
    output: Path | None,
    target: Target,
    max_batch: int | None,
    data: Path | None,
    **given: Any,
) -> None:
    """Turn a checkpoint into ONNX files and engines, and prove that they equal it.

    SOURCE is a checkpoint of numclip-train; or an ONNX file of this command, of which an engine is
    built. The text tower is folded into the head.

    Exit codes: 0 written and equal, 1 different (nothing is left behind), 2 wrong use, 130, 143 or
    129 stopped by Ctrl-C, SIGTERM or SIGHUP.
    """
    with exit_on_error():
        short = {name: given.pop(name) for name in ("fp16", "int8", "bf16")}
        precision, bf16 = precision_of(given.pop("precision"), **short)
        exported = source is not None and (is_model_name(source) or is_named_model(source))
        if exported and onnx_path is None:
            source, onnx_path = None, source
        elif source is not None and ckpt is None:
            source, ckpt = None, source
        if source is not None or (ckpt is None) == (onnx_path is None):
            raise UsageError(
                "give one checkpoint (.pt), or one ONNX file (.onnx) to build an engine from."
            )
        flags = {name: given.pop(name) for name in ENGINE_ONLY}
        chosen = {name: value for name, value in flags.items() if value is not None}
        engine = EngineOptions(max_batch=max_batch, **chosen)
        named = onnx_path is not None and is_named_model(onnx_path)
        page = WebPage.of(given.pop("web"), given.pop("ort_web"), precision)
        triton = TritonRepository.of(given.pop("triton"), target, max_batch)
        copies = page is not None or triton is not None
        publication = Publication.of(given.pop("push"), given.pop("license"), given.pop("public"))
        names = ("bundle", "targets", "allow_missing")
        bundle = FleetBundle.of(*(given.pop(name) for name in names))
        if bundle is not None:
            refuse_beside_bundle()
            if onnx_path is not None:
                refuse_of_export()
                print_bundle(partial(bundle.of_onnx, model_path(onnx_path), engine))
            elif ckpt is not None:
                given |= images_of(given, data, bundle.precision) | {
                    "precision": bundle.precision,
                    "target": ONNX_ONLY,
                }
                batch = max_batch or MAX_BATCH
                options = ExportOptions(ckpt, bundle.folder / "x.onnx", **given, max_batch=batch)
                builders = bundle.resolve(engine)
                require_sources(options)
                print_bundle(partial(bundle.of_checkpoint, options, builders))
            return
        if publication is not None and onnx_path is not None:
            raise UsageError("--push needs --ckpt: an ONNX file does not contain its proof.")
        if onnx_path is not None:
            onnx_path = model_path(onnx_path)
        if onnx_path is not None and copies:
            refuse_beside_copies(page=page is not None)
            if triton is not None:
                triton.refuse_building()
                show(triton.write(onnx_path))
            if page is not None:
                show(page.write(onnx_path))
        elif onnx_path is not None:
            if any(short.values()) or data is not None:
                raise refused_with_onnx("precision" if any(short.values()) else "data")
            engine = replace(engine, target=target_with_onnx(target, card=given["card"]))
            plan = output_path(Path(onnx_path.name) if named else onnx_path, output, ".plan")
            print_engine(engine_from_onnx(onnx_path, plan, engine))
        elif ckpt is not None:
            given |= images_of(given, data, precision)
            if page is not None:
                page.package  # noqa: B018 (fetched before the minutes of an export)
            wanted = target
            if target == "auto" and (copies or bf16):
                wanted = "cpu" if bf16 and not copies else "onnx"
            resolved = resolve_target(wanted, precision, engine)
            path = output_path(ckpt, output, ".onnx")
            if triton is not None:
                kind = "" if precision == "fp32" else f".{precision}"
                triton.check(path.with_suffix(f"{kind}.onnx"))
            if publication is not None:
                publication.check()
            batch = max_batch or MAX_BATCH
            given |= {"precision": precision, "bf16": bf16, "target": resolved, "max_batch": batch}
            result = export(ExportOptions(ckpt, path, **given))
            if page is not None:
                show(page.write(result.files[-1].path))
            if triton is not None:
                show(triton.write_export(result))
            if publication is not None:
                push(publication, result)


def images_of(given: dict[str, Any], data: Path | None, precision: Precision) -> dict[str, Any]:
    """Return the options of the images: --data is for those that are not given."""
    return {
        "verify_data": given["verify_data"] or (data if given["verify"] else None),
        "calib_data": given["calib_data"] or (data if precision == "int8" else None),
    }


def print_bundle(write: Callable[[], Bundle]) -> None:
    """Write a bundle and print what is in it; exit with 1 if a file differs from the checkpoint."""
    started = time.perf_counter()
    try:
        written = write()
    except ArithmeticError as error:  # ParityError, whose module imports torch
        say(f"Error: {error}")
        sys.exit(1)
    show("\n".join(bundle_summary(written, time.perf_counter() - started)))


def push(publication: Publication, result: ExportResult) -> None:
    """Publish an export, or exit with 1."""
    try:
        show(publication.push(result))
    except PublishError as error:
        say(f"Error: {error}")
        sys.exit(1)


def require_sources(options: ExportOptions) -> None:
    """Refuse what is evidently no checkpoint or no images, and missing packages.

    Raises:
        NumclipError: naming it.
    """
    require_installed("export,cpu", "torch", "open_clip", "onnx", "onnxscript", "onnxruntime")
    require_checkpoint(
        options.ckpt, "give its checkpoint (.pt), or build an engine from it with --onnx"
    )
    require_images(options.verify_data)
    require_images(options.calib_data)
    require("export,cpu", "torch", "onnx", "onnxscript", "onnxruntime")


def export(options: ExportOptions) -> ExportResult:
    """Run an export, print its result and return it.

    Exits with 1 if a file differs from the checkpoint.
    """
    require_sources(options)

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
    return result


def print_engine(built: BuiltEngine) -> None:
    """Print the notes and the summary of an engine."""
    for note in built.notes:
        say(f"Note: {note}")
    show(built.summary())


if __name__ == "__main__":
    main()
