"""How large an index would be that does not exist, from rows, groups and widths that the planner estimates.

The btree model knows deduplication: one posting list a group of equal keys, as CREATE INDEX writes them
(https://www.postgresql.org/docs/18/btree.html#BTREE-DEDUPLICATION). The others are rough: within a factor of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgrunbooks.storage import BLOCK

_USABLE = BLOCK - 24 - 16  # without the page's header and the special space
_LINE_POINTER, _TUPLE_HEADER, _TID = 4, 8, 6
_LONGEST_POSTING = 812  # bytes of a posting tuple that CREATE INDEX makes: a tenth of a page
_LEAF_FILL, _INNER_FILL = 0.9, 0.7
_GIN_POSTING_BYTES = 3  # a row in a posting list is compressed to two or three bytes
_BRIN_RANGE = 128


@dataclass(frozen=True)
class Contents:
    """What an index holds: its rows, the groups of equal keys, bytes of a key (aligned), items a key (for GIN)."""

    rows: float
    groups: float
    width: int
    deduplicates: bool = False
    items: float = 1.0
    heap_pages: int = 0


def pages(method: str, it: Contents) -> int:
    """Return the estimated pages of an index that was just built."""
    if method == "btree":
        return _btree(it)
    if method == "brin":
        ranges = max(1, it.heap_pages / _BRIN_RANGE)
        return 2 + math.ceil(ranges * _TID / _USABLE) + math.ceil(ranges * (_TUPLE_HEADER + 2 * it.width) / _USABLE)
    if method == "hash":  # a code of four bytes a row in buckets, a power of two of them, three quarters full
        buckets: int = 2 ** math.ceil(math.log2(max(2, it.rows * 20 / _USABLE / 0.75)))
        return 3 + buckets
    if method == "gin":
        keys = it.groups * (_aligned(_TUPLE_HEADER + it.width) + _LINE_POINTER)
        return 2 + math.ceil((keys + it.rows * it.items * _GIN_POSTING_BYTES) / _USABLE)
    return 1 + math.ceil(it.rows * (_aligned(_TUPLE_HEADER + it.width) + _LINE_POINTER) / _USABLE / 0.7)


def height(btree_pages: int, width: int) -> int:
    """Return the levels above the leaves of a btree with that many pages, a key of which has ``width`` bytes."""
    leaves = btree_pages - 1
    return math.ceil(math.log(leaves) / math.log(_fanout(width)) - 1e-9) if leaves > 1 else 0


def _fanout(width: int) -> float:
    return max(3.0, _INNER_FILL * _USABLE / (_aligned(_TUPLE_HEADER + width) + _LINE_POINTER))


def _btree(it: Contents) -> int:
    tuple_bytes = _aligned(_TUPLE_HEADER + it.width)
    each = it.rows / max(it.groups, 1.0)
    if it.deduplicates and each > 1:
        most = max(2, (_LONGEST_POSTING - tuple_bytes) // _TID)
        lists = it.groups * max(1.0, each / most)
        leaf_bytes = lists * (tuple_bytes + _LINE_POINTER) + it.rows * _TID
    else:
        leaf_bytes = it.rows * (tuple_bytes + _LINE_POINTER)
    leaves = max(1, math.ceil(leaf_bytes / (_USABLE * _LEAF_FILL - tuple_bytes)))
    total, level = leaves, leaves
    while level > 1:
        level = math.ceil(level / _fanout(it.width))
        total += level
    return total + 1  # the metapage


def _aligned(size: float) -> int:
    return math.ceil(size / 8) * 8
