"""What grew: questions to many snapshots of the history at once, which DuckDB answers in memory.

Partitions count under their root. A file that is damaged is named in the log and left aside.
"""

from __future__ import annotations

import datetime
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow

from pgrunbooks import months, snapshot_file
from pgrunbooks.history import MIN_AGE_S, read_rows
from pgrunbooks.months import Snapshot
from pgrunbooks.sizes import SYSTEM
from pgrunbooks.snapshot_file import DAMAGE
from pgrunbooks.store import Location, each, shown

PARTS = (*("rows_bytes", "bloat_bytes", "index_bytes", "toast_bytes", "new_bytes", "dropped_bytes", "other_bytes"),)
OUTSIDE = "outside of tables"
_RATE_S = 1800.0
_COUNTED = ("wal_bytes", "temp_bytes", "stats_reset")
_LOG = logging.getLogger(__name__)

_GROWTH = """
with tables as (
    select
        snapshot,
        case when $roll_up then coalesce(parent, relation) else relation end as relation,
        count(parent) as partitions,
        sum(total_bytes)::bigint as total_bytes,
        bool_or(estimated) as estimated
    from measured
    where kind = 'relation' and relation_kind <> 'temporary'
    group by all
)
select
    relation,
    coalesce(max(partitions) filter (snapshot = $last), max(partitions)) as partitions,
    max(total_bytes) filter (snapshot = $first) as first_bytes,
    max(total_bytes) filter (snapshot = $previous) as previous_bytes,
    max(total_bytes) filter (snapshot = $last) as last_bytes,
    coalesce(last_bytes, 0) - coalesce(first_bytes, 0) as grown_bytes,
    bool_or(estimated) as estimated
from tables
group by relation
order by grown_bytes desc, last_bytes desc nulls last, relation
"""

_TABLE_SIZES = """
select snapshot, sum(total_bytes)::bigint as total_bytes, bool_or(estimated) as estimated
from measured
where kind = 'relation' and coalesce(parent, relation) = $relation
group by snapshot
order by snapshot
"""


# Of a partitioned table what grew in the partitions that are there; those that were dropped are no growth.
_STEPS = """
with sized as (
    select snapshot, oid, coalesce(parent, relation) as root, total_bytes, estimated
    from measured
    where kind = 'relation' and relation_kind <> 'temporary'
        and (schema not in ('pg_catalog', 'information_schema') or name = 'pg_largeobject')
),
runs as (
    select snapshot, lag(snapshot) over (order by snapshot) as before from (select distinct snapshot from sized)
),
large as (
    select root from sized
    where snapshot = (select max(snapshot) from sized)
    group by root having sum(total_bytes) >= $least_bytes
)
select
    m.root as table,
    m.snapshot,
    r.before,
    sum(m.total_bytes)::bigint as total_bytes,
    sum(m.total_bytes - coalesce(b.total_bytes, 0))::bigint as grown_bytes,
    bool_or(m.estimated or coalesce(b.estimated, false)) as estimated
from sized as m
join large as l on l.root = m.root
join runs as r on r.snapshot = m.snapshot
left join sized as b on b.snapshot = r.before and b.oid = m.oid
where r.before is not null
group by m.root, m.snapshot, r.before
having count(b.oid) > 0
order by m.root, m.snapshot
"""
_STEPPED = ("relation", "relation_kind", "parent", "schema", "name", "oid", "total_bytes", "estimated")


