"""Pictures: one function each, rows in, Axes out; the title is the claim, and it is readable on light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row, Tree, count, trees
from pgrunbooks.display import cut, duration, printable, size
from pgrunbooks.masking import command
from pgrunbooks.sizes import rolled_up

INK, QUIET, ROOT, WAITER = "#7c7c84", "#a5a5ad", "#c8372d", "#8e8e96"
HEAP, TOAST, INDEX = "#8e8e96", "#c98a2b", "#3f7fbf"
_MOST_LINES = 24
_MOST_TABLES = 10
_SYSTEM = ("pg_catalog", "information_schema")


def lock_tree(rows: Rows) -> Axes:
    """Draw who waits for whom, and for how long: one line a session, the roots at the margin.

    ``rows`` are those of the check blocking-lock. Up to 24 sessions are drawn, the longest waits of each root first;
    the rest is counted in the last line.
    """
    forest = sorted(trees(rows), key=lambda tree: -len(tree.waiters))
    lines = list(_lines(forest))
    waiting = len({row["id"] for tree in forest for row in tree.waiters})
    axes: Axes
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.3 * max(len(lines), 1)), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    if not forest:
        axes.set_title("Nobody waits for a lock", loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.axis("off")
        return axes
    roots = count(len(forest), "session") if len(forest) > 1 else "one session"
    axes.set_title(
        f"{count(waiting, 'session')} wait{'s' if waiting == 1 else ''} behind {roots}",
        loc="left",
        color=INK,
        fontsize=11,
        fontweight="bold",
    )
    longest = max(tree.longest_s for tree in forest)
    for y, (row, text, tail) in enumerate(lines):
        waits = (row.get("waiting_s") or 0.0) if row else 0.0
        is_root = bool(row) and not row["blocked_by"]
        axes.barh(y, waits, height=0.62, color=WAITER, alpha=0.75)
        axes.text(
            -0.45,
            y,
            text,
            transform=axes.get_yaxis_transform(),
            va="center",
            family="monospace",
            fontsize=8.5,
            color=ROOT if is_root else INK,
            fontweight="bold" if is_root else "normal",
        )
        axes.text(waits + 0.01 * longest, y, tail, va="center", fontsize=8.5, color=ROOT if is_root else INK)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.35 or 1)
    axes.set_yticks([])
    axes.set_xlabel("waiting for a lock, seconds", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)
    return axes


def _lines(forest: list[Tree]) -> Iterator[tuple[Row, str, str]]:
    """Yield a line for each session: its row (empty for the line that counts the rest), its label, its tail."""
    room = _MOST_LINES
    for number, tree in enumerate(forest):
        share = max(1, room // (len(forest) - number) - 1)
        yield tree.root, _name(tree.root), f"root: {tree.root['state'] or 'state not visible'}"
        for row in tree.waiters[:share]:
            what = command(row["query"]) if row["query"] else row["lock_mode"]
            yield row, "  " * (row["depth"] - 1) + "└ " + _name(row), f"{duration(row['waiting_s'] or 0)}  {what}"
        if len(tree.waiters) > share:
            yield {}, "", f"and {len(tree.waiters) - share} more"
        room -= share + 1


def _name(row: Row) -> str:
    return cut(printable(f"{row['name']} {row['application'] or row['role'] or row['backend_type'] or ''}"), 34)


def size_by_kind(rows: Rows) -> Axes:
    """Draw what the largest tables consist of: heap, TOAST and indexes, one stacked bar a table.

    ``rows`` are those of ``size_inventory``. Partitions are summed up under their root, the system catalogs and all
    tables beyond the tenth in a bar each.
    """
    own = [row for row in rows if row["schema"] not in _SYSTEM]
    system = [{**row, "relation": "system catalogs"} for row in rows if row["schema"] in _SYSTEM]
    tables, catalogs = rolled_up(own), rolled_up(system)
    rest = tables[_MOST_TABLES:]
    others = rolled_up([{**row, "parent": None, "relation": f"{count(len(rest), 'other table')}"} for row in rest])
    bars = [*tables[:_MOST_TABLES], *others, *catalogs]
    total = sum(bar["total_bytes"] for bar in bars)
    axes = _axes(height=1.25 + 0.3 * max(len(bars), 1))
    if not total:
        axes.set_title("Nothing is stored", loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.axis("off")
        return axes
    claim = f"All tables together take {size(total)}"
    if tables:
        claim = f"{_relation(tables[0]['relation'])} takes {tables[0]['total_bytes'] / total:.0%} of {size(total)}"
    axes.set_title(claim, loc="left", color=INK, fontsize=11, fontweight="bold", pad=24)
    largest = max(bar["total_bytes"] for bar in bars)
    unit, divisor = _unit(largest)
    for y, bar in enumerate(bars):
        left = 0.0
        for label, colour, value in (
            ("heap", HEAP, bar["heap_bytes"] + bar["fsm_vm_bytes"]),
            ("TOAST", TOAST, bar["toast_bytes"]),
            ("indexes", INDEX, bar["index_bytes"]),
        ):
            width = value / divisor
            axes.barh(y, width, left=left, height=0.62, color=colour, alpha=0.8, label=label if y == 0 else None)
            left += width
        tail = size(bar["total_bytes"]) + (f" in {count(bar['partitions'], 'partition')}" if bar["partitions"] else "")
        tail += ", estimated" if bar["estimated"] else ""
        axes.text(left + 0.01 * largest / divisor, y, tail, va="center", fontsize=8.5, color=INK)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * largest / divisor)
    axes.set_yticks(range(len(bars)), [_relation(bar["relation"]) for bar in bars])
    for tick in axes.get_yticklabels()[: len(bars) - len(others) - len(catalogs)]:
        tick.set_fontfamily("monospace")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"size, {unit}", color=INK, fontsize=9)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
    axes.legend(**place, frameon=False, fontsize=8.5, labelcolor=INK, borderpad=0, borderaxespad=0.2, handlelength=1)
    return axes


def growth_lines(rows: Rows) -> Axes:
    """Draw the size of the database over its snapshots; ``rows`` are those of ``history.database_sizes``."""
    axes = _axes(height=1.0 if len(rows) < 2 else 2.9)
    if len(rows) < 2:
        claim = (
            "No snapshot holds a size yet" if not rows else f"One snapshot so far: {size(rows[0]['database_bytes'])}"
        )
        axes.set_title(f"{claim}; growth shows from the second on", loc="left", color=INK, fontsize=11)
        axes.axis("off")
        return axes
    times, sizes = [row["taken_at"] for row in rows], [row["database_bytes"] for row in rows]
    span_s, grown = (times[-1] - times[0]).total_seconds(), sizes[-1] - sizes[0]
    verb = "grew by" if grown > 0 else "shrank by" if grown < 0 else "kept its size of"
    claim = f"The database {verb} {size(abs(grown) if grown else sizes[-1])} in {duration(span_s)}"
    if grown and span_s >= 86400:
        claim += f": {size(abs(grown) / (span_s / 86400))} a day"
    axes.set_title(claim, loc="left", color=INK, fontsize=11, fontweight="bold")
    unit, divisor = _unit(max(sizes))
    values = [value / divisor for value in sizes]
    axes.plot(times, values, color=INDEX, linewidth=1.8, marker="o", markersize=4 if len(rows) < 60 else 0)
    room = max(max(values) - min(values), 0.02 * max(values)) * 0.2
    axes.set_ylim(max(min(values) - room, 0), max(values) + room)
    axes.annotate(
        size(sizes[-1]),
        (times[-1], values[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK,
    )
    axes.margins(x=0.08)
    locator = mdates.AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_color(INK)
    axes.xaxis.get_offset_text().set_fontsize(8.5)
    axes.set_xlabel("time of the snapshot, UTC", color=INK, fontsize=9)
    axes.set_ylabel(f"size of the database, {unit}", color=INK, fontsize=9)
    axes.spines["left"].set_visible(True)
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.6)
    return axes


def _relation(name: str) -> str:
    return cut(printable(name), 36).replace("$", r"\$")  # a pair of dollars would set what is between them as a formula


def _axes(height: float) -> Axes:
    """Return empty axes that show through to a light or dark page."""
    axes: Axes
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)
    return axes


def _unit(largest: float) -> tuple[str, int]:
    """Return the unit in which a size is written best, and the bytes in one of it."""
    names = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    power = min(int(math.log(max(largest, 1), 1024)), len(names) - 1)
    return names[power], 1024**power
