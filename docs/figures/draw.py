"""Draw the documentation's diagrams: `python docs/figures/draw.py` writes them beside itself.

Each is an SVG for light and one for dark pages. At most 480 units wide, so that their words can be
read on a telephone; figures of runs come from `benchmarks/results`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
WIDTH = 480


@dataclass(frozen=True)
class Theme:
    """Colours of a page: Okabe and Ito's, which all eyes can tell apart."""

    name: str
    ink: str
    soft: str
    line: str
    box: str
    blue: str
    orange: str


LIGHT = Theme("light", "#1f2328", "#59636e", "#9aa4ae", "#f3f6f9", "#0072b2", "#d55e00")
DARK = Theme("dark", "#e8e8ea", "#a9aeb8", "#6b7280", "#262a33", "#56b4e9", "#e69f00")


class Drawing:
    """Shapes of one picture."""

    def __init__(self, theme: Theme, height: int, title: str) -> None:
        self.theme, self.height, self.title = theme, height, title
        self.parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 14,
        anchor: str = "start",
        colour: str | None = None,
        bold: bool = False,
    ) -> None:
        """Write words with their baseline at y; `anchor` says which of their ends is at x."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour or self.theme.ink}"{weight}>{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, words: Sequence[str]) -> None:
        """Draw a box of lines; the first is bold."""
        height = 16 + 18 * len(words)
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="6" '
            f'fill="{self.theme.box}" stroke="{self.theme.line}"/>'
        )
        for i, line in enumerate(words):
            style = {"size": 14, "bold": True} if i == 0 else {"size": 12}
            colour = None if i == 0 else self.theme.soft
            self.text(x + width / 2, y + 21 + 18 * i, line, anchor="middle", colour=colour, **style)  # type: ignore[arg-type]

    def bar(self, x: float, y: float, width: float, colour: str, *, height: float = 14) -> None:
        """Draw a bar that begins at x."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 1):g}" height="{height:g}" rx="2" '
            f'fill="{colour}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, arrow: bool = False) -> None:
        """Draw a line, or an arrow to its second end."""
        end = ' marker-end="url(#a)"' if arrow else ""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" '
            f'stroke="{self.theme.line}" stroke-width="1.5"{end}/>'
        )

    def svg(self) -> str:
        """Return the file."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
                f'width="{WIDTH}" height="{self.height}" role="img" '
                'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
                'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" '
                f'fill="{self.theme.line}"/></marker></defs>',
                *self.parts,
                "</svg>\n",
            ]
        )


def chain(theme: Theme) -> Drawing:
    """Draw the way from labelled images to a record."""
    out = Drawing(theme, 262, "From labelled images to numbers: train, export, run")
    out.box(10, 10, 190, ["images + labels", "CSV, folder, tars"])
    out.box(280, 10, 190, ["checkpoint.pt", "weights, bins, intervals"])
    out.box(280, 108, 190, ["model.onnx", "describes itself"])
    out.box(10, 108, 190, ["fp16, INT8, engine", "if proved and faster"])
    out.box(280, 202, 190, ["value, interval, bin", "no PyTorch"])
    out.line(200, 36, 276, 36, arrow=True)
    out.text(238, 28, "train", anchor="middle", size=13, colour=theme.blue)
    out.line(375, 62, 375, 104, arrow=True)
    out.text(383, 80, "fold, export,", size=13, colour=theme.blue)
    out.text(383, 95, "compare", size=13, colour=theme.blue)
    out.line(276, 134, 204, 134, arrow=True)
    out.line(375, 160, 375, 198, arrow=True)
    out.text(383, 184, "run", size=13, colour=theme.blue)
    out.line(105, 160, 105, 228)
    out.line(105, 228, 276, 228, arrow=True)
    out.text(190, 221, "run", anchor="middle", size=13, colour=theme.blue)
    return out


def model(theme: Theme) -> Drawing:
    """Draw how a photo becomes a number: the bins' probabilities, then their mixture."""
    out = Drawing(
        theme, 250, "A photo is compared with one sentence per bin; the bins give a number"
    )
    out.box(6, 84, 112, ["photo"])
    out.box(6, 150, 112, ["image tower", "CLIP, adapter"])
    out.line(62, 118, 62, 146, arrow=True)
    out.line(118, 172, 150, 150, arrow=True)
    out.text(160, 20, "the person is a …", size=13, colour=theme.soft)
    out.text(470, 20, "probability", size=13, anchor="end", colour=theme.soft)
    rows = (("child", 0.0), ("teenager", 0.05), ("young adult", 0.61), ("middle adult", 0.33))
    for i, (phrase, share) in enumerate((*rows, ("older adult", 0.01))):
        y = 34 + 30 * i
        out.text(160, y + 14, phrase)
        out.bar(262, y + 2, 160 * share, theme.blue)
        out.text(470, y + 14, f"{share:.2f}", anchor="end")
    out.line(160, 196, 470, 196)
    out.text(160, 222, "34.2 years", bold=True, size=17, colour=theme.orange)
    out.text(272, 216, "each bin adds its own number,", size=12, colour=theme.soft)
    out.text(272, 232, "weighted by its probability", size=12, colour=theme.soft)
    return out


