"""How wide the columns of a row are once they lie beside each other: shared by the estimates of bloat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

ITEM = 4  # bytes that a page keeps for the place of each row, bufpage.h
_ALIGNED = {"c": 1, "s": 2, "i": 4, "d": 8}


def aligned(width: float) -> float:
    """Return a width rounded up to the 8 bytes that every row is aligned to."""
    return ceil(width / 8) * 8


def laid_out(
    row: Mapping[str, Any], *, nulls: bool = True, widths: Sequence[int | None] | None = None
) -> tuple[float, bool]:
    """Return the mean width of the columns of a row in bytes, and whether it differs from row to row.

    ``row`` has the lists ``widths``, ``null_shares``, ``alignments`` and ``lengths``, one value a column in the order
    of pg_attribute; without ``nulls`` every column has a value. They are laid out as heap_fill_tuple does. Once a width
    is a mean of different ones, so is what follows, and padding counts with its mean. ``widths`` that are given instead
    of a mean are those of one row.
    """
    offset, varies = 0.0, False
    known = widths or [None] * len(row["widths"])
    for mean, exact, null_share, alignment, length in zip(
        row["widths"], known, row["null_shares"], row["alignments"], row["lengths"], strict=True
    ):
        width = mean if exact is None else exact
        missing = null_share if nulls else 0.0
        short = length < 0 and width < 127  # a varlena with a header of one byte is not aligned
        step = 1 if short else _ALIGNED[alignment]
        padding = (step - 1) / 2 if varies else -offset % step
        offset += (1 - missing) * (padding + width)
        varies = varies or (length < 0 and exact is None) or 0 < missing < 1
    return offset, varies
