"""What an index costs the writers of its table, in the same unit as what it saves its readers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pgrunbooks.advice.accesses import Write
from pgrunbooks.advice.catalog import Catalog, Table
from pgrunbooks.lab import Index

_BULK = 100  # rows a call: whoever inserts as many at once fills a table
_NEARLY = 0.9  # ANALYZE estimates the rows of a large table from a sample
# In the planner's units: going down a btree (cpu_operator_cost x 50 a level) and one page that becomes dirty. GIN
# writes several entries a row, GiST picks its way, BRIN changes one summary for a range of pages.
_ENTRY_COST: Mapping[str, float] = {"btree": 1.5, "gin": 6.0, "gist": 3.0, "brin": 0.02, "hash": 1.5}


@dataclass(frozen=True)
class Writes:
    """What was written in the window of the workload: entries that every index of a table gets, and the updates that
    no index saw so far (HOT), by the columns that they set. ``ms_per_cost`` is what the planner's unit took here.
    """

    entries: Mapping[str, float]
    hot: Mapping[str, float]
    updates: Mapping[str, Mapping[frozenset[str], float]] = field(default_factory=dict)
    indexes: Mapping[str, int] = field(default_factory=dict)
    ms_per_cost: float = 0.01
    total_ms: float = 1.0

    def cost(self, index: Index, columns: frozenset[str]) -> float:
        """Return the planner's cost of keeping an index in the window, HOT updates that it would end included."""
        entry = _ENTRY_COST.get(index.method, 1.5)
        return self.entries.get(index.table, 0.0) * entry + self.hot_lost(index, columns) * (
            entry + _ENTRY_COST["btree"] * self.indexes.get(index.table, 0)
        )

    def hot_lost(self, index: Index, columns: frozenset[str]) -> float:
        """Return the HOT updates in the window that would be none any more, because they set a column of the index."""
        if index.method == "brin":  # summaries do not keep an update from being HOT (16 and later)
            return 0.0
        setting = sum(rows for changed, rows in self.updates.get(index.table, {}).items() if changed & columns)
        return min(setting, self.hot.get(index.table, 0.0))

    def share(self, index: Index, columns: frozenset[str]) -> float:
        """Return the cost as a share of the time of the workload."""
        return self.cost(index, columns) * self.ms_per_cost / self.total_ms if self.total_ms else 0.0


def writes_of(
    catalog: Catalog,
    written: Iterable[tuple[Write, int, float]],
    *,
    window_share: float,
    ms_per_cost: float,
    total_ms: float,
) -> Writes:
    """Return what was written, from the tables' counters; ``window_share`` is the part of their time that the
    workload's window is, ``written`` what the workload's own statements wrote, with their calls and rows.
    """
    updates: dict[str, dict[frozenset[str], float]] = defaultdict(lambda: defaultdict(float))
    inserts: dict[str, float] = defaultdict(float)
    filled: dict[str, float] = defaultdict(float)
    for write, calls, rows in written:
        if write.command == "update":
            updates[write.table][write.columns] += rows
        elif write.command == "insert":
            (filled if rows >= _BULK * calls else inserts)[write.table] += rows
    tables = catalog.tables.values()
    return Writes(
        entries={
            it.name: _inserted(it, inserts[it.name], filled[it.name], window_share)
            + (it.updated - it.hot_updated) * window_share
            for it in tables
        },
        hot={it.name: it.hot_updated * window_share for it in tables},
        updates=updates,
        indexes={it.name: len(it.indexes) for it in tables},
        ms_per_cost=ms_per_cost,
        total_ms=total_ms,
    )


def _inserted(table: Table, seen: float, filled: float, window_share: float) -> float:
    """Return the rows that were inserted in the window, ``seen`` and, many at once, ``filled`` by its statements.

    What covers the filling of the table is no rate: only what goes beyond the rows that are there counts of it.
    """
    if table.inserted < table.rows * _NEARLY:
        return table.inserted * window_share
    return max((table.inserted - table.rows) * window_share, seen + max(filled - table.rows, 0.0))
