"""Task presets and task files (TOML)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from numclip.data.numbers import number
from numclip.model.model_config import RegressorForm
from numclip_runtime import Task, UsageError
from numclip_runtime.errors import first_line
from numclip_runtime.files import read_limited
from numclip_runtime.task import as_written

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE = 1 << 20  # bytes of a task file; the presets have less than 1,000


def preset_names() -> list[str]:
    """Return the names of the presets that ship with numclip."""
    folder = resources.files("numclip") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def load_task(name_or_path: str | os.PathLike[str]) -> Task:
    """Load a preset by name, or a task file (.toml) by path.

    Raises:
        UsageError: if neither exists, or the file is not a valid task.
    """
    name_or_path = os.fspath(name_or_path)
    if name_or_path in preset_names():
        text = (resources.files("numclip") / "presets" / f"{name_or_path}.toml").read_text("utf-8")
        data = tomllib.loads(text)
    elif Path(name_or_path).suffix == ".toml":
        data = {"unit": ""} | read_toml(name_or_path, "task file")
    else:
        raise UsageError(
            f"unknown task {name_or_path!r}; presets are {', '.join(preset_names())}, "
            "or give the path of a .toml file."
        )
    return Task.from_dict(data, source=name_or_path)


def read_toml(path: str, kind: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: File.
        kind: What it is, in errors.

    Raises:
        UsageError: if it cannot be read, or is not TOML.
    """
    try:
        text = read_limited(Path(path), MAX_FILE).decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(f"{path}: cannot read this {kind} ({reason}).") from None
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:  # also that of a number of more than 4,300 digits
        raise UsageError(f"{path}: not valid TOML ({first_line(error)}).") from None
    except RecursionError:
        raise UsageError(f"{path}: not valid TOML (nested too deeply).") from None
    return data


def described_task(name_or_path: str | None, flags: Mapping[str, Any]) -> Task:
    """Load a task and change it by command-line flags, or describe one by flags alone.

    Args:
        name_or_path: See `load_task`; None needs the flags name, bin_edges and phrases.
        flags: Fields of a task that were given; bin_edges and phrases as texts with commas.

    Raises:
        UsageError: if a flag is missing or malformed, or the fields do not fit together.
    """
    fields = dict(flags)
    if "bin_edges" in fields:
        fields["bin_edges"] = [_edge(text) for text in fields["bin_edges"].split(",")]
    if "phrases" in fields:
        fields["phrases"] = [text.strip() for text in fields["phrases"].split(",")]
    if name_or_path is not None:
        task = load_task(name_or_path)
        return Task.from_dict(task.to_dict() | fields, source=name_or_path) if fields else task
    needed = ("name", "bin_edges", "phrases")
    if missing := [f"--{name}".replace("_", "-") for name in needed if name not in fields]:
        raise UsageError(
            f"no task: give --task with a preset ({', '.join(preset_names())}) or a .toml file, "
            f"or describe one; {', '.join(missing)} missing."
        )
    return Task.from_dict({"unit": ""} | fields, source="command line")


def unreachable(task: Task, form: RegressorForm | None, labels: Iterable[float]) -> Iterator[str]:
    """Yield a warning for each kind of label that the fine regressor cannot read from a sure image.

    "released" reads lower / (1 + d) with d between -1 and 1: always 0 in a bin that begins at 0,
    and nothing above half of a negative lower edge. "bounded" reads between the edges of a bin,
    and reaches an edge only where tanh saturates, and learns no more.

    Args:
        task: Gives bins and the kind of prediction; others than "regressor" reach all bins.
        form: See `FineRegressor`.
        labels: Training labels, label units.
    """
    if task.prediction != "regressor":
        return
    numbers: list[list[float]] = [[] for _ in task.phrases]
    for label in labels:
        numbers[task.bin_of(label)].append(label - task.label_offset)
    for low, phrase, found in zip(task.bin_edges, task.phrases, numbers, strict=False):
        if form == "released" and low <= 0 and (far := sum(x > low / 2 for x in found)):
            most = as_written(low / 2 + task.label_offset)
            yield (
                f"the released regressor reads {'at most ' * (low < 0)}{most} where it is sure of "
                f"{phrase!r}, but {far} training labels of this bin are above; "
                "--regressor bounded reads them."
            )
    single = [
        phrase
        for low, value, phrase, found in zip(
            task.bin_edges, task.bin_values, task.phrases, numbers, strict=False
        )
        if found and value == low and set(found) == {low}
    ]
    if form == "bounded" and single:
        yield (
            f"the bounded regressor reaches the lower edge of a bin only in the limit, and all "
            f"labels of {', '.join(map(repr, single[:5]))} are there, so it reads them too high; "
            "--prediction class or expected reads them exactly."
        )


def _edge(text: str) -> float:
    edge = number(text.strip())
    if edge is None:
        raise UsageError(
            f"--bin-edges: {text.strip()!r} is not a number; write numbers with commas between, "
            "such as 0,13,19,35."
        )
    return edge
