"""Pictures of indexes: what they weigh, which of them are used, and what new ones would save."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pgrunbooks.check import Finding, Rows
from pgrunbooks.checks._indexes import is_bound, whole
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import duration, size
from pgrunbooks.plots._style import (
    FOUND,
    HEAP,
    INDEX,
    INK,
    MOST_BARS,
    NOT_ASKED,
    QUIET,
    ROOT,
    best_unit,
    canvas,
    claim,
    legend,
    measure,
    name_bars,
    note,
    nothing,
    tail,
    written,
)

_NO_INDEX = "No table here has an index"
_MOST_LABELS = 8
_USES = {
    "scanned": (INDEX, INDEX),
    "not scanned": (INK, INK),
    "not scanned, but guards a key": (INK, "none"),
    "can go": (ROOT, ROOT),
}


def index_weight(rows: Rows | None, findings: Iterable[Finding] = ()) -> Axes:
    """Draw what the indexes of each table weigh against its heap, the heaviest first, partitions under their root.

    ``rows`` are those of any check of indexes, None where it could not be asked; sizes are estimates. Tables that
    ``findings`` name are red. Beyond the tenth table all are one bar.
    """
    tables = _heaviest(rows or ())
    if not tables:
        return nothing(_NO_INDEX if rows is not None else NOT_ASKED)
    axes = canvas(height=1.25 + 0.34 * len(tables))
    weight, heap = sum(it.index_bytes for it in tables), sum(it.heap_bytes for it in tables)
    claim(axes, f"{size(weight)} of indexes on {size(heap)} of heap", above_legend=True)
    longest = max(it.longest for it in tables)
    unit, divisor = best_unit(longest)
    named = {finding.name for finding in findings if finding.kind == "table"}
    for y, it in enumerate(tables):
        is_named = it.table in named
        colour = ROOT if is_named else INDEX
        axes.barh(y, it.heap_bytes / divisor, height=0.74, color=HEAP, alpha=0.35, label="_" if y else "heap")
        axes.barh(y, it.index_bytes / divisor, height=0.36, color=colour, alpha=0.9, label="_" if y else "indexes")
        text = f"{size(it.index_bytes)} in {it.number} index{'' if it.number == 1 else 'es'}"
        if is_named and it.heap_bytes:
            text += f", {it.index_bytes / it.heap_bytes:.1f} times the heap"
        tail(axes, (it.longest + 0.01 * longest) / divisor, y, text, **(FOUND if is_named else {}))
    name_bars(axes, [it.table for it in tables], are_relations=True)
    axes.set_xlim(0, 1.35 * longest / divisor)
    measure(axes, x=f"estimated size, {unit}")
    legend(axes)
    return axes


@dataclass(frozen=True)
class _Weight:
    """A table, the number of its indexes (that of the most indexed partition), their bytes and those of its heap."""

    table: str
    number: int
    index_bytes: int
    heap_bytes: int

    @property
    def longest(self) -> int:
        return max(self.index_bytes, self.heap_bytes)


def _heaviest(rows: Rows) -> list[_Weight]:
    """Return the tables with the heaviest indexes, and in one line what the others come to."""
    tables = sorted(_weights(rows), key=lambda it: (-it.index_bytes, it.table))
    if len(rest := tables[MOST_BARS:]) > 1:
        number, index_bytes, heap_bytes = (
            sum(getattr(it, part) for it in rest) for part in ("number", "index_bytes", "heap_bytes")
        )
        tables[MOST_BARS:] = [_Weight(count(len(rest), "other table"), number, index_bytes, heap_bytes)]
    return tables


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
        return nothing("No new index would pay for itself" if rows is not None else NOT_ASKED)
    axes = canvas(height=3.4)
    last = rows[-1]
    count_of = "One index leaves" if len(rows) == 1 else f"{len(rows)} indexes leave"
    claim(axes, f"{count_of} {last['workload_cost']:.0%} of the workload's cost, in {size(last['workload_bytes'])}")
    unit, divisor = best_unit(last["workload_bytes"])
    xs = [0.0, *(row["workload_bytes"] / divisor for row in rows)]
    ys = [100.0, *(row["workload_cost"] * 100 for row in rows)]
    axes.step(xs, ys, where="post", color=QUIET, linewidth=1.2)
    axes.plot(xs, ys, linestyle="none", marker="o", color=INDEX, markersize=5)
    for row, x, y in list(zip(rows, xs[1:], ys[1:], strict=True))[:_MOST_LABELS]:
        _label(axes, row["index"], (x, y), (7, 5))
    axes.set_ylim(0, 108)
    axes.set_xlim(0, xs[-1] * 1.45)
    axes.spines["left"].set_visible(True)
    measure(axes, x=f"estimated size of the new indexes, {unit}", y="cost of the workload, % of today's")
    return axes


def index_use(rows: Rows | None, findings: Iterable[Finding] = ()) -> Axes:
    """Draw the size of each index against its scans; what nobody scans stands in a lane of its own.

    ``rows`` are those of any check of indexes, None where it could not be asked; a partitioned index is one point with
    the sums of its children. Indexes that ``findings`` name are red; those and the largest unscanned ones are labelled.
    """
    indexes = _largest(row for row in whole(rows or ()) if row["root_index_oid"] is None)
    if not indexes:
        return nothing(_NO_INDEX if rows is not None else NOT_ASKED)
    named = {finding.name for finding in findings if finding.kind == "index"}
    field = _Field.of(indexes)
    axes = canvas(height=4.2)
    claim(axes, _use_claim(indexes, named), above_legend=True)
    for kind, (edge, face) in _USES.items():
        points = [field.at[row["index"]] for row in indexes if _use(row, named) == kind]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, s=36, fc=face, ec=edge, alpha=0.85, linewidths=1.2, label=kind, zorder=3)
    _scale(axes, field)
    _label_scanned(axes, field, [row["index"] for row in indexes if row["index"] in named and row["scans"]])
    idle = [row for row in indexes if not row["scans"]]
    unscanned = [row for row in idle if row["index"] in named][:_MOST_LABELS]
    unscanned += [row for row in idle if _use(row, named) == "not scanned"][:3]
    _label_unscanned(axes, field, [row["index"] for row in _largest(unscanned)], named)
    measure(axes, x="scans", y="estimated size")
    legend(axes)
    return axes


def _use_claim(indexes: Sequence[Row], named: Collection[str]) -> str:
    idle = [row for row in indexes if not row["scans"]]
    can_go = [row for row in indexes if row["index"] in named]
    age_s = indexes[0]["counters_age_s"]
    span = "since the counters began" if age_s is None else f"in {duration(age_s)}"
    claim = f"{size(_bytes(idle))} of indexes saw no scan {span}"
    if len(idle) in (0, len(indexes)):
        claim = f"No index was scanned {span}" if idle else f"Every index was scanned {span}"
    return claim + (f"; {size(_bytes(can_go))} can go" if can_go else "")


@dataclass(frozen=True)
class _Field:
    """Where each index stands: to the right the more it is scanned, and further up the larger it is.

    A unit of x is a factor of ten in scans, with one scan at zero. What nobody scans is spread over a lane from
    ``left`` to ``lane_right``, with room for the labels between the lane and one scan.
    """

    at: Mapping[str, tuple[float, float]]
    left: float
    lane_right: float
    right: float
    low: float
    high: float

    @classmethod
    def of(cls, indexes: Sequence[Row]) -> _Field:
        most = max(row["scans"] or 0 for row in indexes)
        idle = [row["index"] for row in indexes if not row["scans"]]
        right = math.log10(most) + 0.3 if most else 0.0
        lane_right = -0.75 * (right + 1) if idle else -0.2
        left = lane_right - 0.25 * (right + 1) if idle else lane_right
        xs = {name: left + (lane_right - left) * (0.08 + 0.84 * (turn * 0.618 % 1)) for turn, name in enumerate(idle)}
        xs |= {row["index"]: math.log10(row["scans"]) for row in indexes if row["scans"]}
        ys = {row["index"]: max(float(row["size_bytes"]), 8192.0) for row in indexes}
        low, high = min(ys.values()) / 1.8, max(max(ys.values()), 65536.0) * 1.8
        return cls({name: (x, ys[name]) for name, x in xs.items()}, left, lane_right, right, low, high)

    @property
    def has_lane(self) -> bool:
        return self.left < self.lane_right


def _scale(axes: Axes, field: _Field) -> None:
    """Write powers of ten at the foot, sizes at the side, and shade the lane."""
    powers = range(int(field.right) + 1) if field.right else ()
    ticks: dict[float, str] = {power: f"{10**power:,}" for power in powers}
    if field.has_lane:
        axes.axvspan(field.left, field.lane_right, color=QUIET, alpha=0.14, linewidth=0)
        ticks = {(field.left + field.lane_right) / 2: "none", **ticks}
    axes.set_xlim(field.left, max(field.right, 0.05))
    axes.set_xticks(list(ticks), ticks.values())
    axes.set_yscale("log", base=2)
    axes.set_ylim(field.low, field.high)
    sizes = [each for power in range(17) if field.low <= (each := 8192.0 * 8**power) <= field.high]
    axes.set_yticks(sizes, [size(each) for each in sizes])
    axes.minorticks_off()


def _label_scanned(axes: Axes, field: _Field, names: Sequence[str]) -> None:
    """Label what can go although it is scanned, towards the middle of the picture."""
    for name in names[:_MOST_LABELS]:
        _label(axes, name, field.at[name], (8 if field.at[name][0] < field.right / 2 else -8, 0), is_named=True)


def _label_unscanned(axes: Axes, field: _Field, names: Sequence[str], named: Collection[str]) -> None:
    """Label indexes of the lane, the largest first, to the right of it and each below the one before."""
    height = math.inf
    for name in names:
        x, y = field.at[name]
        height = min(y, height / (field.high / field.low) ** 0.055)
        axes.plot([x, field.lane_right], [y, height], color=QUIET, linewidth=0.7)
        _label(axes, name, (field.lane_right, height), (4, 0), is_named=name in named)


def _use(row: Row, named: Collection[str]) -> str:
    """Return which of the four kinds of points an index is."""
    if row["index"] in named:
        return "can go"
    if row["scans"]:
        return "scanned"
    return "not scanned, but guards a key" if row["is_unique"] or is_bound(row) else "not scanned"


def _label(
    axes: Axes, name: str, at: tuple[float, float], offset: tuple[float, float], *, is_named: bool = False
) -> None:
    side = "left" if offset[0] > 0 else "right"
    note(axes, written(name, 40), at, offset, ha=side, family="monospace", **(FOUND if is_named else {}))


def _largest(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["size_bytes"], row["index"]))


def _bytes(rows: Iterable[Row]) -> int:
    return sum(row["size_bytes"] for row in rows)
