"""Labels as people's tables write them: missing ones, units, percent signs, names of bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numclip.data.numbers import is_like_number, number, numbers_in
from numclip_runtime import Task

# Texts that pandas and spreadsheets write, or read, for an empty cell
_MISSING = frozenset(("", "na", "n/a", "<na>", "nan", "-nan", "null", "none", "#n/a", "#na", "#nv"))
_PERCENT = frozenset(("%", "percent", "per cent"))


def is_missing(label: Any) -> bool:
    """Return whether a cell holds no label: it is empty, NaN, or a text such as "NA"."""
    if isinstance(label, str):
        return label.strip().casefold() in _MISSING
    if isinstance(label, list):
        return all(map(is_missing, label))
    return label is None or bool(label != label)


def simple_phrase(text: str) -> str:
    """Return a phrase without regard to case, "_" and "-", which differ in names of folders."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class LabelWords:
    """The words that labels of a task may hold."""

    units: tuple[str, ...]  # behind a number, without case; longest first
    names: dict[str, float]  # label by simple phrase, see `read_folder`

    @classmethod
    def of(cls, task: Task) -> LabelWords:
        """Return those of a task: its unit in singular and plural, and its phrases.

        A percent sign is a unit of tasks in percent, and of those from 0 to 100 without a unit.
        """
        unit = task.unit.strip().casefold()
        units = {unit, unit + "s", unit.removesuffix("s")} if unit else set()
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        if unit in _PERCENT or (not unit and low == 0 and high in (100, 101)):
            units |= _PERCENT
        labels = [value + task.label_offset for value in task.bin_values]
        names = dict(zip(map(simple_phrase, task.phrases), labels, strict=True))
        return cls(tuple(sorted(units - {""}, key=len, reverse=True)), names)

    def labels_in(self, cell: object) -> list[object]:
        """Return the labels of a cell, one per annotator, as numbers or texts without unit."""
        if not isinstance(cell, str):
            return cell if isinstance(cell, list) else [cell]
        text = cell.strip()
        if is_like_number(text):
            return [text]
        if (named := self.names.get(simple_phrase(text))) is not None and number(text) is None:
            return [named]
        return [*numbers_in(self._without_unit(text))]

    def _without_unit(self, text: str) -> str:
        for unit in self.units:
            rest = text[: -len(unit)].rstrip()
            if text[-len(unit) :].casefold() == unit and rest[-1:].isdecimal():
                return rest
        return text
