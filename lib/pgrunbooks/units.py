"""Durations, byte sizes, percentages and counts as PostgreSQL writes them, turned into plain numbers.

Inside the library time is seconds, size is bytes, a share is a fraction of 1; these texts exist at the edge only.
Source of the spellings: https://www.postgresql.org/docs/18/config-setting.html (names and values).
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["duration", "bytes", "share", "count"]

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_EXAMPLE = {
    "duration": "a duration such as 500ms, 10min, 1h or 30d",
    "bytes": "a size such as 64MB or 500GB",
    "share": "a percentage such as 80%",
    "count": "a number such as 5",
}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*")


def kind_of(text: str) -> Kind:
    """Tell which kind of quantity a default such as ``'5min'``, ``'1GB'``, ``'80%'`` or ``'10'`` is.

    Raises ValueError for a unit that PostgreSQL does not know.
    """
    match = _TEXT.fullmatch(text)
    unit = match[2] if match else None
    if unit == "":
        return "count"
    if unit == "%":
        return "share"
    if unit in _SECONDS:
        return "duration"
    if unit in _BYTES:
        return "bytes"
    raise ValueError(f"needs a number with a unit of PostgreSQL's, got {text!r}")


def parse(value: object, kind: Kind) -> float:
    """Return ``value`` in seconds, bytes, a fraction of 1 or a plain number, as ``kind`` asks.

    A bare 0 needs no unit. Raises ValueError with an example of what is wanted for anything else.
    """
    wrong = ValueError(f"needs {_EXAMPLE[kind]}, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise wrong
    match = _TEXT.fullmatch(str(value))
    if not match:
        raise wrong
    number, unit = float(match[1]), match[2]
    if kind == "count" and unit == "":
        return number
    if number == 0 and unit == "":
        return 0.0
    if kind == "share" and unit == "%":
        return number / 100
    if kind == "duration" and unit in _SECONDS:
        return number * _SECONDS[unit]
    if kind == "bytes" and unit in _BYTES:
        return number * _BYTES[unit]
    raise wrong
