"""How large every relation is, measured without ever waiting behind a lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from psycopg import errors as pg

from pgrunbooks.check import Rows
from pgrunbooks.session import Session

BATCH = 2000  # relations a statement; measured: larger ones are not faster
LOCK_TIMEOUT_S = 0.2  # below deadlock_timeout, so that nothing is written to the server's log
SYSTEM = "system catalogs"
_SUMMED = ("partitions", "heap_bytes", "toast_bytes", "index_bytes", "fsm_vm_bytes", "total_bytes", "rows", "n_dead")

# Takes no lock on any relation that it lists: pg_partition_root and pg_partition_ancestors read the catalog only.
# `*_estimate` is what the last VACUUM, ANALYZE or build knew.
_TABLES = """
select
    c.oid::int8 as oid,
    pg_catalog.quote_ident(n.nspname) as schema,
    pg_catalog.quote_ident(c.relname) as name,
    case
        when c.relpersistence = 't' then 'temporary'
        when c.relkind = 'm' then 'matview'
        when c.relispartition then 'partition'
        else 'table'
    end as kind,
    (
        select pg_catalog.format('%%I.%%I', rn.nspname, r.relname)
        from pg_catalog.pg_class as r
        join pg_catalog.pg_namespace as rn on rn.oid = r.relnamespace
        where c.relispartition and r.oid = pg_catalog.pg_partition_root(c.oid)
    ) as parent,
    case
        when c.relispartition then array(select a.relid::oid::int8 from pg_catalog.pg_partition_ancestors(c.oid) as a)
    end as ancestors,
    t.oid::int8 as toast_oid,
    c.relpages * current_setting('block_size')::int8 as heap_estimate,
    t.relpages * current_setting('block_size')::int8 as toast_estimate,
    case
        when c.reltuples < 0 then pg_catalog.pg_stat_get_live_tuples(c.oid) else c.reltuples::int8
    end as rows,
    pg_catalog.pg_stat_get_live_tuples(c.oid) as n_live,
    pg_catalog.pg_stat_get_dead_tuples(c.oid) as n_dead,
    pg_catalog.pg_stat_get_tuples_inserted(c.oid) as inserted,
    pg_catalog.pg_stat_get_tuples_updated(c.oid) as updated,
    pg_catalog.pg_stat_get_tuples_deleted(c.oid) as deleted,
    pg_catalog.pg_stat_get_tuples_hot_updated(c.oid) as hot_updated,
    pg_catalog.pg_stat_get_last_vacuum_time(c.oid) as last_vacuum,
    pg_catalog.pg_stat_get_last_autovacuum_time(c.oid) as last_autovacuum,
    pg_catalog.pg_stat_get_last_analyze_time(c.oid) as last_analyze,
    pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid) as last_autoanalyze
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_class as t on t.oid = c.reltoastrelid
where c.relkind in ('r', 'm') and not c.relisshared and c.oid > %(after)s::int8::oid
order by c.oid
limit %(most)s
"""

_INDEXES = """
select
    i.indexrelid::int8 as oid,
    i.indrelid::int8 as table_oid,
    c.relpages * current_setting('block_size')::int8 as estimate
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
where i.indrelid = any(%(oids)s::oid[])
order by i.indexrelid
"""

_LOCKED = """
select distinct l.relation::int8 as oid
from pg_catalog.pg_locks as l
join pg_catalog.pg_database as d on d.oid = l.database
where l.locktype = 'relation' and l.mode = any(%(modes)s::text[]) and d.datname = pg_catalog.current_database()
    and l.pid is distinct from pg_catalog.pg_backend_pid()
order by oid
"""

_SIZES = """
select
    o.oid::int8 as oid,
    pg_catalog.pg_relation_size(o.oid, 'main') as main_bytes,
    pg_catalog.pg_relation_size(o.oid, 'fsm') + pg_catalog.pg_relation_size(o.oid, 'vm')
        + pg_catalog.pg_relation_size(o.oid, 'init') as other_bytes
from unnest(%(oids)s::oid[]) as o (oid)
order by o.oid
"""


def size_inventory(session: Session) -> list[dict[str, Any]]:
    """Return one record for each table, partition and materialized view that has storage in the current database.

    ``schema``, ``name`` and ``relation`` ('schema.name') are quoted as quote_ident does, ``parent`` is the root of a
    partition in the same way; ``kind`` is 'table', 'partition', 'matview' or 'temporary'. ``toast_bytes`` and
    ``index_bytes`` hold all forks of the TOAST table with its index and of the indexes; the four parts sum up to
    ``total_bytes``, which is pg_total_relation_size. ``rows`` is the planner's estimate, or the live tuples where
    nobody analyzed. Where a lock is in the way a part is the last VACUUM's page count, and ``estimated`` is true.

    Raises psycopg's LockNotAvailable where the catalog itself is locked.
    """
    return [row for page in inventory_pages(session) for row in page]


def inventory_pages(session: Session) -> Iterator[list[dict[str, Any]]]:
    """Yield ``size_inventory`` in pages of at most 2,000 records, for a catalog of any size in bounded memory."""
    for tables in pages(session, _TABLES):
        yield _measured(session, tables)


def pages(session: Session, sql: str, most: int = BATCH) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a catalog query in pages; it has the column ``oid``, ``%(after)s`` and ``%(most)s``."""
    after = 0
    while rows := session.rows(sql, {"after": after, "most": most}):
        yield rows
        after = rows[-1]["oid"]


