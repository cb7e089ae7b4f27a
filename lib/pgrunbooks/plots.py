"""Pictures: one function each, rows in, Axes out; the title is the claim, and it is readable on light and dark."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pgrunbooks.check import Finding, Rows
from pgrunbooks.checks._indexes import is_bound, whole
from pgrunbooks.checks._sessions import Row, Tree, count, trees
from pgrunbooks.display import cut, duration, printable, size
from pgrunbooks.forecast import Days, Forecast, forecast
from pgrunbooks.masking import command
from pgrunbooks.sizes import SYSTEM, rolled_up

INK, QUIET, ROOT, WAITER = "#7c7c84", "#a5a5ad", "#c8372d", "#8e8e96"
HEAP, TOAST, INDEX = "#8e8e96", "#c98a2b", "#3f7fbf"
_MOST_LINES = 24
_MOST_LABELS = 8
_USES = {
    "scanned": (INDEX, INDEX),
    "not scanned": (INK, INK),
    "not scanned, but guards a key": (INK, "none"),
    "can go": (ROOT, ROOT),
}
_STATES = {"in transaction": ROOT, "active": INDEX, "idle": HEAP}
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
_NOT_ASKED = "This could not be asked; the verdict says why"
_MOST_TABLES = 10
_MOST_SHIFTS = 4


def lock_tree(rows: Rows | None) -> Axes:
    """Draw who waits for whom, and for how long: one line a session, the roots at the margin.

    ``rows`` are those of the check blocking-lock, None where it could not be asked. Up to 24 sessions are drawn, the
    longest waits of each root first; the rest is counted in the last line.
    """
    if rows is None:
        return _nothing(_NOT_ASKED)
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


def waits(rows: Rows | None) -> Axes:
    """Draw what the active sessions wait for: one bar a wait event, as long as the sessions that were in it.

    ``rows`` are those of the check wait-event-hotspot, None where it could not be asked: a row for each active session
    in each sample. Sessions without a wait event are on the CPU. Beyond the tenth event all are one bar.
    """
    if not rows:
        return _nothing("No session was active in the samples" if rows is not None else _NOT_ASKED)
    samples = 1 + max(row["sample"] for row in rows)
    events = Counter(
        f"{row['wait_event_type']}:{row['wait_event']}" if row["wait_event"] else "on the CPU" for row in rows
    ).most_common()
    if len(rest := events[_MOST_TABLES:]) > 1:
        events[_MOST_TABLES:] = [(f"{len(rest)} others", sum(number for _, number in rest))]
    axes = _axes(height=1.0 + 0.3 * len(events))
    name, most = events[0]
    does = "is" if name == "on the CPU" else "waits for"
    _claim(
        axes, f"{len(rows) / samples:.3g} active on average; {most / len(rows):.0%} of that {does} {printable(name)}"
    )
    longest = events[0][1] / samples
    for y, (event, number) in enumerate(events):
        colour = ROOT if event.startswith("Lock:") else INDEX if event == "on the CPU" else TOAST
        axes.barh(y, number / samples, height=0.62, color=colour, alpha=0.85)
        tail = f"{number / samples:.3g} ({number / len(rows):.0%})"
        axes.text(number / samples + 0.01 * longest, y, tail, va="center", fontsize=8.5, color=INK)
    axes.set_ylim(len(events) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * longest)
    axes.set_yticks(range(len(events)), [cut(printable(event), 34) for event, _ in events])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"active sessions, mean of {count(samples, 'sample')}", color=INK, fontsize=9)
    return axes


def connection_slots(rows: Rows | None) -> Axes:
    """Draw who fills the connection slots: one bar a role and application, each begins where the one above it ends.

    ``rows`` are those of the check connection-saturation, None where it could not be asked. The line is the number of
    slots that an ordinary role may take. Beyond the tenth consumer all are one bar.
    """
    if not rows:
        return _nothing("No session but this one holds a slot" if rows is not None else _NOT_ASKED)
    slots, used = rows[0]["max_connections"] - rows[0]["reserved"], rows[0]["used"]
    holders: dict[str, Counter[str]] = {}
    for row in rows:
        states = holders.setdefault(f"{row['role'] or 'no role'} {row['application']}".strip(), Counter())
        states["in transaction" if row["state"].startswith("idle in") else row["state"]] += row["sessions"]
    bars = sorted(holders.items(), key=lambda it: (-it[1].total(), it[0]))
    if len(rest := bars[_MOST_TABLES:]) > 1:
        bars[_MOST_TABLES:] = [(f"{len(rest)} others", sum((states for _, states in rest), Counter()))]
    axes = _axes(height=1.25 + 0.3 * len(bars))
    _claim(axes, f"{used} of {count(slots, 'slot')} are taken ({used / slots:.0%})", pad=24)
    left, right, labels = 0, 1.3 * max(slots, used), set()
    for y, (_, states) in enumerate(bars):
        for state in sorted(states, key=lambda it: [*_STATES, it].index(it)):
            name = f"_{state}" if state in labels else state
            axes.barh(y, states[state], left=left, height=0.62, color=_STATES.get(state, QUIET), alpha=0.85, label=name)
            labels.add(state)
            left += states[state]
        tail = ", ".join(f"{number} {state}" for state, number in states.most_common())
        start, gap = left - states.total(), 0.006 * right
        at = {"x": left + gap, "ha": "left", "color": INK}
        if left > 0.6 * right:  # no room beside it but before it, or on it where it begins early
            at = {"x": start - gap, "ha": "right", "color": INK}
            at |= {"x": left - gap, "color": "white"} if start < 0.3 * right else {}
        axes.text(y=y, s=tail, va="center", fontsize=8.5, zorder=3, **at)
    axes.axvline(slots, color=ROOT if used >= slots else INK, linewidth=1, linestyle="--")
    axes.text(slots + 0.006 * right, -0.5, f"limit {slots}", va="center", fontsize=8.5, color=INK)
    axes.set_ylim(len(bars) - 0.4, -0.8)
    axes.set_xlim(0, right)
    axes.set_yticks(range(len(bars)), [cut(printable(name), 34).replace("$", r"\$") for name, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("connection slots, added up", color=INK, fontsize=9)
    _legend(axes)
    return axes


def index_weight(rows: Rows | None, findings: Iterable[Finding] = ()) -> Axes:
    """Draw what the indexes of each table weigh against its heap, the heaviest first, partitions under their root.

    ``rows`` are those of any check of indexes, None where it could not be asked; sizes are estimates. Tables that
    ``findings`` name are red. Beyond the tenth table all are one bar.
    """
    tables = sorted(_weights(rows or ()), key=lambda it: (-it.index_bytes, it.table))
    if not tables:
        return _nothing("No table here has an index" if rows is not None else _NOT_ASKED)
    rest = tables[_MOST_TABLES:]
    if len(rest) > 1:
        sums = (
            sum(numbers) for numbers in zip(*((it.number, it.index_bytes, it.heap_bytes) for it in rest), strict=True)
        )
        tables[_MOST_TABLES:] = [_Weight(count(len(rest), "other table"), *sums)]
    axes = _axes(height=1.25 + 0.34 * len(tables))
    weight, heap = sum(it.index_bytes for it in tables), sum(it.heap_bytes for it in tables)
    _claim(axes, f"{size(weight)} of indexes on {size(heap)} of heap", pad=24)
    largest = max(max(it.heap_bytes, it.index_bytes) for it in tables)
    unit, divisor = _unit(largest)
    named = {finding.name for finding in findings if finding.kind == "table"}
    for y, it in enumerate(tables):
        is_named = it.table in named
        axes.barh(y, it.heap_bytes / divisor, height=0.74, color=HEAP, alpha=0.35, label=None if y else "heap")
        bar = axes.barh(y, it.index_bytes / divisor, height=0.36, color=ROOT if is_named else INDEX, alpha=0.9)
        bar.set_label("_" if y else "indexes")
        tail = f"{size(it.index_bytes)} in {it.number} index{'' if it.number == 1 else 'es'}"
        if is_named and it.heap_bytes:
            tail += f", {it.index_bytes / it.heap_bytes:.1f} times the heap"
        axes.text(
            (max(it.heap_bytes, it.index_bytes) + 0.01 * largest) / divisor,
            y,
            tail,
            va="center",
            fontsize=8.5,
            color=ROOT if is_named else INK,
            fontweight="bold" if is_named else "normal",
        )
    axes.set_ylim(len(tables) - 0.4, -0.6)
    axes.set_xlim(0, 1.35 * largest / divisor)
    axes.set_yticks(range(len(tables)), [cut(printable(it.table), 34) for it in tables])
    for label in axes.get_yticklabels()[: len(tables) - (len(rest) > 1)]:
        label.set_fontfamily("monospace")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"estimated size, {unit}", color=INK, fontsize=9)
    _legend(axes)
    return axes


@dataclass(frozen=True)
class _Weight:
    """A table, the number of its indexes (that of the most indexed partition), their bytes and those of its heap."""

    table: str
    number: int
    index_bytes: int
    heap_bytes: int


def _weights(rows: Rows) -> Iterator[_Weight]:
    families: dict[str, list[Row]] = {}
    for row in rows:
        if not row["is_partitioned"]:
            families.setdefault(row["root_table"] or row["table"], []).append(row)
    for name, indexes in families.items():
        number = max(Counter(row["table_oid"] for row in indexes).values())
        heaps = {row["table_oid"]: row["table_bytes"] for row in indexes}
        yield _Weight(name, number, _bytes(indexes), sum(heaps.values()))


def benefit_curve(rows: Rows | None) -> Axes:
    """Draw what is left of the workload's cost after each new index, over the bytes that the indexes take so far.

    ``rows`` are those of the check missing-index, None where it could not be asked, in the order in which they save
    most. Where the curve gets flat, further indexes cost more than they give.
    """
    if not rows:
        return _nothing("No new index would pay for itself" if rows is not None else _NOT_ASKED)
    axes = _axes(height=3.4)
    last = rows[-1]
    count_of = "One index leaves" if len(rows) == 1 else f"{len(rows)} indexes leave"
    _claim(axes, f"{count_of} {last['workload_cost']:.0%} of the workload's cost, in {size(last['workload_bytes'])}")
    unit, divisor = _unit(last["workload_bytes"])
    xs = [0.0, *(row["workload_bytes"] / divisor for row in rows)]
    ys = [100.0, *(row["workload_cost"] * 100 for row in rows)]
    axes.step(xs, ys, where="post", color=QUIET, linewidth=1.2)
    axes.plot(xs, ys, linestyle="none", marker="o", color=INDEX, markersize=5)
    for row, x, y in list(zip(rows, xs[1:], ys[1:], strict=True))[:_MOST_LABELS]:
        _label(axes, row["index"], (x, y), {"xytext": (7, 5), "ha": "left"}, is_named=False)
    axes.set_ylim(0, 108)
    axes.set_xlim(0, xs[-1] * 1.45)
    axes.spines["left"].set_visible(True)
    axes.set_xlabel(f"estimated size of the new indexes, {unit}", color=INK, fontsize=9)
    axes.set_ylabel("cost of the workload, % of today's", color=INK, fontsize=9)
    return axes


def index_use(rows: Rows | None, findings: Iterable[Finding] = ()) -> Axes:
    """Draw the size of each index against its scans; what nobody scans stands in a lane of its own.

    ``rows`` are those of any check of indexes, None where it could not be asked; a partitioned index is one point with
    the sums of its children. Indexes that ``findings`` name are red; those and the largest unscanned ones are labelled.
    """
    indexes = _largest(row for row in whole(rows or ()) if row["root_index_oid"] is None)
    if not indexes:
        return _nothing("No table here has an index" if rows is not None else _NOT_ASKED)
    named = {finding.name for finding in findings if finding.kind == "index"}
    idle = [row for row in indexes if not row["scans"]]
    can_go = [row for row in indexes if row["index"] in named]
    age_s = indexes[0]["counters_age_s"]
    span = "since the counters began" if age_s is None else f"in {duration(age_s)}"
    claim = f"{size(_bytes(idle))} of indexes saw no scan {span}"
    if len(idle) in (0, len(indexes)):
        claim = f"No index was scanned {span}" if idle else f"Every index was scanned {span}"
    axes = _axes(height=4.2)
    _claim(axes, claim + (f"; {size(_bytes(can_go))} can go" if can_go else ""), pad=24)

    most = max(row["scans"] or 0 for row in indexes)
    decades = math.log10(most) + 0.3 if most else 0.0
    right = -0.75 * (decades + 1) if idle else -0.2  # of the lane; between it and one scan is room for labels
    left = right - 0.25 * (decades + 1) if idle else right
    xs = {row["index"]: left + (right - left) * (0.08 + 0.84 * (turn * 0.618 % 1)) for turn, row in enumerate(idle)}
    xs |= {row["index"]: math.log10(row["scans"]) for row in indexes if row["scans"]}
    ys = {row["index"]: max(float(row["size_bytes"]), 8192.0) for row in indexes}
    for kind, (edge, face) in _USES.items():
        points = [row["index"] for row in indexes if _use(row, named) == kind]
        if points:
            at = [xs[name] for name in points], [ys[name] for name in points]
            axes.scatter(*at, s=36, facecolors=face, edgecolors=edge, alpha=0.85, linewidths=1.2, label=kind, zorder=3)
    if idle:
        axes.axvspan(left, right, color=QUIET, alpha=0.14, linewidth=0)

    axes.set_yscale("log", base=2)
    low, high = min(ys.values()) / 1.8, max(max(ys.values()), 65536.0) * 1.8
    axes.set_ylim(low, high)
    axes.set_xlim(left, max(decades, 0.05))
    powers = range(int(decades) + 1) if most else ()
    axes.set_xticks(
        [*([(left + right) / 2] if idle else []), *powers],
        [*(["none"] if idle else []), *(f"{10**power:,}" for power in powers)],
    )
    axes.set_yticks(ticks := [each for power in range(17) if low <= (each := 8192.0 * 8**power) <= high])
    axes.set_yticklabels([size(each) for each in ticks])
    axes.minorticks_off()

    for row in [row for row in can_go if row["scans"]][:_MOST_LABELS]:
        is_early = xs[row["index"]] < decades / 2
        place = {"xytext": (8 if is_early else -8, 0), "ha": "left" if is_early else "right"}
        _label(axes, row["index"], (xs[row["index"]], ys[row["index"]]), place, is_named=True)
    unscanned = [row for row in idle if row["index"] in named][:_MOST_LABELS]
    unscanned += [row for row in idle if _use(row, named) == "not scanned"][:3]
    height = math.inf
    for row in _largest(unscanned):
        height = min(ys[row["index"]], height / (high / low) ** 0.055)
        axes.plot([xs[row["index"]], right], [ys[row["index"]], height], color=QUIET, linewidth=0.7)
        place = {"xytext": (4, 0), "ha": "left"}
        _label(axes, row["index"], (right, height), place, is_named=row["index"] in named)
    axes.set_xlabel("scans", color=INK, fontsize=9)
    axes.set_ylabel("estimated size", color=INK, fontsize=9)
    _legend(axes)
    return axes


def _use(row: Row, named: Collection[str]) -> str:
    """Return which of the four kinds of points an index is."""
    if row["index"] in named:
        return "can go"
    if row["scans"]:
        return "scanned"
    return "not scanned, but guards a key" if row["is_unique"] or is_bound(row) else "not scanned"


def _label(axes: Axes, name: str, at: tuple[float, float], place: Mapping[str, Any], *, is_named: bool) -> None:
    axes.annotate(
        cut(printable(name), 40),
        at,
        textcoords="offset points",
        va="center",
        family="monospace",
        fontsize=8.5,
        color=ROOT if is_named else INK,
        fontweight="bold" if is_named else "normal",
        **place,
    )


def _largest(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["size_bytes"], row["index"]))


def _bytes(rows: Iterable[Row]) -> int:
    return sum(row["size_bytes"] for row in rows)


def _nothing(sentence: str) -> Axes:
    """Return axes that hold one sentence and no picture."""
    axes = _axes(height=0.9)
    _claim(axes, sentence)
    axes.axis("off")
    return axes


def _claim(axes: Axes, title: str, pad: float | None = None) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=pad)


def _legend(axes: Axes, columns: int = 4) -> None:
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
    axes.legend(**place, frameon=False, fontsize=8.5, labelcolor=INK, borderpad=0, borderaxespad=0.2, handlelength=1)


def size_by_kind(rows: Rows) -> Axes:
    """Draw what the largest tables consist of: heap, TOAST and indexes, one stacked bar a table.

    ``rows`` are those of ``size_inventory``. Partitions are summed up under their root, and so are the system
    catalogs and the tables beyond the tenth.
    """
    bars = rolled_up(rows, _MOST_TABLES)
    total = sum(bar["total_bytes"] for bar in bars)
    axes = _axes(height=1.25 + 0.3 * max(len(bars), 1))
    if not total:
        axes.set_title("Nothing is stored", loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.axis("off")
        return axes
    share = f"{bars[0]['total_bytes'] / total:.0%}" if len(bars) > 1 else "all"
    largest = bars[0]["relation"]
    claim = f"{_relation(largest)} takes" if largest != SYSTEM else "The system catalogs take"
    claim += f" {share} of {size(total)}"
    axes.set_title(claim, loc="left", color=INK, fontsize=11, fontweight="bold", pad=24)
    longest = max(bar["total_bytes"] for bar in bars)
    unit, divisor = _unit(longest)
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
        axes.text(left + 0.01 * longest / divisor, y, tail, va="center", fontsize=8.5, color=INK)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * longest / divisor)
    axes.set_yticks(range(len(bars)), [_relation(bar["relation"]) for bar in bars])
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontfamily("monospace" if "." in bar["relation"] else "sans-serif")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"size, {unit}", color=INK, fontsize=9)
    _legend(axes)
    return axes


def growth_lines(rows: Rows) -> Axes:
    """Draw the size of the database over its snapshots; ``rows`` are those of ``growth.database_sizes``."""
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
    _dates(axes)
    axes.set_xlabel("time of the snapshot, UTC", color=INK, fontsize=9)
    axes.set_ylabel(f"size of the database, {unit}", color=INK, fontsize=9)
    return axes


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


def growth_parts(rows: Rows) -> Axes:
    """Draw what the tables that grew most grew by: rows, bloat, indexes, TOAST, what is new and what was dropped.

    ``rows`` are those of ``growth.attribution``: one stacked bar a table, what fell to the left of the zero.
    """
    if not rows:
        return _nothing("Nothing to compare with yet: growth shows from the second snapshot on")
    whole = sum(row["grown_bytes"] for row in rows)
    axes = _axes(height=1.25 + 0.3 * len(rows))
    _claim(axes, _parts_claim(rows, whole), pad=24)
    reach = [[sum(max(sign * row[part], 0) for part in _GROWN_BY) for sign in (1, -1)] for row in rows]
    most, least = (max(side, default=0) for side in zip(*reach, strict=True))
    unit, divisor = _unit(max(most, least))
    wide = (most + least or 1) / divisor
    drawn = [it for it in _GROWN_BY if any(row[it] for row in rows)]
    for label, style in (_GROWN_BY[part] for part in drawn):
        axes.barh(0, 0, label=label, **style)  # for the legend, in this order
    for y, (row, (right, _)) in enumerate(zip(rows, reach, strict=True)):
        ends = {True: 0.0, False: 0.0}
        for part in drawn:
            if value := row[part] / divisor:
                axes.barh(y, value, left=ends[value > 0], height=0.62, **_GROWN_BY[part][1])
                ends[value > 0] += value
        tail = _signed(row["grown_bytes"])
        tail += ", estimated" if row["estimated"] else ""
        axes.text(right / divisor + 0.01 * wide, y, tail, va="center", fontsize=8.5, color=INK)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1.03 * least / divisor, most / divisor + 0.22 * wide)
    axes.set_yticks(range(len(rows)), [_relation(row["relation"]) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontfamily("monospace" if "." in row["relation"] else "sans-serif")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"growth, {unit}", color=INK, fontsize=9)
    if drawn:
        _legend(axes, columns=len(_GROWN_BY))
    return axes


def _parts_claim(rows: Rows, whole: int) -> str:
    first = rows[0]
    verb = "grew" if whole >= 0 else "shrank"
    if first["grown_bytes"] <= 0 or "." not in first["relation"]:
        return f"The database {verb} by {size(abs(whole))}; no table of yours grew by much"
    part = max(_GROWN_BY, key=lambda it: first[it])
    share = f"; {first[part] / first['grown_bytes']:.0%} of that is {_GROWN_BY[part][0]}" if first[part] > 0 else ""
    if first[part] > first["grown_bytes"]:
        share = f", by {_GROWN_BY[part][0]} above all"
    of = f" of the {size(whole)} that came" if whole >= first["grown_bytes"] else ""
    return f"{_relation(first['relation'])} grew by {size(first['grown_bytes'])}{of}{share}"


def table_lines(rows: Rows) -> list[Axes]:
    """Draw how the fastest tables came to their size: one small picture a table, one time axis, its own size axis.

    ``rows`` are those of ``growth.fastest``. A level shift, such as a load or a purge, is marked with its bytes.
    """
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row["relation"], []).append(row)
    if not tables:
        return [_nothing("No table grew since the earlier snapshot")]
    columns = min(len(tables), 2)
    lines = math.ceil(len(tables) / columns)
    shape = {"figsize": (9, 0.7 + 1.55 * lines), "sharex": True, "squeeze": False, "layout": "constrained"}
    figure, grid = plt.subplots(lines, columns, **shape)
    figure.patch.set_alpha(0)
    cells = list(grid.flat)
    for axes, (name, own) in zip(cells, tables.items(), strict=False):
        _table_line(axes, name, [(row["taken_at"], row["total_bytes"]) for row in own])
    for axes in cells[len(tables) :]:
        axes.set_visible(False)
        cells[cells.index(axes) - columns].tick_params(labelbottom=True)
    shifted = sum(bool(axes.collections) for axes in cells[: len(tables)])
    claim = f"{_relation(next(iter(tables)))} grew most"
    if shifted:
        claim += f"; {shifted} of {count(len(tables), 'table')} had a jump, which is no trend"
    figure.suptitle(claim, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return cells[: len(tables)]


def _table_line(axes: Axes, name: str, points: Sequence[tuple[datetime.datetime, int]]) -> None:
    _plain(axes)
    unit, divisor = _unit(max(size for _, size in points))
    foretold = forecast(points)
    rate = foretold.daily_bytes[1] if foretold.daily_bytes else None
    tail = "" if rate is None else f"  {_signed(rate)} a day"
    axes.set_title(cut(printable(name), 34).replace("$", r"\$") + tail, loc="left", color=INK, fontsize=8.5)
    sizes = {at: size / divisor for at, size in points}
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) < 20 else {}
    axes.plot(mdates.date2num(list(sizes)), list(sizes.values()), color=INDEX, linewidth=1.5, **marker)
    low, high = min(sizes.values()), max(sizes.values())
    room = max(0.15 * (high - low), 0.1 * high - (high - low))
    axes.set_ylim(max(low - room, 0), high + room)
    seen = [it for it in foretold.shifts if abs(it.bytes) / divisor > 0.05 * (high - low)]
    for shift in sorted(seen, key=lambda it: -abs(it.bytes))[:_MOST_SHIFTS]:
        at = mdates.date2num(shift.at)
        axes.vlines(at, *sorted((sizes[shift.after], sizes[shift.at])), color=TOAST, linewidth=3)
        is_late = shift.at > points[0][0] + (points[-1][0] - points[0][0]) / 2
        text = _signed(shift.bytes)
        place: dict[str, Any] = {"xytext": (-6 if is_late else 6, 0), "ha": "right" if is_late else "left"}
        middle = (sizes[shift.after] + sizes[shift.at]) / 2
        axes.annotate(text, (at, middle), textcoords="offset points", va="center", fontsize=8, color=TOAST, **place)
    _dates(axes)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel(unit, color=INK, fontsize=8.5)


def _signed(by: float) -> str:
    return f"{'-' if by < 0 else '+' if by else ''}{size(abs(by))}"


def write_rates(rows: Rows) -> Axes:
    """Draw how much WAL the server wrote a day, and below it how much went into temporary files of the database.

    ``rows`` are those of ``growth.write_rates``. Returns the axes of the WAL.
    """
    known = {name: [row[f"{name}_daily_bytes"] for row in rows] for name in ("wal", "temp")}
    if not any(value is not None for values in known.values() for value in values):
        return _nothing("No rate yet: it takes two snapshots, half an hour apart")
    figure, cells = plt.subplots(2, 1, figsize=(9, 3.4), sharex=True, layout="constrained")
    figure.patch.set_alpha(0)
    for axes, (name, colour) in zip(cells, (("wal", INDEX), ("temp", TOAST)), strict=True):
        _plain(axes)
        values = [value for value in known[name] if value is not None]
        unit, divisor = _unit(max(values, default=1))
        for row, value in zip(rows, known[name], strict=True):
            if value is not None:
                span = mdates.date2num([row["before"], row["taken_at"]])
                axes.fill_between(span, [value / divisor] * 2, color=colour, alpha=0.8, linewidth=0)
        axes.set_ylim(0, 1.15 * max(values, default=0) / divisor or 1)
        _dates(axes)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel(f"{'WAL' if name == 'wal' else 'temporary'}, {unit} a day", color=INK, fontsize=8.5)
    cells[1].set_xlabel(
        "time, UTC; each block is the mean between two snapshots, the title names their median", color=INK, fontsize=9
    )
    first: Axes = cells[0]
    _claim(first, _rates_claim(known))
    return first


def _rates_claim(known: Mapping[str, Sequence[float | None]]) -> str:
    parts = []
    for name, words in (("wal", "WAL"), ("temp", "temporary files")):
        values = [value for value in known[name] if value is not None]
        if values and max(values) > 0:
            peak = f", at most {size(max(values))}" if max(values) > 1.5 * median(values) else ""
            parts.append(f"{words}: {size(median(values))} a day{peak}")
    return "; ".join(parts) or "Neither WAL nor temporary files were written"


def disk_fan(rows: Rows | None) -> Axes:
    """Draw when the disk is full: the growth of the tablespaces so far and what may come, against the room there is.

    ``rows`` are those of the check disk-full-forecast, None where it could not be asked; of several volumes the one
    that is full first is drawn. Level shifts are labelled with what they were.
    """
    if not rows:
        return _nothing("The target does not name its disk_bytes" if rows is not None else _NOT_ASKED)
    if not (volumes := [row for row in rows if "points" in row]):
        return _nothing(f"No forecast: {rows[0]['why']}")
    row = min(volumes, key=_soonest)
    what = f"Tablespace {row['tablespace']}" if row["tablespace"] else "The disk"
    causes = {datetime.datetime.fromisoformat(it["at"]): it["cause"] for it in row["shifts"]}
    return _fan(row["points"], what, row["disk_bytes"], row["wal_bytes"], causes)


def _soonest(row: Row) -> float:
    days = forecast(row["points"]).days_until(row["disk_bytes"] - row["wal_bytes"])
    return math.inf if days is None or days.lower is None else days.lower


def _fan(
    points: Sequence[tuple[datetime.datetime, int]],
    what: str,
    disk_bytes: float | None,
    wal_bytes: float = 0.0,
    causes: Mapping[datetime.datetime, str | None] = MappingProxyType({}),
    came: Sequence[tuple[datetime.datetime, int]] = (),
) -> Axes:
    foretold = forecast(points)
    if foretold.basis == "none" or foretold.last is None:
        return _nothing(f"No forecast: {foretold.model}")
    room = None if disk_bytes is None else disk_bytes - wal_bytes
    days = foretold.days_until(room) if room is not None else None
    horizon = float(min(max((points[-1][0] - points[0][0]).days, 14), 90))
    if came:
        horizon = max((came[-1][0] - points[-1][0]).days, 1)
    if days and days.median:
        horizon = min(max(horizon, 1.25 * days.median), 365)
    ahead, paths = foretold.paths(horizon)
    times = mdates.date2num(ahead)
    top = max(paths[0.75][-1], *(size for _, size in [*points, *came]), room or 0)
    if room is not None and room > 5 * max(paths[0.9][-1], points[-1][1]):
        top = paths[0.9][-1]  # far away: the line would press the rest flat
    unit, divisor = _unit(top)

    def scaled(sizes: Iterable[float]) -> list[float]:
        return [size / divisor for size in sizes]

    axes = _axes(height=3.4)
    _claim(axes, _fan_claim(foretold, days, what, disk_bytes))
    axes.fill_between(times, scaled(paths[0.1]), scaled(paths[0.9]), color=INDEX, alpha=0.16, linewidth=0)
    axes.fill_between(times, scaled(paths[0.25]), scaled(paths[0.75]), color=INDEX, alpha=0.26, linewidth=0)
    axes.plot(times, scaled(paths[0.5]), color=INDEX, linewidth=1.4, linestyle="--")
    known = sorted(points)
    first = mdates.date2num(known[0][0])
    axes.plot(mdates.date2num([at for at, _ in known]), scaled(size for _, size in known), color=INK, linewidth=1.8)
    if came:
        dates = mdates.date2num([at for at, _ in came])
        axes.plot(dates, scaled(size for _, size in came), color=INK, linestyle="none", marker="o", markersize=3.5)
    low = min(*(size for _, size in points), paths[0.25][-1]) / divisor
    high = top / divisor
    margin = 0.08 * (high - low or high)
    axes.set_ylim(max(low - margin, 0), high + 2 * margin)
    for shift in sorted(foretold.shifts, key=lambda it: -abs(it.bytes))[:_MOST_SHIFTS]:
        sizes = dict(known)
        middle = min(sizes[shift.after], sizes[shift.at]) / divisor
        at = mdates.date2num(shift.at)
        axes.plot([at, at], scaled([sizes[shift.after], sizes[shift.at]]), color=TOAST, linewidth=3)
        cause = causes.get(shift.at)
        text = f"{'+' if shift.is_up else '-'}{size(abs(shift.bytes))}" + (
            f": {cut(printable(cause), 44)}" if cause else ""
        )
        is_late = at > (first + times[-1]) / 2
        is_low = middle - low < (high - low) / 8  # no room below it
        place: dict[str, Any] = {
            "xytext": (-8 if is_late else 8, 8 if is_low else -8),
            "ha": "right" if is_late else "left",
        }
        text = text.replace("$", r"\$")
        axes.annotate(text, (at, middle), textcoords="offset points", va="center", fontsize=8.5, color=TOAST, **place)
    if room is not None and room / divisor <= high + 2 * margin:
        axes.axhline(room / divisor, color=ROOT, linewidth=1, linestyle="--")
        less = f" less {size(wal_bytes)} of WAL" if wal_bytes else ""
        label = f"room for {size(room)}: the disk{less}" if less else f"the disk, {size(room)}"
        place = {"xytext": (4, 3), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(label, (first, room / divisor), fontsize=8.5, color=ROOT, **place)
    axes.set_xlim(first, times[-1])
    _dates(axes)
    what_came = "; the dots are what came" if came else ""
    axes.set_xlabel(f"time, UTC; the fan holds 50 % and 80 % of what may come{what_came}", color=INK, fontsize=9)
    axes.set_ylabel(f"size, {unit}", color=INK, fontsize=9)
    return axes


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


def _dates(axes: Axes) -> None:
    """Write times on the x axis in few words, and lines for the sizes."""
    locator = mdates.AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_color(INK)
    axes.xaxis.get_offset_text().set_fontsize(8.5)
    axes.spines["left"].set_visible(True)
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.6)


def _relation(name: str) -> str:
    return cut(printable(name), 36).replace("$", r"\$")  # a pair of dollars would set what is between them as a formula


def _axes(height: float) -> Axes:
    """Return empty axes that show through to a light or dark page."""
    axes: Axes
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    figure.patch.set_alpha(0)
    _plain(axes)
    return axes


def _plain(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)


def _unit(largest: float) -> tuple[str, int]:
    """Return the unit in which a size is written best, and the bytes in one of it."""
    names = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    power = min(int(math.log(max(largest, 1), 1024)), len(names) - 1)
    return names[power], 1024**power
