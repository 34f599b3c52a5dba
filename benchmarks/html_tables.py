"""Tables of the HTML report: results, stages, and the machine's state before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bench.plots.theme import STAGES, Row, number
from benchmarks.state.ticks import share
from numclip_runtime.app.gallery_card import escape

NONE = "-"
Cell = Callable[[Row], str]


def _stage(stage: str, statistic: str) -> Cell:
    return lambda row: _form(row["stages_ms"].get(stage), statistic)


def _field(part: str, key: str, form: Callable[[float], str] = number) -> Cell:
    return lambda row: _form(row.get(part), key, form)


def _plain(key: str, form: Callable[[float], str] = number) -> Cell:
    return lambda row: _form(row, key, form)


def _form(part: Mapping[str, Any] | None, key: str, form: Callable[[float], str] = number) -> str:
    value = None if part is None else part.get(key)
    return NONE if value is None else form(value)


def _ratio(row: Row) -> str:
    found = row["ratio"]
    if found is None:
        return NONE
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _rate(row: Row) -> str:
    rate = row.get("rate")
    if rate is None:
        return NONE
    behind = "" if rate.get("kept_up", True) else " (fell behind)"
    return number(rate["latency_ms"]["p99"]) + behind


# Heading, with a second line in small print -> cell. Columns in which no row has anything are
# left out.
_RESULTS: dict[tuple[str, str], Cell] = {
    ("Name", ""): lambda row: str(row["name"]),
    ("Batch", ""): lambda row: str(row["batch"]),
    ("Precision", ""): lambda row: str(row["precision"]),
    ("p50", "ms"): _stage("total", "p50"),
    ("p90", "ms"): _stage("total", "p90"),
    ("p99", "ms"): _stage("total", "p99"),
    ("max", "ms"): _stage("total", "max"),
    ("Images/s", ""): _plain("throughput_img_s"),
    ("Times as fast", "inference, quartiles"): _ratio,
    ("Cosine", "lowest"): _field("fidelity", "cosine_min", "{:.5f}".format),
    ("Value off", "largest"): _field("fidelity", "value_max"),
    ("MAE", ""): _field("mae", "mae"),
    ("Energy", "J per image"): _field("power", "joules_per_image"),
    ("Ceiling", "share reached"): _plain("ceiling_share", "{:.0%}".format),
    ("p99 at rate", "ms"): _rate,
    ("First", "s from start"): _plain("first_prediction_s"),
    ("Memory", "MB, host"): _plain("peak_host_mb"),
    ("Memory", "MB, device"): _plain("peak_device_mb"),
    ("Threads", ""): _plain("threads", str),
    ("Backend", ""): lambda row: f"{row['backend']}, {row['provider']}",
    ("Device", ""): lambda row: str(row["device"]),
    ("File", "sha256"): lambda row: f"{row['model']} {(row['sha256'] or '')[:12]}".strip(),
}
_STAGES: dict[tuple[str, str], Cell] = {
    ("Name", ""): _RESULTS["Name", ""],
    ("Batch", ""): _RESULTS["Batch", ""],
    **{(stage.capitalize(), "ms"): _stage(stage, "p50") for stage in STAGES},
    ("Total", "ms"): _stage("total", "p50"),
    ("Batches", "timed"): _stage("total", "n"),
}
_TEXT = ("Name", "Precision", "Backend", "Device", "File")  # aligned left


def results(rows: Sequence[Row]) -> str:
    """Return the table of all rows, those of one batch size together."""
    return _rows_table(rows, _RESULTS)


def stages(rows: Sequence[Row]) -> str:
    """Return the table of the stages' medians."""
    return _rows_table(rows, _STAGES)


