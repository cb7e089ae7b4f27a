"""Pictures of a size over time, and of what may come: the database's, and what its disk has room for."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import matplotlib.dates as mdates
from matplotlib.axes import Axes

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration, size
from pgrunbooks.forecast import Days, Forecast, forecast
from pgrunbooks.plots._style import (
    INDEX,
    INK,
    NOT_ASKED,
    ROOT,
    TOAST,
    best_unit,
    canvas,
    claim,
    dates,
    largest,
    measure,
    note,
    nothing,
    signed,
    written,
)

_Points: TypeAlias = Sequence[tuple[datetime.datetime, int]]


def growth_lines(rows: Rows) -> Axes:
    """Draw the size of the database over its snapshots; ``rows`` are those of ``growth.database_sizes``."""
    if len(rows) < 2:
        so_far = f"One snapshot so far: {size(rows[0]['database_bytes'])}" if rows else "No snapshot holds a size yet"
        return nothing(f"{so_far}; growth shows from the second on")
    times, sizes = [row["taken_at"] for row in rows], [row["database_bytes"] for row in rows]
    unit, divisor = best_unit(max(sizes))
    values = [value / divisor for value in sizes]
    axes = canvas(height=2.9)
    claim(axes, _growth_claim((times[-1] - times[0]).total_seconds(), sizes))
    axes.plot(times, values, color=INDEX, linewidth=1.8, marker="o", markersize=4 if len(rows) < 60 else 0)
    room = max(max(values) - min(values), 0.02 * max(values)) * 0.2
    axes.set_ylim(max(min(values) - room, 0), max(values) + room)
    note(axes, size(sizes[-1]), (mdates.date2num(times[-1]), values[-1]), (6, 0))
    axes.margins(x=0.08)
    dates(axes)
    measure(axes, x="time of the snapshot, UTC", y=f"size of the database, {unit}")
    return axes


def _growth_claim(span_s: float, sizes: Sequence[int]) -> str:
    grown = sizes[-1] - sizes[0]
    if not grown:
        return f"The database kept its size of {size(sizes[-1])} in {duration(span_s)}"
    rate = f": {size(abs(grown) / (span_s / 86400))} a day" if span_s >= 86400 else ""
    return f"The database {'grew' if grown > 0 else 'shrank'} by {size(abs(grown))} in {duration(span_s)}{rate}"


def fan_chart(rows: Rows, disk_bytes: float | None = None, *, came: Rows = ()) -> Axes:
    """Draw the growth of the database so far and what may come, with its 50 % and 80 % intervals.

    ``rows`` are those of ``growth.database_sizes``. Level shifts are marked; ``disk_bytes`` draws the limit, and
    then the title says when it is reached. With too few points for a forecast it is the picture of ``growth_lines``.
    ``came`` are rows that the forecast does not know: what came of it.
    """
    seen, later = ([(row["taken_at"], row["database_bytes"]) for row in some] for some in (rows, came))
    if not came and forecast(seen).basis == "none":
        return growth_lines(rows)
    return _fan(seen, "The database", disk_bytes, came=later)


def disk_fan(rows: Rows | None) -> Axes:
    """Draw when the disk is full: the growth of the tablespaces so far and what may come, against the room there is.

    ``rows`` are those of the check disk-full-forecast, None where it could not be asked; of several volumes the one
    that is full first is drawn. Level shifts are labelled with what they were.
    """
    if not rows:
        return nothing("The target does not name its disk_bytes" if rows is not None else NOT_ASKED)
    if not (volumes := [row for row in rows if "points" in row]):
        return nothing(f"No forecast: {rows[0]['why']}")
    row = min(volumes, key=_soonest)
    what = f"Tablespace {row['tablespace']}" if row["tablespace"] else "The disk"
    causes = {datetime.datetime.fromisoformat(it["at"]): it["cause"] for it in row["shifts"]}
    return _fan(row["points"], what, row["disk_bytes"], row["wal_bytes"], causes)


def _soonest(row: Row) -> float:
    days = forecast(row["points"]).days_until(row["disk_bytes"] - row["wal_bytes"])
    return math.inf if days is None or days.lower is None else days.lower


def _fan(
    points: _Points,
    what: str,
    disk_bytes: float | None,
    wal_bytes: float = 0.0,
    causes: Mapping[datetime.datetime, str | None] = MappingProxyType({}),
    came: _Points = (),
) -> Axes:
    foretold = forecast(points)
    if foretold.basis == "none" or foretold.last is None:
        return nothing(f"No forecast: {foretold.model}")
    room = None if disk_bytes is None else disk_bytes - wal_bytes
    days = None if room is None else foretold.days_until(room)
    ahead, paths = foretold.paths(_horizon(points, days, came))
    top = max(paths[0.75][-1], *(it for _, it in [*points, *came]), room or 0)
    if room is not None and room > 5 * max(paths[0.9][-1], points[-1][1]):
        top = paths[0.9][-1]  # far away: the line would press the rest flat
    unit, divisor = best_unit(top)
    sizes = {at: it / divisor for at, it in sorted(points)}
    low, high = min(*sizes.values(), paths[0.25][-1] / divisor), top / divisor
    margin = 0.08 * (high - low or high)

    axes = canvas(height=3.4)
    claim(axes, _fan_claim(foretold, days, what, disk_bytes))
    axes.set_xlim(mdates.date2num([min(sizes), ahead[-1]]))
    axes.set_ylim(max(low - margin, 0), high + 2 * margin)
    _draw_paths(axes, mdates.date2num(ahead), {share: [it / divisor for it in path] for share, path in paths.items()})
    axes.plot(mdates.date2num(list(sizes)), list(sizes.values()), color=INK, linewidth=1.8)
    if came:
        times, later = zip(*came, strict=True)
        axes.plot(mdates.date2num(times), [it / divisor for it in later], "o", color=INK, markersize=3.5)
    for shift in largest(foretold.shifts):
        cause = causes.get(shift.at)
        text = signed(shift.bytes) + (f": {written(cause, 44)}" if cause else "")
        _mark(axes, text, mdates.date2num(shift.at), (sizes[shift.after], sizes[shift.at]))
    if room is not None and room / divisor <= axes.get_ylim()[1]:
        text = (
            f"room for {size(room)}: the disk less {size(wal_bytes)} of WAL" if wal_bytes else f"the disk, {size(room)}"
        )
        axes.axhline(room / divisor, color=ROOT, linewidth=1, linestyle="--")
        note(axes, text, (axes.get_xlim()[0], room / divisor), (4, 3), va="bottom", color=ROOT)
    dates(axes)
    what_came = "; the dots are what came" if came else ""
    measure(axes, x=f"time, UTC; the fan holds 50 % and 80 % of what may come{what_came}", y=f"size, {unit}")
    return axes


def _horizon(points: _Points, days: Days | None, came: _Points) -> float:
    """Return how many days to look ahead: as far as is known back, or as what came, and until the disk is full."""
    horizon = float(min(max((points[-1][0] - points[0][0]).days, 14), 90))
    if came:
        horizon = max((came[-1][0] - points[-1][0]).days, 1)
    if days and days.median:
        horizon = min(max(horizon, 1.25 * days.median), 365)
    return horizon


def _draw_paths(axes: Axes, times: Sequence[float], paths: Mapping[float, Sequence[float]]) -> None:
    axes.fill_between(times, paths[0.1], paths[0.9], color=INDEX, alpha=0.16, linewidth=0)
    axes.fill_between(times, paths[0.25], paths[0.75], color=INDEX, alpha=0.26, linewidth=0)
    axes.plot(times, paths[0.5], color=INDEX, linewidth=1.4, linestyle="--")


def _mark(axes: Axes, text: str, at: float, ends: tuple[float, float]) -> None:
    """Mark a level shift, with its words below the lower end; above it where there is no room."""
    axes.plot([at, at], ends, color=TOAST, linewidth=3)
    x, y = axes.transLimits.transform((at, min(ends)))  # as shares of the axes
    side, away = ("right", -8) if x > 0.5 else ("left", 8)
    note(axes, text, (at, min(ends)), (away, 8 if y < 1 / 6 else -8), ha=side, color=TOAST)


def _fan_claim(foretold: Forecast, days: Days | None, what: str, disk_bytes: float | None) -> str:
    _, rate, _ = foretold.daily_bytes or (0.0, 0.0, 0.0)
    grows = "does not grow any more" if foretold.is_plateau else f"grows by {size(rate)} a day"
    if rate < 0:
        grows = f"shrinks by {size(-rate)} a day"
    if days and days.lower is not None and days.lower == 0 and days.median == 0:
        return f"{what} is full: {size(disk_bytes or 0)}"
    if days and days.lower is not None:
        digits = 0 if days.lower >= 10 else 1
        latest = "more than a year" if days.upper is None else f"{days.upper:.{digits}f} days"
        fills = "fills the disk" if what == "The database" else "is full"
        return f"{what} {fills} in {days.lower:.{digits}f} to {latest}: it {grows}"
    full = " and is not full within a year" if days else ""
    return f"{what} {grows}{full}" + ("" if foretold.basis == "model" else " (few points: a range)")