def unblocked(
    session: Session,
    wanted: Mapping[int, Collection[int]],
    sql: str,
    *,
    modes: Sequence[str] = ("AccessExclusiveLock",),
    most: int = BATCH,
) -> dict[int, dict[str, Any]]:
    """Return the row of ``sql`` for each oid that nobody's lock is in the way of; the others are missing.

    ``wanted`` is oid -> the oids whose lock covers it; a lock of one of ``modes`` counts whether granted or waited
    for. A lock that comes in between costs one lock time-out, then the batch is halved.
    """
    oids = list(wanted)
    found: dict[int, dict[str, Any]] = {}
    batches = [oids[start : start + most] for start in range(0, len(oids), most)]
    while batches:
        batch = batches.pop()
        in_the_way = locked(session, modes)
        free = [oid for oid in batch if in_the_way.isdisjoint(wanted[oid])] if in_the_way else batch
        try:
            rows = session.rows(sql, {"oids": free}, lock_timeout_s=LOCK_TIMEOUT_S) if free else []
        except pg.LockNotAvailable:
            if len(free) > 1:
                batches += [free[: len(free) // 2], free[len(free) // 2 :]]
            continue
        found.update((row["oid"], row) for row in rows)
    return found


def locked(session: Session, modes: Sequence[str] = ("AccessExclusiveLock",)) -> set[int]:
    """Return the oids of the relations on which somebody else holds a lock of one of these modes, or waits for one."""
    return {row["oid"] for row in session.rows(_LOCKED, {"modes": list(modes)})}


def _measured(session: Session, tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    owners = {oid: row for row in tables for oid in (row["oid"], row["toast_oid"]) if oid}
    indexes = session.rows(_INDEXES, {"oids": list(owners)})
    index_oids: dict[int, list[int]] = defaultdict(list)
    estimates = {row["oid"]: row["estimate"] for row in indexes}
    covers = {oid: {oid, row["oid"], *(row["ancestors"] or ())} for oid, row in owners.items()}
    for index in indexes:
        index_oids[index["table_oid"]].append(index["oid"])
        covers[index["oid"]] = {index["oid"], *covers[index["table_oid"]]}
    for row in tables:
        estimates[row["oid"]] = row["heap_estimate"]
        if row["toast_oid"]:
            estimates[row["toast_oid"]] = row["toast_estimate"]
    sizes = unblocked(session, covers, _SIZES)
    records = (_record(row, index_oids, sizes, estimates) for row in tables)
    return [record for record in records if record]


def _record(
    row: Mapping[str, Any],
    index_oids: Mapping[int, Sequence[int]],
    sizes: Mapping[int, Mapping[str, Any]],
    estimates: Mapping[int, int],
) -> dict[str, Any] | None:
    """Return a table's record; None where it was dropped meanwhile."""
    heap = sizes.get(row["oid"])
    if heap and heap["main_bytes"] is None:
        return None
    indexes = index_oids.get(row["oid"], ())
    toast = [row["toast_oid"], *index_oids.get(row["toast_oid"], ())] if row["toast_oid"] else []

    def total(oids: Iterable[int]) -> int:
        return sum(
            (sizes[oid]["main_bytes"] or 0) + (sizes[oid]["other_bytes"] or 0) if oid in sizes else estimates[oid]
            for oid in oids
        )

    parts = {
        "heap_bytes": heap["main_bytes"] if heap else row["heap_estimate"],
        "toast_bytes": total(toast),
        "index_bytes": total(indexes),
        "fsm_vm_bytes": heap["other_bytes"] if heap else 0,
    }
    words = ("schema", "name", "kind", "parent")
    counters = ("rows", "n_live", "n_dead", "inserted", "updated", "deleted", "hot_updated")
    times = ("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze")
    return {
        "oid": row["oid"],
        "relation": f"{row['schema']}.{row['name']}",
        **{name: row[name] for name in words},
        **parts,
        "total_bytes": sum(parts.values()),
        "estimated": not all(oid in sizes for oid in (row["oid"], *toast, *indexes)),
        **{name: row[name] for name in (*counters, *times)},
    }


def rolled_up(rows: Rows, most: int | None = None) -> list[dict[str, Any]]:
    """Return tables with their partitions summed up under the root, largest first.

    The system catalogs are one line, but for large objects, which are somebody's data. ``most`` sums up the tables
    beyond that many in a last line. Columns: relation, partitions (0 for an ordinary table), the bytes of
    ``size_inventory``, rows, n_dead, estimated.
    """
    tables: dict[str, dict[str, Any]] = {}
    for row in rows:
        is_system = row["schema"] in ("pg_catalog", "information_schema") and not row["name"].startswith(
            "pg_largeobject"
        )
        name = SYSTEM if is_system else row["parent"] or row["relation"]
        _add(tables.setdefault(name, _nothing(name)), {**row, "partitions": bool(row["parent"])})
    largest = sorted(tables.values(), key=lambda table: (-table["total_bytes"], table["relation"]))
    if most is None or len(largest) <= most:
        return largest
    others = _nothing(f"{len(largest) - most} other table{'s' if len(largest) - most > 1 else ''}")
    for table in largest[most:]:
        _add(others, {**table, "partitions": 0})
    return [*largest[:most], others]


def _nothing(name: str) -> dict[str, Any]:
    return {"relation": name, **dict.fromkeys(_SUMMED, 0), "estimated": False}


def _add(table: dict[str, Any], row: Mapping[str, Any]) -> None:
    for column in _SUMMED:
        table[column] += row[column] or 0
    table["estimated"] |= row["estimated"]