def growth(taken: Sequence[Snapshot], *, roll_up: bool = True) -> list[dict[str, Any]]:
    """Return how much each table grew between the first, the previous and the last of some snapshots, most first.

    Columns: relation, partitions, first_bytes, previous_bytes and last_bytes (None where it did not exist then),
    grown_bytes, daily_bytes (None where first and last are less than an hour apart), estimated (one of the sizes
    was). The previous snapshot is the newest that is an hour older than the last. Partitions are summed up under
    their root unless ``roll_up`` is false; temporary tables are left out. Fewer than two snapshots: no rows.
    """
    if len(taken) < 2:
        return []
    first, last = taken[0], taken[-1]
    span_s = (last.at - first.at).total_seconds()
    before = [it for it in taken if (last.at - it.at).total_seconds() >= MIN_AGE_S]
    moments = {"first": first, "previous": before[-1] if before else None, "last": last}
    asked = list(dict.fromkeys(it for it in moments.values() if it))
    numbers = {name: asked.index(it) if it else None for name, it in moments.items()}
    columns = ("relation", "relation_kind", "parent", "total_bytes", "estimated")
    tables, damaged = _measured_in(asked, "relation", columns)
    if damaged:
        return growth([it for it in taken if it.path not in damaged], roll_up=roll_up)
    rows = _ask(_GROWTH, tables, roll_up=roll_up, **numbers)
    days = span_s / 86400
    return [{**row, "daily_bytes": row["grown_bytes"] / days if span_s >= MIN_AGE_S else None} for row in rows]


def growers(taken: Sequence[Snapshot], most: int = 10) -> list[dict[str, Any]]:
    """Return the rows of ``growth`` for the tables that grew most; those that did not grow are left out."""
    return [row for row in growth(taken)[:most] if row["grown_bytes"] > 0]


