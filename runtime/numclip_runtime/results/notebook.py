"""A prediction as HTML for a notebook: small, light and dark, and without any style of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.images.decode import ImageLike
from numclip_runtime.results.thumbnail import escape, thumbnail

MOST_BARS = 8  # of more bins, the most probable ones
MOST_CHARS = 60  # characters of a phrase or name
BAR = "#3b7ddd"  # has a contrast of at least 3 to white and to a notebook's dark ground
FAINT = "rgba(128,128,128,.25)"


def html_of(found: Mapping[str, Any], path: str | None, picture: ImageLike | None) -> str:
    """Return picture, number with unit, interval, and a bar for each bin.

    Colours are those of the notebook's text, and a blue that suits both grounds.

    Args:
        found: The JSON form of a prediction.
        path: Of its image; None: not known.
        picture: The image, in place of its file.
    """
    image = ""
    if path is not None or picture is not None:
        image = f'<div style="flex:none">{thumbnail(path or "picture", picture)}</div>'
    unit = f' <span style="font-size:15px;font-weight:400">{_short(found["unit"])}</span>'
    lines = [
        '<div style="font-size:26px;font-weight:600;line-height:1.2">'
        f"{number_text(found['value'])}{unit if found['unit'] else ''}</div>"
    ]
    if found["interval"] is not None:
        low, high = map(number_text, found["interval"])
        share = f"{DEFAULT_COVERAGE:.0%}"
        lines.append(f'<div style="opacity:.75">{low} to {high} ({share} interval)</div>')
    lines += ['<div style="margin:8px 0">', *_bars(found["bin_probs"], found["bin"]), "</div>"]
    if path is not None:
        lines.append(
            f'<div style="opacity:.65;font-size:12px" title="{escape(path)}">'
            f"{_short(path, end=True)}</div>"
        )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start;'
        'font:14px/1.4 system-ui,sans-serif;max-width:640px;padding:4px">'
        f'{image}<div style="flex:1 1 240px;min-width:0;overflow-wrap:anywhere">'
        f"{''.join(lines)}</div></div>"
    )


def number_text(value: float) -> str:
    """Return a number for people: four digits, all of those before the point."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _bars(probs: Mapping[str, float], chosen: str) -> list[str]:
    rows = list(probs.items())
    shown = rows
    if len(rows) > MOST_BARS:
        best = set(sorted(probs, key=lambda phrase: -probs[phrase])[:MOST_BARS])
        shown = [row for row in rows if row[0] in best]
    lines = []
    for phrase, share in shown:
        width = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
        strong = "600" if phrase == chosen else "400"
        lines.append(
            '<div style="display:flex;gap:8px;align-items:center">'
            f'<span style="flex:0 1 40%;font-weight:{strong}" title="{escape(phrase)}">'
            f"{_short(phrase)}</span>"
            f'<span style="flex:1 1 0;height:9px;border-radius:3px;background:{FAINT}">'
            f'<span style="display:block;height:9px;border-radius:3px;width:{width:.1f}%;'
            f'background:{BAR}"></span></span>'
            f'<span style="flex:0 0 3em;text-align:right">{share:.0%}</span></div>'
        )
    if len(rows) > len(shown):
        lines.append(f'<div style="opacity:.65">and {len(rows) - len(shown)} other bins</div>')
    return lines


def _short(text: str, *, end: bool = False) -> str:
    """Return a text escaped, and cut at its end, or at its beginning to keep the end."""
    if len(text) > MOST_CHARS:
        text = f"…{text[1 - MOST_CHARS :]}" if end else f"{text[: MOST_CHARS - 1]}…"
    return escape(text)
