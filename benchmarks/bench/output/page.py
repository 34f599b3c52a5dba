"""The HTML report of a latency run: one page that stands alone.

No script and nothing from elsewhere: pictures are inline SVG, and a content security policy in the
page forbids the rest. It takes light or dark from the reader's system, and fits a telephone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.bench.output.state_facts import state_facts
from benchmarks.bench.output.table import filled
from benchmarks.bench.plots.picture import panel_svg, panels_of
from benchmarks.bench.plots.theme import with_names
from benchmarks.bench.results import Document, Row
from numclip_runtime.console import visible
from numclip_runtime.errors import require
from numclip_runtime.files import atomic_text

_TITLES = {
    "distribution": "Latency distribution",
    "stages": "Time per stage",
    "batches": "Throughput and latency by batch size",
    "fidelity": "Speed against fidelity",
}


def write_html(document: Document, path: Path) -> None:
    """Write the report; names, notes and all other text are escaped.

    Raises:
        MissingDependencyError: if Jinja2 or matplotlib, which draws the pictures, is not installed.
        UsageError: if there is no row, or `path` cannot be written.
    """
    require("bench", "jinja2")
    require("plot", "matplotlib")
    page = _template().render(_content(document))
    with atomic_text(path) as file:
        file.write(page + "\n")


def _template() -> Any:
    from jinja2 import Environment
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else visible(value)

    environment = Environment(autoescape=True, finalize=finalize)  # no loader: one file
    return environment.from_string(Path(__file__).with_name("page.html.j2").read_text("utf-8"))


def _content(document: Document) -> dict[str, object]:
    from markupsafe import Markup

    house = resources.files("numclip_runtime.app").joinpath("gallery.css")
    own = Path(__file__).with_suffix(".css")
    rows = sorted(with_names(document.rows), key=lambda row: row.batch)
    models = list(dict.fromkeys(row.model for row in rows))
    more = f" and {len(models) - 3} more" if len(models) > 3 else ""
    figures = []
    for name in panels_of(rows):
        label = f' aria-label="{_TITLES[name]}" '
        figure = {}
        for kind in ("wide", "narrow"):
            svg = panel_svg(document, name, narrow=kind == "narrow")
            figure[kind] = Markup(svg.replace("<svg ", f'<svg class="{kind}"{label}', 1))
        figures.append(figure)
    return {
        "subject": ", ".join(models[:3]) + more,
        "style": Markup(house.read_text("utf-8") + own.read_text("utf-8")),
        "environment": document.environment,
        "count": len(rows),
        "warnings": document.state.warnings,
        "results": page_table(rows, "page"),
        "stages": page_table(rows, "stages"),
        "figures": figures,
        "state": list(state_facts(document.state.before, document.state.after)),
        "settings": list(_settings(document)),
        "notes": document.notes,
    }


def page_table(rows: Sequence[Row], sheet: str) -> dict[str, object]:
    """Return columns for the template, and for each row whether a new batch size starts there."""
    columns = []
    for heading, left, cells in filled(rows, sheet):
        title, _, small = heading.partition("|")
        columns.append({"heading": title, "small": small, "left": left, "cells": cells})
    sizes = [row.batch for row in rows]
    starts = [i > 0 and size != sizes[i - 1] for i, size in enumerate(sizes)]
    return {"columns": columns, "starts": starts}


def _settings(document: Document) -> Iterator[tuple[str, object]]:
    environment = document.environment
    yield from (("numclip", environment.numclip), ("Python", environment.python))
    yield "System", environment.platform
    yield from sorted(environment.versions.items())
    yield "Images", f"{environment.images.count} x {environment.images.name}"
    for key in ("threads", "iterations", "duration", "rounds"):
        if (value := getattr(environment, key)) is not None:
            yield key.capitalize(), value
    if environment.reload:
        yield "Turns", environment.turns
    ceilings = (document.ceilings_gflops or {}).items()
    known = [f"{name} {value:,.0f}" for name, value in ceilings if value is not None]
    if known:
        yield "Ceiling, 10⁹ operations/s", ", ".join(known)
    unsettled = dict.fromkeys(row.name for row in document.rows if not row.warmup.stable)
    if unsettled:
        yield "Not yet steady after the warm-up", ", ".join(unsettled)