def database_sizes(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return the size of the database at each snapshot, oldest first. Columns: taken_at, database_bytes."""
    known = read_known(taken, "database", "database_bytes")
    rows = [{"taken_at": at, "database_bytes": value} for at, value in known if value is not None]
    return sorted(rows, key=lambda row: row["taken_at"])


def table_sizes(taken: Sequence[Snapshot], relation: str) -> list[dict[str, Any]]:
    """Return the size of a table with all its partitions at each snapshot that has it, oldest first.

    Columns: taken_at, total_bytes, estimated.
    """
    tables, _ = _measured_in(taken, "relation", ("relation", "parent", "total_bytes", "estimated"))
    rows = _ask(_TABLE_SIZES, tables, relation=relation)
    return [{"taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]


def tablespace_sizes(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return the size of each tablespace at each snapshot, oldest first. Columns: taken_at, name, tablespace_bytes.

    The bytes are None where the role of that run might not look. Snapshots of older versions hold none.
    """
    known = read_known(taken, "tablespace", "name", "tablespace_bytes")
    rows = [{"taken_at": at, "name": name, "tablespace_bytes": value} for at, name, value in known]
    return sorted(rows, key=lambda row: (row["taken_at"], row["name"]))


def table_steps(taken: Sequence[Snapshot], least_bytes: float) -> list[dict[str, Any]]:
    """Return how much each table of that size grew from one snapshot to the next, partitions under their root.

    Columns: table, before, taken_at, total_bytes, grown_bytes, estimated. A partition that was dropped in between
    counts for nothing, one that was made with all that it holds.
    """
    tables, _ = _measured_in(taken, "relation", _STEPPED)
    rows = _ask(_STEPS, tables, least_bytes=least_bytes)
    return [{"before": taken[row.pop("before")].at, "taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]


def what_moved(before: Snapshot, after: Snapshot) -> str | None:
    """Return in words which table's size changed most between two snapshots, and what that looks like; None: none."""
    then = {row["oid"]: row for row in read_rows(before, "relation")}
    now = {row["oid"]: row for row in read_rows(after, "relation")}
    moves = [
        ((now[oid]["total_bytes"] if oid in now else 0) - (then[oid]["total_bytes"] if oid in then else 0), oid)
        for oid in then.keys() | now.keys()
    ]
    by, oid = max(moves, key=lambda it: (abs(it[0]), it[1]), default=(0, 0))
    if not by:
        return None
    old, new = then.get(oid), now.get(oid)
    row = new or old or {}
    name = f"{'partition ' if row['parent'] else ''}{row['relation']}"
    if not new:
        return f"{name} was dropped"
    if not old:
        return f"{name} was made and filled"
    if by > 0:
        return f"{name} was loaded"
    emptied = (new["rows"] or 0) < 0.9 * (old["rows"] or 0)
    return f"{name} was purged" if emptied else f"{name} was rewritten (VACUUM FULL, CLUSTER)"


# ---- why it grew -------------------------------------------------------------------------------------------------

# Live tuples are kept up to date with every transaction, but begin at nothing when the counters are reset; vacuum and
# analyze set both figures, and a reset forgets when these ran.
_PARTS = """
with known as (
    select
        snapshot, oid, total_bytes, index_bytes, toast_bytes, estimated,
        heap_bytes + coalesce(fsm_vm_bytes, 0) as heap_bytes,
        case
            when schema in ('pg_catalog', 'information_schema') and not starts_with(name, 'pg_largeobject')
            then $system
            else coalesce(parent, relation)
        end as root,
        case
            when coalesce(last_vacuum, last_autovacuum, last_analyze, last_autoanalyze) is not null
            then coalesce(n_live, 0)
            else greatest(coalesce(n_live, 0), coalesce(rows, 0))
        end::double as rows
    from measured
    where kind = 'relation' and relation_kind <> 'temporary'
),
pairs as (
    select
        coalesce(b.root, a.root) as root,
        coalesce(b.total_bytes, 0) - coalesce(a.total_bytes, 0) as grown,
        a.oid is not null and b.oid is not null as stayed,
        coalesce(b.total_bytes, 0) as last_bytes,
        b.heap_bytes - a.heap_bytes as heap,
        b.index_bytes - a.index_bytes as index,
        b.toast_bytes - a.toast_bytes as toast,
        b.rows - a.rows as more,
        coalesce(least(a.heap_bytes / nullif(a.rows, 0), b.heap_bytes / nullif(b.rows, 0)), 0) as row_bytes,
        a.oid is null as is_new,
        coalesce(a.estimated, false) or coalesce(b.estimated, false) as estimated
    from (from known where snapshot = 0) as a
    full join (from known where snapshot = 1) as b on b.oid = a.oid
)
select
    root as relation,
    sum(last_bytes)::bigint as last_bytes,
    sum(grown)::bigint as grown_bytes,
    coalesce(sum(round(more * row_bytes)) filter (stayed), 0)::bigint as rows_bytes,
    coalesce(sum(heap - round(more * row_bytes)) filter (stayed), 0)::bigint as bloat_bytes,
    coalesce(sum(index) filter (stayed), 0)::bigint as index_bytes,
    coalesce(sum(toast) filter (stayed), 0)::bigint as toast_bytes,
    coalesce(sum(grown) filter (is_new), 0)::bigint as new_bytes,
    coalesce(sum(grown) filter (not stayed and not is_new), 0)::bigint as dropped_bytes,
    bool_or(estimated) as estimated
from pairs
group by root
order by grown_bytes desc, last_bytes desc, relation
"""
_PARTED = (
    *("oid", "schema", "name", "relation", "relation_kind", "parent"),
    *("heap_bytes", "fsm_vm_bytes", "toast_bytes", "index_bytes", "total_bytes", "estimated"),
    *("rows", "n_live", "last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze"),
)

_CHANGES = """
with known as (
    select
        snapshot, oid, relation, parent, total_bytes, coalesce(parent, relation) as root,
        greatest(coalesce(rows, 0), coalesce(n_live, 0)) as rows, estimated
    from measured
    where kind = 'relation' and relation_kind <> 'temporary' and schema not in ('pg_catalog', 'information_schema')
),
pairs as (
    select
        case
            when a.oid is null then if(b.parent is null, 'new table', 'new partitions')
            when b.oid is null then if(a.parent is null, 'dropped table', 'dropped partitions')
            else 'renamed'
        end as change,
        coalesce(b.root, a.root) as relation,
        if(a.relation <> b.relation, a.relation, coalesce(b.relation, a.relation)) as name,
        coalesce(b.total_bytes, a.total_bytes) as bytes,
        coalesce(b.rows, a.rows) as rows,
        coalesce(b.estimated, a.estimated) as estimated
    from (from known where snapshot = 0) as a
    full join (from known where snapshot = 1) as b on b.oid = a.oid
    where a.oid is null or b.oid is null or a.relation <> b.relation
)
select
    change,
    relation,
    count(*) as count,
    list(name order by name) as names,
    sum(bytes)::bigint as bytes,
    sum(rows)::bigint as rows,
    bool_or(estimated) as estimated
from pairs
group by change, relation
order by bytes desc, change, relation
"""
_CHANGED = (
    *("oid", "schema", "relation", "relation_kind", "parent", "total_bytes"),
    *("rows", "n_live", "estimated"),
)
_NAMES = 4


def compared(taken: Sequence[Snapshot], days: float) -> list[Snapshot]:
    """Return the snapshot that lies nearest to ``days`` before the newest, and the newest; nothing without the two.

    The earlier one is an hour older at least. One that is damaged is left aside, and the next nearest taken.
    """
    left = list(taken)
    while len(left) > 1:
        last = left[-1]
        earlier = [it for it in left if (last.at - it.at).total_seconds() >= MIN_AGE_S]
        if not earlier:
            return []
        wanted_s = days * 86400
        first = min(earlier, key=lambda it: abs((last.at - it.at).total_seconds() - wanted_s))
        _, damaged = _measured_in([first, last], "relation", ("oid", "total_bytes"))
        if not damaged:
            return [first, last]
        left = [it for it in left if it.path not in damaged]
    return []


def attribution(pair: Sequence[Snapshot], most: int = 8) -> list[dict[str, Any]]:
    """Return what the tables that changed most between two snapshots grew by, and the rest, so that it adds up.

    ``pair`` is that of ``compared``; without it there are no rows. Columns: relation, grown_bytes, the parts that add
    up to it, daily_bytes, last_bytes, estimated (one of the sizes was). The last rows are 'N other tables' and, in
    other_bytes, what the database grew by outside of all tables: sequences, temporary tables, files that nobody owns;
    all rows together are the growth of pg_database_size, which is measured a moment before the tables.

    For a relation that both snapshots hold, told by its oid:

    - rows_bytes = (rows now - rows then) x the bytes of heap a row, the lesser of then and now;
    - bloat_bytes = the rest of the heap: rows that became wider, dead rows and holes; negative where holes were filled;
    - index_bytes, toast_bytes = the differences of these.

    new_bytes and dropped_bytes hold all of the relations that appeared or went, partitions among them. What limits it:
    the rows are the estimates of the statistics, so that a crash, which empties them, moves bytes between rows and
    bloat until the next vacuum or analyze; new rows that are wider than the old count as bloat; the heap's maps belong
    to it.
    """
    if not pair:
        return []
    tables, _ = _measured_in(pair, "relation", _PARTED)
    rows = [{**row, "other_bytes": 0} for row in _ask(_PARTS, tables, system=SYSTEM)]
    moved = sorted(rows, key=lambda row: -abs(row["grown_bytes"]))[:most]
    top = [row for row in rows if row in moved and row["grown_bytes"]]
    others = [row for row in rows if row not in top]
    if others:
        summed = {name: sum(row[name] for row in others) for name in ("last_bytes", "grown_bytes", *PARTS)}
        names = f"{len(others)} other table{'s' if len(others) > 1 else ''}"
        top.append({"relation": names, **summed, "estimated": any(row["estimated"] for row in others)})
    sizes = [row["database_bytes"] for row in database_sizes(pair)]
    if len(sizes) == 2:
        whole = sizes[1] - sizes[0] - sum(row["grown_bytes"] for row in rows)
        last = sizes[1] - sum(row["last_bytes"] for row in rows)
        nothing = {**dict.fromkeys(PARTS, 0), "other_bytes": whole, "grown_bytes": whole, "last_bytes": last}
        top.append({"relation": OUTSIDE, **nothing, "estimated": False})
    days = (pair[1].at - pair[0].at).total_seconds() / 86400
    return [{**row, "daily_bytes": row["grown_bytes"] / days} for row in top]


def changes(pair: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return which tables and partitions appeared, went or were renamed between two snapshots, largest first.

    Columns: change ('new table', 'new partitions', 'dropped table', 'dropped partitions', 'renamed'), relation (the
    root of partitions), names (of the partitions, or the name that it had), bytes and rows (of now, or when last
    seen; rows are estimates), estimated. The system catalogs and temporary tables are left out.
    """
    tables, _ = _measured_in(pair, "relation", _CHANGED)
    rows = _ask(_CHANGES, tables)
    return [
        {**row, "names": _names(row) if row["change"] not in ("new table", "dropped table") else None} for row in rows
    ]


def _names(row: Mapping[str, Any]) -> str:
    names, more = row["names"][:_NAMES], row["count"] - _NAMES
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def fastest(taken: Sequence[Snapshot], pair: Sequence[Snapshot], most: int = 6) -> list[dict[str, Any]]:
    """Return the sizes over all of the snapshots of the tables that grew most between two of them, by table and time.

    Columns: relation, taken_at, total_bytes, estimated. The system catalogs are left out.
    """
    wanted = [row["relation"] for row in attribution(pair, most + 1) if row["grown_bytes"] > 0]
    wanted = [name for name in wanted if "." in name][:most]
    if not wanted:
        return []
    tables, _ = _measured_in(taken, "relation", ("relation", "parent", "total_bytes", "estimated"))
    rows = _ask(_SIZES_OF, tables, relations=wanted)
    rows = [{"relation": row["relation"], "taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]
    return sorted(rows, key=lambda row: (wanted.index(row["relation"]), row["taken_at"]))


_SIZES_OF = """
select
    coalesce(parent, relation) as relation, snapshot, sum(total_bytes)::bigint as total_bytes,
    bool_or(estimated) as estimated
from measured
where kind = 'relation' and coalesce(parent, relation) in (select unnest($relations))
group by all
"""


def write_rates(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return how much WAL the server wrote and how much went into temporary files of the database, a day.

    A row for each two snapshots that follow each other by half an hour at least: before, taken_at, wal_daily_bytes,
    temp_daily_bytes; None where the counter began anew in between, and it is not known how much it had counted.
    """
    known: dict[datetime.datetime, dict[str, Any]] = defaultdict(lambda: dict.fromkeys(_COUNTED))
    for kind, columns in (("cluster", _COUNTED[:1]), ("database", _COUNTED[1:])):
        for at, *values in read_known(taken, kind, *columns):
            known[at].update(zip(columns, values, strict=True))
    rows: list[dict[str, Any]] = []
    before = None
    for at in sorted(known):
        it = {**known[at], "at": at}
        if before is None or (it["at"] - before["at"]).total_seconds() >= _RATE_S:
            if before is not None:
                rows.append(_rates(before, it))
            before = it
    return rows


def _rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    days = (after["at"] - before["at"]).total_seconds() / 86400

    def daily(name: str) -> float | None:
        then, now = before[name], after[name]
        return (now - then) / days if then is not None and now is not None and now >= then else None

    is_same = before["stats_reset"] == after["stats_reset"]
    temp = daily("temp_bytes") if is_same else None
    return {
        "before": before["at"],
        "taken_at": after["at"],
        "wal_daily_bytes": daily("wal_bytes"),
        "temp_daily_bytes": temp,
    }


def read_known(taken: Sequence[Snapshot], kind: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield the time and the values of some columns for each row of a kind in some snapshots, in no order.

    What an older file did not measure yet is left out.
    """
    for table in _measured_in(taken, kind, columns)[0]:
        if set(columns) <= set(table.column_names):
            for number, its_kind, *values in _values(table, "snapshot", "kind", *columns):
                if its_kind == kind:
                    yield taken[number].at, *values


# ---- how it is asked ---------------------------------------------------------------------------------------------


def _ask(sql: str, tables: Sequence[pyarrow.Table], **parameters: Any) -> list[dict[str, Any]]:
    """Ask DuckDB about some tables, which are called ``measured`` together."""
    import duckdb  # a tenth of a second that a look at one file need not wait for

    if not tables:
        return []
    with duckdb.connect(":memory:", config=months.QUIET) as engine:
        engine.register("measured", pyarrow.concat_tables(tables, promote_options="default"))
        answer = engine.execute(sql, parameters)
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


def _measured_in(
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


def _values(table: pyarrow.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
