"""How old the oldest ids are, of transactions or of multixacts: one question that is asked of both counters.

Both are 32 bits wide and compared in a circle, so that half of them, 2^31, may be in use at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pgrunbooks.check import Finding, Limits, Remedy, Rows, grade

Row = Mapping[str, Any]
IDS = 2**31
STOP = 3_000_000  # ids before the end the server refuses new ones: SetTransactionIdLimit, SetMultiXactIdLimit

# One row a database; as many for this one as there are oldest tables to name, the larger first among equals.
_AGES = """
with oldest as materialized (
    select c.oid, c.relnamespace, c.relname, c.relkind, c.relpersistence, c.relpages, {age}({column}) as age
    from pg_catalog.pg_class as c
    where c.relkind in ('r', 'm', 't') and {column} <> '0'::xid
    order by age desc, c.relpages desc, c.oid
    limit 10
)
select
    d.datname::text as database,
    d.datname = pg_catalog.current_database() as is_current,
    d.datallowconn as allows_connections,
    {age}({database_column})::int8 as ids,
    current_setting('{setting}')::int8 as freeze_max_age,
    case
        when o.oid is not null then pg_catalog.format('%I.%I', n.nspname, coalesce(m.relname, o.relname))
    end as "table",
    o.relkind = 't' as is_toast,
    o.relpersistence = 't' as is_temporary,
    o.age::int8 as table_ids,
    o.relpages * current_setting('block_size')::int8 as table_bytes
from pg_catalog.pg_database as d
left join oldest as o on d.datname = pg_catalog.current_database()
left join pg_catalog.pg_class as m on o.relkind = 't' and m.reltoastrelid = o.oid
left join pg_catalog.pg_namespace as n on n.oid = coalesce(m.relnamespace, o.relnamespace)
order by ids desc, d.datname, o.age desc nulls last, o.relpages desc, o.oid
"""


@dataclass(frozen=True)
class Counter:
    """One of the two counters: what its ids are called, what uses them up, and the query for their ages."""

    noun: str
    used_by: str
    setting: str
    sql: str


XIDS = Counter(
    "transaction id",
    "transaction that writes",
    "autovacuum_freeze_max_age",
    _AGES.format(
        age="pg_catalog.age",
        column="c.relfrozenxid",
        database_column="d.datfrozenxid",
        setting="autovacuum_freeze_max_age",
    ),
)
MULTIXACTS = Counter(
    "multixact id",
    "row that several transactions lock together",
    "autovacuum_multixact_freeze_max_age",
    _AGES.format(
        age="pg_catalog.mxid_age",
        column="c.relminmxid",
        database_column="d.datminmxid",
        setting="autovacuum_multixact_freeze_max_age",
    ),
)


def findings(rows: Rows, limits: Limits, counter: Counter) -> Iterable[Finding]:
    """Grade the oldest id of each database of the server by its share of 2^31."""
    for database, group in groupby(rows, key=lambda row: row["database"]):
        tables = list(group)
        row = tables[0]
        ids = row["ids"]
        severity = grade(None if ids is None else ids / IDS, limits)
        if not severity:
            continue
        known = [table for table in tables if table["table"]]
        oldest = f"; its oldest table is {known[0]['table']}" if known else ""
        yield Finding(
            severity=severity,
            kind="database",
            name=database,
            title=f"Database {database} has used {ids / IDS:.0%} of its {counter.noun}s{oldest}",
            impact=_impact(row, counter),
            evidence=[_evidence(table) for table in tables],
            remedies=tuple(_remedies(row, known, counter)),
        )


def _impact(row: Row, counter: Counter) -> str:
    left = max(IDS - STOP - row["ids"], 0)
    end = (
        f"After {left:,} more the whole server refuses every {counter.used_by}"
        if left
        else f"The whole server refuses every {counter.used_by}"
    )
    late = row["ids"] > row["freeze_max_age"]
    began = f"{counter.setting} ({row['freeze_max_age']:,})"
    return f"{end}, until old rows are frozen. " + (
        f"Autovacuum has had to freeze since {began}: something keeps it from that, or it is too slow."
        if late
        else f"Autovacuum does not even have to begin before {began}: that is set very high."
    )


def _evidence(row: Row) -> Row:
    wanted = ("database", "ids", "freeze_max_age", "table", "is_toast", "is_temporary", "table_ids", "table_bytes")
    shares = {"ids_share": row["ids"] / IDS}
    return {**{key: row[key] for key in wanted if row[key] is not None}, **shares}


def _remedies(row: Row, tables: Sequence[Row], counter: Counter) -> Iterable[Remedy]:
    yield Remedy(
        "See which vacuums run already and how far they are; ending one that prevents wraparound helps nobody",
        sql="select p.pid, p.datname, p.relid::regclass as table, p.phase, p.heap_blks_scanned, p.heap_blks_total,"
        " a.query from pg_stat_progress_vacuum p join pg_stat_activity a on a.pid = p.pid order by p.pid;",
        risk="none",
        locks="none",
    )
    if not row["allows_connections"]:
        yield Remedy(f"Nobody may connect to {row['database']}: leave it to autovacuum, which may", risk="none")
        return
    names = list(dict.fromkeys(table["table"] for table in tables if not table["is_temporary"]))[:3]
    if names:
        yield Remedy(
            "Freeze the oldest tables by hand, without the pauses that autovacuum takes; it reads all of them",
            sql=f"vacuum (freeze, verbose) {', '.join(names)};",
            risk="low",
            locks="SHARE UPDATE EXCLUSIVE on one table after the other",
        )
    elif not row["is_current"]:
        yield Remedy(
            f"In database {row['database']}: freeze all its tables; it reads all of them",
            sql="vacuum (freeze, verbose);",
            risk="low",
            locks="SHARE UPDATE EXCLUSIVE on one table after the other",
        )
    for table in tables:
        if table["is_temporary"]:
            yield Remedy(
                f"Vacuum cannot touch {table['table']}, a temporary table of a session: end that session, or drop what"
                " a crash left",
                sql=f"drop table {table['table']};",
                risk="high",
                locks=f"ACCESS EXCLUSIVE on {table['table']}",
                undo="none: its rows are gone",
            )
