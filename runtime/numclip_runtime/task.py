"""The task: the number to read, and the division of its range into named bins."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

from numclip_runtime.errors import UsageError
from numclip_runtime.fields import read_fields, shown

# The headline number: the fine regressor's, that of the most probable bin, or the mean of the
# bins' numbers weighted by their probabilities. A bin's number: see `Task.bin_values`.
PredictionKind = Literal["regressor", "class", "expected"]

MAX_BINS = 1_000  # each is a pass of the text tower when a checkpoint is loaded
LARGEST_NUMBER = 1e30  # of a number in label units, in size; float32 ends at 3.4e38


@dataclass(frozen=True)
class Task:
    """An ordinal task: K bins over a range of numbers, each named in common language.

    Raises:
        UsageError: if a field is malformed (the message names the field).
    """

    name: str  # short identifier, such as "age"
    unit: str  # unit of the number, such as "years"; may be empty
    bin_edges: tuple[float, ...]  # K + 1 strictly increasing numbers, in label units
    phrases: tuple[str, ...]  # K distinct bin names, lowest bin first
    context: str = "a photo of"  # words before the phrase: "{context} {phrase}."
    label_offset: float = 0.0  # label in files = model's number + label_offset
    prediction: PredictionKind = "regressor"  # meaning of the model's `values`
    # Whether labels are whole numbers, such as years: [13, 19) then holds 13 to 18, see bin_values.
    # None: not known; training looks at its labels. Absent in files older than the field.
    whole_numbers: bool | None = None

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise UsageError(f"task {shown(self.name)}: {'; '.join(problems)}.")

    def _problems(self) -> Iterator[str]:
        """Yield all that is wrong with the fields."""
        edges, phrases = self.bin_edges, self.phrases
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            yield "'name' must be one word of letters, digits, '-' or '_' (such as 'age')"
        if len(phrases) < 2:
            yield f"needs at least 2 phrases, got {len(phrases)}"
        if len(phrases) > MAX_BINS:
            yield f"{len(phrases):,} phrases; at most {MAX_BINS:,} are possible"
            return
        if len(edges) != len(phrases) + 1:
            yield (
                f"{len(phrases)} phrases need {len(phrases) + 1} bin_edges (lower edge of each "
                f"bin, then the upper end), got {len(edges)}"
            )
        if not all(abs(edge) <= LARGEST_NUMBER for edge in (*edges, self.label_offset)):
            yield (
                "bin_edges and label_offset must be finite numbers, at most "
                f"{LARGEST_NUMBER:g} in size"
            )
        elif any(a >= b for a, b in pairwise(edges)):
            yield f"bin_edges must be strictly increasing, got {list(edges[:20])}"
        if any(not phrase.strip() for phrase in phrases):
            yield "a phrase is empty"
        if len(set(phrases)) != len(phrases):
            twice = next(p for i, p in enumerate(phrases) if p in phrases[:i])
            yield f"phrases must differ from each other, {shown(twice)} comes twice"
        if self.prediction not in get_args(PredictionKind):
            yield (
                f"'prediction' must be one of {', '.join(get_args(PredictionKind))}, "
                f"got {shown(self.prediction)}"
            )

    @property
    def num_bins(self) -> int:
        """Number of bins K."""
        return len(self.phrases)

    @property
    def label_range(self) -> float:
        """Width of the whole range, in label units."""
        return self.bin_edges[-1] - self.bin_edges[0]

    @property
    def labels_are_classes(self) -> bool:
        """Whether every bin is one whole number, such as 0 to 4: labels name their bin."""
        return all(map(_is_one_number, self.bin_edges, self.bin_edges[1:]))

    @cached_property
    def bin_values(self) -> tuple[float, ...]:
        """The K numbers that stand for the bins, label units without offset.

        Of `whole_numbers`, the mean of those that the bin holds: 15.5 for the ages [13, 19), 83 for
        the last bin [65, 101], which holds its upper end (see `contains`). Otherwise a bin between
        neighbouring whole numbers holds a single one, its lower edge; any other bin, and one
        without a whole number, is represented by its centre.
        """
        edges, last = self.bin_edges, self.num_bins - 1
        values = []
        for k, (low, high) in enumerate(pairwise(edges)):
            closed = k == last and not self.labels_are_classes
            whole = self._whole_numbers(low, high, closed=closed) if self.whole_numbers else None
            one = low if _is_one_number(low, high) else None
            values.append(next((v for v in (whole, one) if v is not None), (low + high) / 2))
        return tuple(values)

    def _whole_numbers(self, low: float, high: float, *, closed: bool) -> float | None:
        """Return the mean of the numbers from `low` to `high` whose labels are whole, if any."""
        first = math.ceil(low + self.label_offset)
        end = high + self.label_offset
        final = math.floor(end) if closed else math.ceil(end) - 1
        return None if final < first else (first + final) / 2 - self.label_offset

    def bin_of(self, label: float) -> int:
        """Return the bin index of a label (label units); outside the range, the nearest bin."""
        shifted = label - self.label_offset
        return min(max(bisect_right(self.bin_edges, shifted) - 1, 0), self.num_bins - 1)

    def number(self, value: float, places: int | None = None, *, sign: bool = False) -> str:
        """Return a number in label units as text, with as many digits as the range can tell apart.

        Args:
            value: In label units: a prediction, a label, or an error.
            places: Digits after the point in a range of 1 to 100,000; a smaller range has more, a
                larger one fewer, so that 0.00012 of 0.0003 is not "0.00". None: as many as resolve
                about a thousandth of the range.
            sign: Write "+" before a positive number.
        """
        exponent = math.floor(math.log10(self.label_range))
        if places is None:
            digits = 3 - round(math.log10(self.label_range))
        else:
            digits = places - min(exponent, 0) - max(exponent - 4, 0)
        plus = "+" if sign else ""
        if -exponent > 9 or exponent > 14:  # too many zeros to count
            largest = max(abs(self.bin_edges[0]), abs(self.bin_edges[-1]))
            significant = math.floor(math.log10(largest)) - exponent + (places or 2)
            return f"{value:{plus}.{significant}e}"
        return f"{value:{plus}.{max(digits, 0)}f}"

    def contains(self, label: float) -> bool:
        """Return whether a label lies in the closed range of the task.

        If labels are classes, the upper end is not a class, and so outside.
        """
        shifted = label - self.label_offset
        if self.labels_are_classes and shifted == self.bin_edges[-1]:
            return False
        return self.bin_edges[0] <= shifted <= self.bin_edges[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, strings and numbers (JSON and TOML friendly)."""
        plain = asdict(self)
        if self.whole_numbers is None:  # as in older files, which lack the field
            del plain["whole_numbers"]
        return plain | {"bin_edges": list(self.bin_edges), "phrases": list(self.phrases)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "task") -> Task:
        """Build a task from plain data, refusing unknown, missing and mistyped fields.

        Args:
            data: Field names and values, as from TOML or JSON.
            source: Where the data came from; named in errors.

        Raises:
            UsageError: if a field is unknown, missing, of another type, or malformed.
        """
        return read_fields(cls, data, source)


def as_written(number: float) -> str:
    """Return a number that a person chose, such as an edge of a bin, with all its digits."""
    return f"{number:.12g}"  # 0.0003, not 0.00030000000000000003; 1234567, not 1.23457e+06


def _is_one_number(low: float, high: float) -> bool:
    return low == round(low) and high - low == 1
