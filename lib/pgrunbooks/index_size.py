"""How large an index that is no btree would be, within a factor of two, and how high a btree is.

It goes by rows, groups and widths that the planner estimates. The size of a btree is checks/_btree.py's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgrunbooks.storage import BLOCK

_USABLE = BLOCK - 24 - 16  # without the page's header and the special space
_LINE_POINTER, _TUPLE_HEADER, _TID = 4, 8, 6
_INNER_FILL = 0.7
_GIN_POSTING_BYTES = 3  # a row in a posting list is compressed to two or three bytes
_BRIN_RANGE = 128
_SAMPLED = 30_000  # rows that ANALYZE reads at the default statistics target


@dataclass(frozen=True)
class Contents:
    """What an index holds: its rows, the groups of equal keys, bytes of a key; ``heap_pages`` are its table's."""

    rows: float
    groups: float
    width: int
    heap_pages: int = 0


def pages(method: str, it: Contents) -> int:
    """Return the estimated pages of an index that was just built."""
    if method == "brin":
        ranges = max(1, it.heap_pages / _BRIN_RANGE)
        return 1 + math.ceil(ranges * _TID / _USABLE) + math.ceil(ranges * (_TUPLE_HEADER + 2 * it.width) / _USABLE)
    if method == "hash":  # a code of four bytes a row in buckets, a power of two of them, three quarters full
        buckets: int = 2 ** math.ceil(math.log2(max(2, it.rows * 20 / _USABLE / 0.75)))
        return 3 + buckets
    if method == "gin":
        keys = it.groups * (_aligned(_TUPLE_HEADER + it.width) + _LINE_POINTER)
        return 2 + math.ceil((keys + it.rows * _GIN_POSTING_BYTES) / _USABLE)
    return 1 + math.ceil(it.rows * (_aligned(_TUPLE_HEADER + it.width) + _LINE_POINTER) / _USABLE / 0.7)


def likely_distinct(distinct: float, rows: float) -> float:
    """Return how many values a column is likely to have where ANALYZE estimated ``distinct`` from a sample of its rows.

    If rows fell to values by chance, its estimator (Haas and Stokes) finds too few: by a fifth with two rows a value.
    This is the number of which it would have said ``distinct``. Where every value has as many rows it is too high.
    """
    if rows <= _SAMPLED or distinct >= rows:
        return distinct

    def estimated(possible: float) -> float:
        once = _SAMPLED * math.exp(-_SAMPLED / possible)
        seen = -possible * math.expm1(-_SAMPLED / possible)
        return _SAMPLED * seen / (_SAMPLED - once + once * _SAMPLED / rows)

    low, high = max(distinct, 1.0), 1000 * rows
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if estimated(middle) < distinct else (low, middle)
    return max(-low * math.expm1(-rows / low), distinct)


def height(btree_pages: int, width: int) -> int:
    """Return the levels above the leaves of a btree with that many pages, a key of which has ``width`` bytes."""
    leaves = btree_pages - 1
    return math.ceil(math.log(leaves) / math.log(_fanout(width)) - 1e-9) if leaves > 1 else 0


def _fanout(width: int) -> float:
    return max(3.0, _INNER_FILL * _USABLE / (_aligned(_TUPLE_HEADER + width) + _LINE_POINTER))


def _aligned(size: float) -> int:
    return math.ceil(size / 8) * 8
