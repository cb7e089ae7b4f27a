"""Pictures of tables: what they consist of, what they grew by, and how they came to their size."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import count
from pgrunbooks.display import size
from pgrunbooks.forecast import Shift, forecast
from pgrunbooks.plots._style import (
    HEAP,
    INDEX,
    INK,
    MOST_BARS,
    QUIET,
    ROOT,
    TOAST,
    best_unit,
    canvas,
    claim,
    dates,
    largest,
    legend,
    measure,
    name_bars,
    note,
    nothing,
    plain,
    signed,
    tail,
    written,
)
from pgrunbooks.sizes import SYSTEM, rolled_up

_GROWN_BY: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rows_bytes": ("rows", {"color": HEAP, "alpha": 0.85}),
    "bloat_bytes": ("bloat or wider rows", {"color": ROOT, "alpha": 0.85}),
    "toast_bytes": ("TOAST", {"color": TOAST, "alpha": 0.85}),
    "index_bytes": ("indexes", {"color": INDEX, "alpha": 0.85}),
    "new_bytes": (
        "new tables or partitions",
        {"facecolor": "none", "edgecolor": INK, "hatch": "////", "linewidth": 0.8},
    ),
    "dropped_bytes": ("dropped", {"facecolor": "none", "edgecolor": INK, "linewidth": 1.0}),
    "other_bytes": ("outside of tables", {"color": QUIET, "alpha": 0.5}),
}


def size_by_kind(rows: Rows) -> Axes:
    """Draw what the largest tables consist of: heap, TOAST and indexes, one stacked bar a table.

    ``rows`` are those of ``size_inventory``. Partitions are summed up under their root, and so are the system
    catalogs and the tables beyond the tenth.
    """
    tables = rolled_up(rows, MOST_BARS)
    total = sum(table["total_bytes"] for table in tables)
    if not total:
        return nothing("Nothing is stored")
    axes = canvas(height=1.25 + 0.3 * len(tables))
    largest = tables[0]["relation"]
    takes = f"{written(largest)} takes" if largest != SYSTEM else "The system catalogs take"
    share = f"{tables[0]['total_bytes'] / total:.0%}" if len(tables) > 1 else "all"
    claim(axes, f"{takes} {share} of {size(total)}", above_legend=True)
    longest = max(table["total_bytes"] for table in tables)
    unit, divisor = best_unit(longest)
    for y, table in enumerate(tables):
        left = 0.0
        for kind, colour, value in (
            ("heap", HEAP, table["heap_bytes"] + table["fsm_vm_bytes"]),
            ("TOAST", TOAST, table["toast_bytes"]),
            ("indexes", INDEX, table["index_bytes"]),
        ):
            label = "_" if y else kind
            axes.barh(y, value / divisor, left=left, height=0.62, color=colour, alpha=0.8, label=label)
            left += value / divisor
        text = size(table["total_bytes"])
        text += f" in {count(table['partitions'], 'partition')}" if table["partitions"] else ""
        text += ", estimated" if table["estimated"] else ""
        tail(axes, left + 0.01 * longest / divisor, y, text)
    name_bars(axes, [table["relation"] for table in tables], are_relations=True)
    axes.set_xlim(0, 1.3 * longest / divisor)
    measure(axes, x=f"size, {unit}")
    legend(axes)
    return axes


def growth_parts(rows: Rows) -> Axes:
    """Draw what the tables that grew most grew by: rows, bloat, indexes, TOAST, what is new and what was dropped.

    ``rows`` are those of ``growth.attribution``: one stacked bar a table, what fell to the left of the zero.
    """
    if not rows:
        return nothing("Nothing to compare with yet: growth shows from the second snapshot on")
    axes = canvas(height=1.25 + 0.3 * len(rows))
    claim(axes, _parts_claim(rows), above_legend=True)
    grown = [sum(max(row[part], 0) for part in _GROWN_BY) for row in rows]
    most, least = max(grown), max(sum(max(-row[part], 0) for part in _GROWN_BY) for row in rows)
    unit, divisor = best_unit(max(most, least))
    wide = (most + least or 1) / divisor
    drawn = [part for part in _GROWN_BY if any(row[part] for row in rows)]
    for label, style in (_GROWN_BY[part] for part in drawn):
        axes.barh(0, 0, label=label, **style)  # for the legend, in this order
    for y, (row, grown_bytes) in enumerate(zip(rows, grown, strict=True)):
        ends = {True: 0.0, False: 0.0}
        for part in drawn:
            if value := row[part] / divisor:
                axes.barh(y, value, left=ends[value > 0], height=0.62, **_GROWN_BY[part][1])
                ends[value > 0] += value
        estimated = ", estimated" if row["estimated"] else ""
        tail(axes, grown_bytes / divisor + 0.01 * wide, y, signed(row["grown_bytes"]) + estimated)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    name_bars(axes, [row["relation"] for row in rows], are_relations=True)
    axes.set_xlim(-1.03 * least / divisor, most / divisor + 0.22 * wide)
    measure(axes, x=f"growth, {unit}")
    if drawn:
        legend(axes, columns=len(_GROWN_BY))
    return axes


def _parts_claim(rows: Rows) -> str:
    first, whole = rows[0], sum(row["grown_bytes"] for row in rows)
    if first["grown_bytes"] <= 0 or "." not in first["relation"]:
        verb = "grew" if whole >= 0 else "shrank"
        return f"The database {verb} by {size(abs(whole))}; no table of yours grew by much"
    part = max(_GROWN_BY, key=lambda it: first[it])
    share = f"; {first[part] / first['grown_bytes']:.0%} of that is {_GROWN_BY[part][0]}" if first[part] > 0 else ""
    if first[part] > first["grown_bytes"]:
        share = f", by {_GROWN_BY[part][0]} above all"
    of = f" of the {size(whole)} that came" if whole >= first["grown_bytes"] else ""
    return f"{written(first['relation'])} grew by {size(first['grown_bytes'])}{of}{share}"


def table_lines(rows: Rows) -> list[Axes]:
    """Draw how the fastest tables came to their size: one small picture a table, one time axis, its own size axis.

    ``rows`` are those of ``growth.fastest``. A level shift, such as a load or a purge, is marked with its bytes.
    """
    tables: dict[str, list[tuple[datetime.datetime, int]]] = {}
    for row in rows:
        tables.setdefault(row["relation"], []).append((row["taken_at"], row["total_bytes"]))
    if not tables:
        return [nothing("No table grew since the earlier snapshot")]
    columns = min(len(tables), 2)
    lines = math.ceil(len(tables) / columns)
    shape = {"figsize": (9, 0.7 + 1.55 * lines), "sharex": True, "squeeze": False, "layout": "constrained"}
    figure, grid = plt.subplots(lines, columns, **shape)
    figure.patch.set_alpha(0)
    cells, empty = list(grid.flat)[: len(tables)], list(grid.flat)[len(tables) :]
    jumps = [_draw_line(axes, name, points) for axes, (name, points) in zip(cells, tables.items(), strict=True)]
    for axes in empty:
        axes.set_visible(False)
        cells[-columns].tick_params(labelbottom=True)  # the one above it
    sentence = f"{written(next(iter(tables)))} grew most"
    if any(jumps):
        sentence += f"; {sum(jumps)} of {count(len(tables), 'table')} had a jump, which is no trend"
    figure.suptitle(sentence, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return cells


def _draw_line(axes: Axes, name: str, points: Sequence[tuple[datetime.datetime, int]]) -> bool:
    """Draw the sizes of one table, and tell whether there is a jump among them."""
    plain(axes)
    unit, divisor = best_unit(max(size for _, size in points))
    foretold = forecast(points)
    rate = f"  {signed(foretold.daily_bytes[1])} a day" if foretold.daily_bytes else ""
    axes.set_title(written(name) + rate, loc="left", color=INK, fontsize=8.5)
    sizes = {at: size / divisor for at, size in points}
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) < 20 else {}
    axes.plot(mdates.date2num(list(sizes)), list(sizes.values()), color=INDEX, linewidth=1.5, **marker)
    low, high = min(sizes.values()), max(sizes.values())
    room = max(0.15 * (high - low), 0.1 * high - (high - low))
    axes.set_ylim(max(low - room, 0), high + room)
    seen = [it for it in foretold.shifts if abs(it.bytes) / divisor > 0.05 * (high - low)]
    middle = points[0][0] + (points[-1][0] - points[0][0]) / 2
    for shift in largest(seen):
        _mark(axes, shift, (sizes[shift.after], sizes[shift.at]), is_late=shift.at > middle)
    dates(axes)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    measure(axes, y=unit, fontsize=8.5)
    return bool(seen)


def _mark(axes: Axes, shift: Shift, ends: tuple[float, float], *, is_late: bool) -> None:
    at = mdates.date2num(shift.at)
    axes.vlines(at, *sorted(ends), color=TOAST, linewidth=3)
    side, away = ("right", -6) if is_late else ("left", 6)
    note(axes, signed(shift.bytes), (at, sum(ends) / 2), (away, 0), ha=side, fontsize=8, color=TOAST)
