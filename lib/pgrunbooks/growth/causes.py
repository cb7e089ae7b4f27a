"""Why it grew: rows, holes, indexes, what is new and what was dropped between two snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgrunbooks.growth._asking import ask, measured_in
from pgrunbooks.growth.sizes import database_sizes
from pgrunbooks.history import MIN_AGE_S
from pgrunbooks.months import Snapshot
from pgrunbooks.sizes import SYSTEM

PARTS = ("rows_bytes", "bloat_bytes", "index_bytes", "toast_bytes", "new_bytes", "dropped_bytes", "other_bytes")
_OUTSIDE = "outside of tables"

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

_SIZES_OF = """
select
    coalesce(parent, relation) as relation, snapshot, sum(total_bytes)::bigint as total_bytes,
    bool_or(estimated) as estimated
from measured
where kind = 'relation' and coalesce(parent, relation) in (select unnest($relations))
group by all
"""


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
        _, damaged = measured_in([first, last], "relation", ("oid", "total_bytes"))
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
    tables, _ = measured_in(pair, "relation", _PARTED)
    rows = [{**row, "other_bytes": 0} for row in ask(_PARTS, tables, system=SYSTEM)]
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
        top.append({"relation": _OUTSIDE, **nothing, "estimated": False})
    days = (pair[1].at - pair[0].at).total_seconds() / 86400
    return [{**row, "daily_bytes": row["grown_bytes"] / days} for row in top]


def changes(pair: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return which tables and partitions appeared, went or were renamed between two snapshots, largest first.

    Columns: change ('new table', 'new partitions', 'dropped table', 'dropped partitions', 'renamed'), relation (the
    root of partitions), names (of the partitions, or the name that it had), bytes and rows (of now, or when last
    seen; rows are estimates), estimated. The system catalogs and temporary tables are left out.
    """
    tables, _ = measured_in(pair, "relation", _CHANGED)
    rows = ask(_CHANGES, tables)
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
    tables, _ = measured_in(taken, "relation", ("relation", "parent", "total_bytes", "estimated"))
    rows = ask(_SIZES_OF, tables, relations=wanted)
    rows = [{"relation": row["relation"], "taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]
    return sorted(rows, key=lambda row: (wanted.index(row["relation"]), row["taken_at"]))
