"""The model card: the report of an export as a Markdown page to publish with the files."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from numclip.evaluation.timing import images_per_run
from numclip_export.engine.build import capability_text
from numclip_runtime.console import visible


def model_card(report: dict[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        report: The export's report, as read back from JSON; the card contains nothing else.
    """
    return _template().render(report=report)


@cache
def _template() -> Template:
    """Return the template, in which every expression is escaped unless a filter marks it safe."""
    environment = Environment(
        finalize=lambda value: value if isinstance(value, Markup) else md(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # that is for HTML
    )
    environment.filters.update(
        capabilities=capability_text,
        images_per_run=images_per_run,
        json=lambda value, ascii=True: Markup(json.dumps(value, ensure_ascii=ascii)),
        number=lambda value, form="%.2g": "not finite" if value is None else form % value,
        shell=lambda value: Markup(shlex.quote(value)),
        visible=visible,
    )
    return environment.from_string(Path(__file__).with_name("card.md.j2").read_text("utf-8"))


def md(value: object) -> str:
    """Escape Markdown's markup; control and bidi characters become visible, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", visible(value))
