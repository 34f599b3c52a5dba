"""The sections of the model card that say what was measured, and what was not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numclip_export.markdown import md, table

Report = dict[str, Any]
METRICS = {"mae": "mean absolute error", "rmse": "root mean squared error"}  # label units


def number(value: float | None, form: str = ".2g") -> str:
    """Return a measured number; None is what JSON has for NaN."""
    return "not finite" if value is None else f"{value:{form}}"


def parity(report: Report) -> Iterator[str]:
    """Yield how far each file is from the checkpoint."""
    task, compared = report["task"], None
    rows: list[tuple[str, ...]] = []
    unit = f" {md(task['unit'])}" if task["unit"] else ""
    percent = 100 / (task["bin_edges"][-1] - task["bin_edges"][0])
    for item in _files(report):
        if found := item.get("parity"):
            compared, cosine = found, found["min_feature_cosine"]
            largest, mean = found["max_value_error"], found["mean_value_error"]
            share = "" if largest is None else f" ({largest * percent:.2g} % of the range)"
            allowed = f"{found['value_tolerance']:.2g}{unit}"
            rows.append(
                (
                    md(item["file"]),
                    f"{number(largest)}{unit}{share}",
                    f"{number(mean)}{unit}",
                    f"{allowed} {'in the mean' if found['judged_by'] == 'mean' else 'at most'}",
                    number(found["max_prob_error"]),
                    "not measured" if cosine is None else f"{cosine:.5f}",
                )
            )
        else:
            reason = "not verified on hardware" if "builder" in item else "not verified"
            rows.append((md(item["file"]), reason, *["-"] * 4))
    if compared:
        synthetic, photos = compared["images"] - compared["photos"], compared["photos"]
        images = [
            *([f"{photos} {compared['source']} images"] if photos else []),
            *([f"{synthetic} synthetic images"] if synthetic else []),
        ]
        yield (
            f"Compared on {' and '.join(images)}, in batches of "
            f"{', '.join(map(str, compared['batch_sizes']))}: differences of values and "
            "probabilities, and the lowest mean-centred cosine of the image features.\n"
        )
    header = ("file", "largest value error", "mean", "allowed", "largest probability error")
    yield from table((*header, "cosine"), rows)


def _files(report: Report) -> list[Report]:
    return [*report["artefacts"], *([report["engine"]] if "engine" in report else [])]


def float32(report: Report) -> Iterator[str]:
    """Yield what was kept in float32, and what made that necessary."""
    for item in report["artefacts"]:
        if parts := item.get("fp32_nodes"):
            yield f"- {md(item['file'])}: {', '.join(map(md, parts))}."
            yield "  The head multiplies rounding by exp(logit scale), so it always stays."
        for step in item.get("widening", []):
            verdict = "enough" if step["passed"] else "not enough"
            error = number(step["max_value_error"])
            yield f"  - {md(step['step'])} in float32: {verdict}, largest value error {error}"


def int8(report: Report) -> Iterator[str]:
    """Yield how INT8 was calibrated, and whether it is accurate and fast."""
    unit = f" {md(report['task']['unit'])}" if report["task"]["unit"] else ""
    for item in report["artefacts"]:
        if item["precision"] != "int8":
            continue
        found, accuracy, speed = item["calibration"], item.get("accuracy"), item.get("speed")
        layers = f"- {item['int8_layers']} layers, {item['form']} ranges"
        yield f"{layers}; calibrated on {found['images']} {found['source']} images."
        if accuracy:
            yield (
                f"- Mean absolute error on {accuracy['images']} labelled images: "
                f"{accuracy['mae_int8']:.3g}{unit}, in float32 {accuracy['mae_fp32']:.3g}{unit}."
            )
        else:
            yield "- Accuracy against labels: not measured."
        if speed:
            yield (
                f"- One image, median: {speed['int8_ms']:.2f} ms, in {speed['baseline']} "
                f"{speed['baseline_ms']:.2f} ms ({md(speed['backend'])}; {md(report['machine'])})."
            )
        else:
            yield f"- Speed: {md(item.get('speed_note', 'not measured'))}."


def validation(report: Report) -> Iterator[str]:
    """Yield the checkpoint's metrics and what its intervals promise."""
    before = report["checkpoint"]
    unit = f" {md(report['task']['unit'])}" if report["task"]["unit"] else ""
    if before["metrics"]:
        yield "Of the checkpoint on its validation images:\n"
        for name, value in before["metrics"].items():
            form = number(value, ".3f") + (unit if name in METRICS else "")
            yield f"- {md(METRICS.get(name, name.replace('_', ' ')))}: {form}"
    else:
        yield "The checkpoint holds no metrics."
    if fitted := before["calibration"]:
        covers = ", ".join(f"{100 * share:g} %" for share in fitted["coverages"])
        yield (
            f"\nCalibrated on {fitted['images']} images: temperature {fitted['temperature']:.3f} "
            f"of the probabilities, intervals for coverages of {covers or 'none'}. Intervals hold "
            "for images like the validation images, not for others."
        )
    else:
        yield "\nNot calibrated: predictions have no interval."


def limits(report: Report) -> Iterator[str]:
    """Yield what is not known."""
    if "engine" in report and not report["engine"].get("parity"):
        yield "- The engine is not verified on hardware: it was not run where it was built."
    elif any(item["precision"] != "fp32" for item in report["artefacts"]):
        yield "- Not verified on the hardware that it is for."
    if not all(item["verified"] for item in report["artefacts"]):
        yield "- Files that are not verified were never compared with the checkpoint."
    yield "- Images unlike the validation images: errors and intervals are unknown."
    yield "- Class balance is unknown: bins with few training images may be read worse."
    yield "- Every image gets a number, also one that shows nothing of the kind."
