"""Numbers as people and spreadsheets write them: read as what they mean, or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal

# No-break, narrow, thin and figure spaces and apostrophes group digits: 1'234. An ordinary space
# stands between annotators, a comma may be a decimal one, and a point is always decimal.
_GROUPING = "\u00a0\u202f\u2009\u2007'\u2019"
_GROUPED = re.compile(rf"[-+]?\d{{1,3}}([{_GROUPING}])\d{{3}}(?:\1\d{{3}})*(?:[.,]\d+)?")
# "3,5"; not "1,234", which is 1234 in some countries
_DECIMAL_COMMA = re.compile(r"[-+]?(?:0*,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d{3})(?:[eE][-+]?\d+)?")
_LIKE = re.compile(rf"[-+\u2212]?[\d.,{_GROUPING}]*\d[\d.,{_GROUPING}]*(?:[eE][-+]?\d+)?")
# A comma before three digits, which may be decimal or group them
_EITHER = re.compile(r"[-+\u2212]?[1-9]\d{0,2},\d{3}")
_BETWEEN = re.compile(r"[ \t\r\n]+")  # not \s: a no-break space groups digits
MAX_ANNOTATIONS = 1000  # labels of one image
MAX_DIGITS = 100  # characters of a number


def number(text: object, *, decimal_comma: bool = False) -> float | None:
    """Return a finite number from a number or its text, else None.

    "3", "3.0", "3e2" and digits of any script as Python reads them; also the decimal comma of
    "3,5", and digits grouped by no-break or thin spaces or apostrophes (1'234). "1,234" is None:
    1234 to some, 1.234 to others. With `decimal_comma` (see `commas_are_decimal`) it is 1.234.
    """
    if isinstance(text, str):
        text = text.strip()
        return _number_of_text(
            text.replace(",", ".") if decimal_comma and _EITHER.fullmatch(text) else text
        )
    if isinstance(text, bool) or not isinstance(text, (int, float, Decimal)):
        return None
    try:
        return _finite(float(text))
    except (OverflowError, ValueError):
        return None


def _number_of_text(text: str) -> float | None:
    if len(text) > MAX_DIGITS or "_" in text:  # Python also reads "1_000"
        return None
    text = text.replace("\u2212", "-")  # the typographic minus
    if _GROUPED.fullmatch(text):
        text = re.sub(f"[{_GROUPING}]", "", text).replace(",", ".")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return _finite(float(text))
    except ValueError:
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def commas_are_decimal(texts: Iterable[str]) -> tuple[bool, bool]:
    """Return whether texts have decimal commas, and whether these are the rule among them.

    They are the rule where more numbers have a comma that can only be decimal, as in "3,5" and
    "10,25", than one like "1,234", and none has a decimal point.
    """
    decimal = either = points = 0
    for text in texts:
        if "," in text:
            text = text.strip().replace("\u2212", "-")
            decimal += _DECIMAL_COMMA.fullmatch(text) is not None
            either += _EITHER.fullmatch(text) is not None
        else:
            points += "." in text
    return decimal > 0, decimal > either and not points


def is_like_number(text: str) -> bool:
    """Return whether a text is made like a number, be it a valid one or not."""
    text = text.strip()
    return len(text) <= MAX_DIGITS and _LIKE.fullmatch(text) is not None


def numbers_in(text: str) -> list[str]:
    """Split the labels of several annotators, which blanks separate."""
    return [part for part in _BETWEEN.split(text) if part]


def grouped(parts: list[str]) -> float | None:
    """Return the number that blanks may have split, as 1234 in "1 234"; None if they cannot."""
    if len(parts) < 2:
        return None
    first, *others = (part.lstrip("-+") for part in parts)
    if not (first.isdecimal() and len(first) <= 3 and first[0] != "0"):
        return None
    *middle, last = others
    whole, _, decimals = last.replace(",", ".").partition(".")
    if not all(len(part) == 3 and part.isdecimal() for part in (*middle, whole)):
        return None
    if decimals and not decimals.isdecimal():
        return None
    return number("".join(parts).replace(",", "."))
