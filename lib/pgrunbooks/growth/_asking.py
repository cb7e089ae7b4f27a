"""Questions to many snapshots at once: their rows as one table, which DuckDB answers in memory.

A file that is damaged is named in the log and left aside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow

from pgrunbooks import months, snapshot_file
from pgrunbooks.months import Snapshot
from pgrunbooks.snapshot_file import DAMAGE
from pgrunbooks.store import Location, each, shown

_LOG = logging.getLogger(__name__)


def ask(sql: str, tables: Sequence[pyarrow.Table], **parameters: Any) -> list[dict[str, Any]]:
    """Ask DuckDB about some tables, which are called ``measured`` together."""
    import duckdb  # a tenth of a second that a look at one file need not wait for

    if not tables:
        return []
    with duckdb.connect(":memory:", config=months.QUIET) as engine:
        engine.register("measured", pyarrow.concat_tables(tables, promote_options="default"))
        answer = engine.execute(sql, parameters)
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


def measured_in(
    taken: Sequence[Snapshot], kind: str, columns: Sequence[str]
) -> tuple[list[pyarrow.Table], set[Location]]:
    """Return columns of a kind with ``snapshot``, the number in ``taken``, and the files that proved damaged.

    Each file is read once; the damaged ones are named in the log.
    """
    numbers: dict[Location, dict[int | None, int]] = {}
    for number, snapshot in enumerate(taken):
        numbers.setdefault(snapshot.path, {})[snapshot.member] = number
    damaged = set()

    def read(path: Location) -> list[pyarrow.Table]:
        try:
            return list(_numbered(path, numbers[path], kind, columns))
        except DAMAGE as problem:
            _LOG.warning("%s: left aside: %s", shown(path), snapshot_file.reason(problem))
            damaged.add(path)
            return []

    tables = [table for some in each(read, list(numbers)) for table in some]
    return tables, damaged


def _numbered(
    path: Location, numbers: Mapping[int | None, int], kind: str, columns: Sequence[str]
) -> Iterator[pyarrow.Table]:
    """Yield the rows of a kind in a file with the numbers of their snapshots."""
    members = sorted(member for member in numbers if member is not None)
    for table in snapshot_file.parts(path, kind, columns, members or None):
        if members:
            lookup = [numbers.get(member, 0) for member in range(members[-1] + 1)]
            snapshot = pyarrow.array(lookup, pyarrow.int32()).take(table["member"].combine_chunks())
            yield table.drop_columns("member").append_column("snapshot", snapshot)
        else:
            snapshot = pyarrow.repeat(pyarrow.scalar(numbers[None], pyarrow.int32()), table.num_rows)
            yield table.append_column("snapshot", snapshot)


def read_known(taken: Sequence[Snapshot], kind: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield the time and the values of some columns for each row of a kind in some snapshots, in no order.

    What an older file did not measure yet is left out.
    """
    for table in measured_in(taken, kind, columns)[0]:
        if set(columns) <= set(table.column_names):
            for number, its_kind, *values in _values(table, "snapshot", "kind", *columns):
                if its_kind == kind:
                    yield taken[number].at, *values


def _values(table: pyarrow.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