def losses(theme: Theme) -> Drawing:
    """Draw the probabilities that each ranking loss learns of an uncertain image."""
    out = Drawing(theme, 226, "Probabilities that each loss learns where the truth is .6, .3, .1")
    kinds = (
        ("plain, rps", "the truth", (0.6, 0.3, 0.1)),
        ("corrected", "same bin", (0.518, 0.379, 0.103)),
        ("released", "wrong bin", (0.140, 0.698, 0.162)),
    )
    out.text(10, 20, "What an image of bin 0, 1, 2 with .6, .3, .1 is taken for", size=13)
    for i, (name, words, shares) in enumerate(kinds):
        x, right = 10 + 160 * i, shares[0] == max(shares)
        for k, share in enumerate(shares):
            colour = theme.blue if right or share != max(shares) else theme.orange
            height = 115 * share / 0.7
            out.bar(x + 44 * k, 166 - height, 34, colour, height=height)
            out.text(x + 44 * k + 17, 160 - height, f"{share:.2f}", size=12, anchor="middle")
        out.line(x - 2, 166, x + 126, 166)
        out.text(x + 62, 188, name, anchor="middle", bold=True)
        out.text(x + 62, 206, words, size=12, anchor="middle", colour=theme.soft)
    return out


def interval(theme: Theme) -> Drawing:
    """Draw two predictions of one value whose intervals differ."""
    out = Drawing(theme, 168, "The interval is wider where the bins disagree")
    left, scale = 20, 4.4
    edges = (0, 13, 19, 35, 65, 100)
    out.line(left, 130, left + 100 * scale, 130)
    for edge in edges:
        out.line(left + edge * scale, 126, left + edge * scale, 134)
        out.text(left + edge * scale, 150, str(edge), size=12, anchor="middle", colour=theme.soft)
    out.text(left + 100 * scale, 165, "years", size=12, anchor="end", colour=theme.soft)
    for y, words, half in ((36, "one bin has 97 %", 5), (92, "three bins share", 17)):
        out.bar(left + (34 - half) * scale, y, 2 * half * scale, theme.blue, height=8)
        out.bar(left + 34 * scale - 2, y - 4, 4, theme.orange, height=16)
        label = f"{words}: 34 years, {34 - half} to {34 + half}"
        out.text(left, y - 14, label, size=13)
    return out


def speed(theme: Theme) -> Drawing:
    """Draw the times of a ViT-B/32, batch 1, from the kept run."""
    rows = json.loads((RESULTS / "latency-vit-b-32.json").read_text("utf-8"))["rows"]
    times = {row["name"]: row["stages_ms"]["inference"]["p50"] for row in rows if row["batch"] == 1}
    shown = (
        "numclip INT8, onnxruntime",
        "numclip bf16, OpenVINO",
        "torch bf16",
        "numclip fp32, OpenVINO",
        "plain ONNX, OpenVINO",
        "torch eager",
    )
    out = Drawing(theme, 40 + 30 * len(shown), "Milliseconds for one image, ViT-B/32")
    out.text(10, 20, "ViT-B/32, one image, 2 CPU cores: ms, the network alone", size=13)
    longest = max(times[name] for name in shown)
    for i, name in enumerate(shown):
        y = 36 + 30 * i
        own = name.startswith("numclip")
        out.text(10, y + 14, name, size=13)
        out.bar(215, y + 2, 215 * times[name] / longest, theme.orange if own else theme.blue)
        out.text(223 + 215 * times[name] / longest, y + 14, f"{times[name]:.0f}", size=13)
    return out


def figures() -> Iterator[tuple[str, str]]:
    """Yield each file's name and content."""
    for draw in (chain, model, losses, interval, speed):
        for theme in (LIGHT, DARK):
            yield f"{draw.__name__}-{theme.name}.svg", draw(theme).svg()


if __name__ == "__main__":
    for name, content in figures():
        (HERE / name).write_text(content, "utf-8")
