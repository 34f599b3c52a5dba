"""The HTML report of a latency run: one page that stands alone.

No script and nothing from elsewhere: pictures are inline SVG, and a content security policy in the
page forbids the rest. It takes light or dark from the reader's system, and fits a telephone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks import html_tables
from benchmarks.bench.plots.picture import check_matplotlib, panel_svg
from benchmarks.bench.plots.theme import PAPER, STAGES
from benchmarks.panels import layout
from benchmarks.panels.names import with_names
from numclip_runtime.app.gallery_card import escape
from numclip_runtime.files import atomic_text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# Of Theme.stages and Theme.series where the page is dark
_DARK_STAGES = ("#e69f00", "#8fd0f5", "#e59cc4", "#3d8fe0", "#8d96a1", "#2fbf93")
_DARK_SERIES = ("#5fb0ff", "#ff9a57", "#3fcf9f", "#e79fd0", "#8fd8ff", "#e0b84a", "#c8ced6")
_TITLES = {
    "distribution": "Latency distribution",
    "stages": "Time per stage",
    "batches": "Throughput and latency by batch size",
    "fidelity": "Speed against fidelity",
}
_KEY = (
    "Times of a batch, the whole path from file to value; nothing is clipped. Times as fast: of "
    "inference alone, by paired rounds, median and quartiles. Cosine and value off: against "
    "the reference in float32. Ceiling: share of the machine's matrix products."
)


def write_html(document: Mapping[str, Any], path: Path) -> None:
    """Write the report.

    Args:
        document: Of schema 2. Names, notes and all other text in it are escaped.
        path: File to write; appears only when complete.

    Raises:
        MissingDependencyError: if matplotlib, which draws the pictures, is not installed.
        UsageError: if there is no row, or `path` cannot be written.
    """
    check_matplotlib()
    page = "\n".join(_parts(document))
    with atomic_text(path) as file:
        file.write(page + "\n")


def _parts(document: Mapping[str, Any]) -> Iterator[str]:
    environment, state = document["environment"], document["state"]
    rows = with_names(document["rows"])
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Latency of {escape(_subject(rows))}</title>\n"
        f"<style>\n{_style()}</style>\n</head>\n<body>\n<main>"
    )
    count = f"{len(rows)} measurement{'s' * (len(rows) != 1)}"
    lead = " · ".join(escape(part) for part in (environment["cpu"], environment["date"], count))
    yield (
        f"<header>\n<h1>Latency of {escape(_subject(rows))}</h1>\n"
        f'<p class="lead">{lead}</p>\n</header>'
    )
    yield _warnings(state["warnings"])
    yield (
        f'<section class="panel">\n<h2>Results</h2>\n{html_tables.results(rows)}\n'
        f'<p class="key">{escape(_KEY)}</p>\n'
        f"<details>\n<summary>Stages, p50</summary>\n{html_tables.stages(rows)}\n</details>\n"
        "</section>"
    )
    yield '<div class="figures">'
    for name in layout.filled(rows):
        yield _figure(document, name)
    yield "</div>"
    yield '<div class="overview">'
    yield (
        '<section class="panel machine">\n<h2>The machine, before → after</h2>\n'
        f"{html_tables.state(state['before'], state['after'])}\n</section>"
    )
    yield '<section class="panel machine">\n<h2>How it was measured</h2>'
    yield f'<div class="scroll"><pre>{escape(environment["command"])}</pre></div>'
    yield f"{html_tables.pairs(_conditions(document))}\n</section>"
    yield "</div>"
    if document["notes"]:
        notes = "\n".join(f"<li>{escape(note)}</li>" for note in document["notes"])
        yield f'<section class="panel notes">\n<h2>Notes</h2>\n<ul>\n{notes}\n</ul>\n</section>'
    yield "</main>\n</body>\n</html>"


def _subject(rows: Sequence[Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    return ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")


def _warnings(found: Sequence[str]) -> str:
    if not found:
        return '<p class="calm">Nothing was seen on the machine that spoils these numbers.</p>'
    lines = "\n".join(f"<li>{escape(text)}</li>" for text in found)
    return (
        '<section class="panel warnings" role="note">\n<h2>Do not trust these numbers yet</h2>\n'
        f"<ul>\n{lines}\n</ul>\n</section>"
    )


def _figure(document: Mapping[str, Any], name: str) -> str:
    label = f' aria-label="{_TITLES[name]}" '
    versions = []
    for kind in ("wide", "narrow"):
        svg = panel_svg(document, name, narrow=kind == "narrow")
        versions.append(svg.replace("<svg ", f'<svg class="{kind}"{label}', 1))
    return f'<figure class="panel figure">\n{versions[0]}\n{versions[1]}\n</figure>'


def _conditions(document: Mapping[str, Any]) -> list[tuple[str, object]]:
    environment = document["environment"]
    rows: list[tuple[str, object]] = [("numclip", environment["numclip"])]
    rows += [("Python", environment["python"]), ("System", environment["platform"])]
    rows += sorted(environment["versions"].items())
    images = environment.get("images")
    if isinstance(images, Mapping):
        count = f"{images['count']} x " if images.get("count") else ""
        rows.append(("Images", f"{count}{images.get('name', '')}"))
    elif images:
        rows.append(("Images", images))
    for key in ("threads", "iterations", "duration", "rounds"):
        if environment.get(key) is not None:
            rows.append((key.capitalize(), environment[key]))
    ceilings = document["ceilings_gflops"] or {}
    known = [f"{name} {value:,.0f}" for name, value in ceilings.items() if value is not None]
    if known:
        rows.append(("Ceiling, 10⁹ operations/s", ", ".join(known)))
    unsettled = [row["name"] for row in document["rows"] if _unsettled(row)]
    if unsettled:
        rows.append(("Not yet steady after the warm-up", ", ".join(dict.fromkeys(unsettled))))
    return rows


def _unsettled(row: Mapping[str, Any]) -> bool:
    warmup = row.get("warmup") or {}
    return warmup.get("stable") is False


def _style() -> str:
    house = resources.files("numclip_runtime.app").joinpath("gallery.css").read_text("utf-8")
    own = Path(__file__).with_suffix(".css").read_text("utf-8")
    light, dark = (
        _variables(stages, series)
        for stages, series in ((PAPER.stages, PAPER.series), (_DARK_STAGES, _DARK_SERIES))
    )
    return (
        f"{house}{own}:root {{\n{light}}}\n"
        f"@media (prefers-color-scheme: dark) {{\n:root {{\n{dark}}}\n}}\n"
    )


def _variables(stages: Sequence[str], series: Sequence[str]) -> str:
    named = [*zip((f"stage-{stage}" for stage in STAGES), stages, strict=True)]
    named += [(f"series-{i}", colour) for i, colour in enumerate(series)]
    return "".join(f"  --{name}: {colour};\n" for name, colour in named)