def _rows_table(rows: Sequence[Row], columns: Mapping[tuple[str, str], Cell]) -> str:
    rows = sorted(rows, key=lambda row: row["batch"])
    cells = {heading: [cell(row) for row in rows] for heading, cell in columns.items()}
    kept = {heading: column for heading, column in cells.items() if set(column) - {NONE}}
    head = "".join(
        f'<th scope="col"{_align(heading)}>{escape(heading[0])}'
        f"{f'<small>{escape(heading[1])}</small>' if heading[1] else ''}</th>"
        for heading in kept
    )
    lines = []
    for i, row in enumerate(rows):
        first, *others = (
            f"<td{_align(heading)}>{escape(column[i])}</td>" for heading, column in kept.items()
        )
        new = i > 0 and row["batch"] != rows[i - 1]["batch"]
        first = first.replace("<td", '<th scope="row"').replace("</td>", "</th>")
        start = '<tr class="new">' if new else "<tr>"
        lines.append(f"{start}{first}{''.join(others)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _align(heading: tuple[str, str]) -> str:
    return ' class="text"' if heading[0] in _TEXT else ""


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """Return a table of two columns."""
    lines = [f'<tr><th scope="row">{escape(a)}</th><td>{escape(b)}</td></tr>' for a, b in rows]
    return "<table><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


def state(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the table of the machine's state; facts that neither look knows are left out."""
    lines = [*_cpu_share(before, after)]
    first, last = dict(_facts(before)), dict(_facts(after))
    for what in {**first, **last}:
        one, two = first.get(what, NONE), last.get(what, NONE)
        text = one if one == two else f"{one} → {two}"
        lines.append((what, text))
    return pairs(lines)


def _cpu_share(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if before.get("ticks") and after.get("ticks"):
        spent = share(before["ticks"], after["ticks"])
        if spent is not None:
            yield "CPU time of other processes during the run", f"{spent.others:.0%}"
            yield "CPU time that the host gave to others (steal)", f"{spent.steal:.1%}"


def _facts(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (what, text) of all that one look knows."""
    for what, text in (
        *_cpu_facts(state),
        *_board_facts(state.get("jetson") or {}),
        *(fact for gpu in state.get("gpus") or [] for fact in _gpu_facts(gpu)),
    ):
        if text is not None:
            yield what, text
    if not state.get("gpus") and state.get("gpu_problem"):
        yield "NVIDIA GPU", state["gpu_problem"]


def _cpu_facts(state: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    cpu = state.get("cpu") or {}
    cores = cpu.get("cores") or []
    governors = sorted({core["governor"] for core in cores if core["governor"]})
    quota = cpu.get("quota_cores")
    yield "Usable cores", _with(cpu.get("usable_cores"), "{}")
    yield "Quota of the container", _with(quota, "{:g} cores")
    yield "CPU governor", ", ".join(governors) or None
    yield "CPU clock, one core busy", _with(_highest(cores, "mhz"), "{} MHz")
    yield "CPU clock allowed", _with(_highest(cores, "max_mhz"), "{} MHz")
    yield "Turbo", _with(cpu.get("turbo"), "{}", {True: "on", False: "off"})
    yield "A plain loop", _with(cpu.get("speed"), "{:g} million turns/s")
    load = state.get("load_average")
    yield "Load of 1, 5, 15 minutes", None if not load else "  ".join(f"{x:.2f}" for x in load)
    others = state.get("others")
    yield "Cores that others kept busy", None if not others else _others(others)
    hot = [s for s in state.get("temperatures") or [] if s["limit_celsius"] is not None]
    hottest = max(hot, key=lambda s: s["celsius"] - s["limit_celsius"], default=None)
    yield (
        "Temperature nearest to its limit",
        None
        if hottest is None
        else f"{hottest['name']}: {hottest['celsius']:g} of {hottest['limit_celsius']:g} °C",
    )
    memory = state.get("memory") or {}
    yield "Memory available", _with(memory.get("available_mb"), "{:,} MB")
    yield "Battery", state.get("battery")


def _others(others: Mapping[str, Any]) -> str:
    names = ", ".join(f"{top['name']} {top['cores']:g}" for top in others["top"])
    return f"{others['cores']:g}{f' ({names})' if names else ''}"


def _board_facts(board: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "Board", board.get("model")
    yield "L4T", board.get("l4t")
    yield "Power mode", board.get("power_mode")
    yield "jetson_clocks", _with(board.get("jetson_clocks"), "{}", {True: "on", False: "off"})
    gpu = board.get("gpu") or {}
    yield "GPU clock", None if not gpu else f"{gpu['mhz']} of {gpu['max_mhz']} MHz"
    rails = board.get("rails_watts") or {}
    yield "Power of the module", _with(board.get("total_watts"), "{:.2f} W")
    yield "Rails", ", ".join(f"{name} {watts:.2f} W" for name, watts in rails.items()) or None
    yield "Over-current events", _with(board.get("overcurrent_events"), "{}")


def _gpu_facts(gpu: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    name = gpu["name"]
    about = [
        f"{word} {gpu[key]}"
        for word, key in (("SM", "sm"), ("driver", "driver"), ("CUDA", "cuda"))
        if gpu[key]
    ]
    yield name, ", ".join(about) or None
    yield f"{name}: clock", _of(gpu["sm_mhz"], gpu["sm_max_mhz"], "MHz")
    yield f"{name}: memory clock", _of(gpu["memory_mhz"], gpu["memory_max_mhz"], "MHz")
    yield f"{name}: temperature", _of(gpu["celsius"], gpu["slowdown_celsius"], "°C")
    yield f"{name}: power", _of(gpu["watts"], gpu["limit_watts"], "W")
    yield f"{name}: memory used", _of(gpu["memory_used_mb"], gpu["memory_mb"], "MB")
    reasons = gpu["throttle_reasons"]
    yield (
        f"{name}: clocks held back by",
        None if reasons is None else ", ".join(reasons) or "nothing",
    )
    yield f"{name}: persistence", _with(gpu["persistence_mode"], "{}", {True: "on", False: "off"})
    yield f"{name}: other processes", _with(gpu["other_processes"], "{}")


def _of(value: float | None, most: float | None, unit: str) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}{'' if most is None else f' of {most:,.0f}'} {unit}"


def _with(value: Any, form: str, words: Mapping[Any, str] | None = None) -> str | None:
    if value is None:
        return None
    return form.format(value if words is None else words[value])


def _highest(cores: Sequence[Mapping[str, Any]], key: str) -> int | None:
    return max((core[key] for core in cores if core[key] is not None), default=None)
