"""A picture of what the server writes: WAL and temporary files, a day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pgrunbooks.check import Rows
from pgrunbooks.display import size
from pgrunbooks.plots._style import INDEX, TOAST, best_unit, claim, dates, measure, nothing, plain


def write_rates(rows: Rows) -> Axes:
    """Draw how much WAL the server wrote a day, and below it how much went into temporary files of the database.

    ``rows`` are those of ``growth.write_rates``. Returns the axes of the WAL.
    """
    known = {name: [row[f"{name}_daily_bytes"] for row in rows] for name in ("wal", "temp")}
    if not any(value is not None for values in known.values() for value in values):
        return nothing("No rate yet: it takes two snapshots, half an hour apart")
    figure, (wal, temporary) = plt.subplots(2, 1, figsize=(9, 3.4), sharex=True, layout="constrained")
    figure.patch.set_alpha(0)
    _blocks(wal, rows, known["wal"], INDEX, "WAL")
    _blocks(temporary, rows, known["temp"], TOAST, "temporary")
    measure(temporary, x="time, UTC; each block is the mean between two snapshots, the title names their median")
    claim(wal, _rates_claim(known))
    first: Axes = wal
    return first


def _blocks(axes: Axes, rows: Rows, rates: Sequence[float | None], colour: str, what: str) -> None:
    """Draw a rate as a block from the snapshot before to its own; nothing where it is not known."""
    plain(axes)
    most = max((rate for rate in rates if rate is not None), default=0)
    unit, divisor = best_unit(most)
    for row, rate in zip(rows, rates, strict=True):
        if rate is not None:
            span = mdates.date2num([row["before"], row["taken_at"]])
            axes.fill_between(span, [rate / divisor] * 2, color=colour, alpha=0.8, linewidth=0)
    axes.set_ylim(0, 1.15 * most / divisor or 1)
    dates(axes)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    measure(axes, y=f"{what}, {unit} a day", fontsize=8.5)


def _rates_claim(known: Mapping[str, Sequence[float | None]]) -> str:
    parts = []
    for name, words in (("wal", "WAL"), ("temp", "temporary files")):
        values = [value for value in known[name] if value is not None]
        if values and max(values) > 0:
            peak = f", at most {size(max(values))}" if max(values) > 1.5 * median(values) else ""
            parts.append(f"{words}: {size(median(values))} a day{peak}")
    return "; ".join(parts) or "Neither WAL nor temporary files were written"
