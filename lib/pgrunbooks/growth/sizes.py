"""What grew: the sizes of tables, tablespaces and the database over their snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgrunbooks.growth._asking import ask, measured_in, read_known
from pgrunbooks.history import MIN_AGE_S, read_rows
from pgrunbooks.months import Snapshot

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
    tables, damaged = measured_in(asked, "relation", columns)
    if damaged:
        return growth([it for it in taken if it.path not in damaged], roll_up=roll_up)
    rows = ask(_GROWTH, tables, roll_up=roll_up, **numbers)
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
    tables, _ = measured_in(taken, "relation", ("relation", "parent", "total_bytes", "estimated"))
    rows = ask(_TABLE_SIZES, tables, relation=relation)
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
    tables, _ = measured_in(taken, "relation", _STEPPED)
    rows = ask(_STEPS, tables, least_bytes=least_bytes)
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
