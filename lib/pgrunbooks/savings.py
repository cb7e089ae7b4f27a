"""What would win room on the disk: what other checks found, and what a rule of retention would remove.

Nothing here reads a row of a user's table. What is told apart: what goes back to the disk, what becomes free for new
rows of the same table, and what is no more than an upper bound. Two lines about one table may hold the same bytes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pgrunbooks.check import Finding
from pgrunbooks.checks._partitions import BOUNDS
from pgrunbooks.forecast import forecast
from pgrunbooks.growth import database_sizes
from pgrunbooks.history import read_rows
from pgrunbooks.months import Snapshot
from pgrunbooks.session import Session
from pgrunbooks.verdict import Verdict, ask, checks_for

_CODES = (
    *("invalid-index", "duplicate-index", "redundant-index", "unused-index"),
    *("table-bloat", "index-bloat", "vacuum-overdue"),
)
_DISK, _ROWS, _BOUND = "disk", "new rows", "disk, at most"
LEAST = 1_000_000  # bytes; what wins less is nobody's afternoon

# Leaves only: what lies below a partition that is partitioned in turn has bounds of its own, where these are of time.
_LEAVES = (
    "with "
    + BOUNDS
    + """
roots as (
    select b.partition_oid, b.upper_at, pg_catalog.pg_partition_root(b.partition_oid) as root_oid
    from bounds as b
    where b.relkind = 'r' and b.upper_at is not null
)
select
    r.partition_oid::int8 as oid,
    pg_catalog.format('%I.%I', n.nspname, c.relname) as root,
    extract(epoch from r.upper_at)::float8 as upper_s
from roots as r
join pg_catalog.pg_class as c on c.oid = r.root_oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
order by r.upper_at, r.partition_oid
"""
)

_TIME_COLUMNS = """
select
    c.oid::int8 as oid,
    pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by a.attnum) as columns
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid
join pg_catalog.pg_type as t on t.oid = a.atttypid
where c.relkind = 'r' and not c.relispartition and c.relpersistence <> 't' and a.attnum > 0 and not a.attisdropped
    and t.typname in ('date', 'timestamp', 'timestamptz')
    and c.relnamespace <> 'pg_catalog'::regnamespace and c.relnamespace <> 'information_schema'::regnamespace
group by c.oid
order by c.oid
"""

_UNCOMPRESSED = """
select
    c.oid::int8 as oid,
    pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by a.attnum) as columns
from pg_catalog.pg_class as c
join pg_catalog.pg_attribute as a on a.attrelid = c.oid
where c.relkind in ('r', 'm') and c.relpersistence <> 't' and c.reltoastrelid <> 0
    and a.attnum > 0 and not a.attisdropped and a.attstorage = 'e'
    and c.relnamespace <> 'pg_catalog'::regnamespace
group by c.oid
order by c.oid
"""


def ask_others(session: Session) -> Verdict:
    """Ask the checks of other areas whose findings say what would win room; their limits are the target's."""
    return ask(session, checks_for(*_CODES), runbook="growth_report")


def savings(
    session: Session, others: Verdict, taken: Sequence[Snapshot], retention_days: float, most: int = 15
) -> list[dict[str, Any]]:
    """Return what would win room, the most first: with bytes, and the days of growth that these are.

    Columns: action, object, won_bytes, days (of growth of the whole database, at the rate that the history tells; None
    where it does not grow, or is not known), goes_to ('disk', 'new rows' of the same table, or 'disk, at most'),
    statement (None where it takes thought), because. ``others`` is what ``ask_others`` returned.

    - Indexes that can go, bloat of tables and indexes: the estimates of these checks.
    - vacuum: dead rows / all rows x the size of the heap or TOAST; free for new rows, nothing goes back to the disk.
    - retention: partitions that end more than ``retention_days`` ago, by their size. Of a table without partitions
      that has a column of time: what it held that many days ago, where it has neither lost nor changed a row since;
      without a snapshot as old as that, nothing is said.
    - compression: what TOAST holds of tables with a column that is stored without (EXTERNAL); no more than a bound,
      since how well values compress is known only by compressing them.
    """
    if not taken:
        return []
    now = taken[-1].at
    tables = read_rows(taken[-1], "relation")
    found = [
        *_indexes(others),
        *_bloat(others),
        *_vacuum(others, tables),
        *_partitions(session, tables, now, retention_days),
        *_old_rows(session, tables, taken, retention_days),
        *_compression(session, tables),
    ]
    daily = _daily(taken)
    large = [row for row in found if row["won_bytes"] >= LEAST]
    rows = [{**row, "days": row["won_bytes"] / daily if daily else None} for row in large]
    columns = ("action", "object", "won_bytes", "days", "goes_to", "statement", "because")
    rows.sort(key=lambda row: (-row["won_bytes"], row["object"], row["action"]))
    return [{name: row[name] for name in columns} for row in rows[:most]]


def _daily(taken: Sequence[Snapshot]) -> float | None:
    rate = forecast([(row["taken_at"], row["database_bytes"]) for row in database_sizes(taken)]).daily_bytes
    return rate[1] if rate and rate[1] > 0 else None


def _row(action: str, name: str, won: float, goes_to: str, because: str, statement: str | None) -> dict[str, Any]:
    return {
        "action": action, "object": name, "won_bytes": round(won), "goes_to": goes_to, "because": because,
        "statement": statement,
    }  # fmt: skip


def _statement(finding: Finding, begins: str) -> str | None:
    """Return the first remedy of a finding that is such a command, with what stands before it."""
    return next((it.sql for it in finding.remedies if it.sql and begins in it.sql.lower()), None)


def _removable(others: Verdict) -> dict[str, Finding]:
    codes = _CODES[:4]
    return {it.name: it for code in reversed(codes) for it in others.about(code)}


def _indexes(others: Verdict) -> Iterator[dict[str, Any]]:
    for name, finding in _removable(others).items():
        won = finding.evidence[0]["size_bytes"]
        yield _row("drop the index", name, won, _DISK, finding.code, _statement(finding, "drop index"))


def _bloat(others: Verdict) -> Iterator[dict[str, Any]]:
    can_go = _removable(others)
    for finding in others.about("table-bloat"):
        won, statement = finding.evidence[0]["waste_bytes"], _statement(finding, "vacuum (full")
        yield _row("rewrite the table", finding.name, won, _DISK, "table-bloat, an estimate", statement)
    for finding in others.about("index-bloat"):
        if finding.name not in can_go:
            won, statement = finding.evidence[0]["waste_bytes"], _statement(finding, "reindex")
            yield _row("rebuild the index", finding.name, won, _DISK, "index-bloat, an estimate", statement)


def _vacuum(others: Verdict, tables: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    sizes = {row["relation"]: row for row in tables}
    for finding in others.about("vacuum-overdue"):
        row = finding.evidence[0]
        table = sizes.get(finding.name)
        if table:  # the planner's rows of a table that nobody analyzed are none, so that those of the counters count
            held, live = (table["heap_bytes"], table["n_live"])
            if row["is_toast"]:
                held, live = (table["toast_bytes"], row["rows"])
            won = held * row["dead_rows"] / max(live + row["dead_rows"], 1)
            statement = _statement(finding, "vacuum (")
            yield _row("vacuum", finding.name, won, _ROWS, "vacuum-overdue", statement)


def _partitions(
    session: Session, tables: Iterable[Mapping[str, Any]], now: datetime.datetime, retention_days: float
) -> Iterator[dict[str, Any]]:
    sizes = {row["oid"]: row for row in tables}
    latest_s = now.timestamp() - retention_days * 86400
    over: dict[str, list[Mapping[str, Any]]] = {}
    for leaf in session.rows(_LEAVES):
        if leaf["upper_s"] <= latest_s and leaf["oid"] in sizes:
            over.setdefault(leaf["root"], []).append(sizes[leaf["oid"]])
    for root, rows in over.items():
        count = f"{len(rows)} partition{'s' if len(rows) > 1 else ''}"
        because = f"{count}, over for {retention_days:g} days"
        statement = "\n".join(f"drop table {row['relation']};" for row in rows)
        yield _row("drop old partitions", root, sum(row["total_bytes"] for row in rows), _DISK, because, statement)


def _old_rows(
    session: Session, tables: Iterable[Mapping[str, Any]], taken: Sequence[Snapshot], retention_days: float
) -> Iterator[dict[str, Any]]:
    latest = taken[-1].at - datetime.timedelta(days=retention_days)
    old = [it for it in taken if it.at <= latest]
    if not old or not _counted_on(old[-1], taken[-1]):
        return
    then = {row["oid"]: row for row in read_rows(old[-1], "relation")}
    columns = {row["oid"]: row["columns"] for row in session.rows(_TIME_COLUMNS)}
    for row in tables:
        before = then.get(row["oid"])
        if before and row["oid"] in columns and _only_inserted(before, row):
            by = ", ".join(columns[row["oid"]])
            because = f"there on {old[-1].at:%Y-%m-%d}, none changed since; by {by}"
            yield _row("delete old rows", row["relation"], before["total_bytes"], _ROWS, because, None)


def _counted_on(then: Snapshot, now: Snapshot) -> bool:
    """Tell whether no counter of the database was reset between two snapshots, by a crash or by somebody."""
    return all(
        read_rows(then, kind)[0][name] == read_rows(now, kind)[0][name]
        for kind, name in (("cluster", "counting_since"), ("database", "stats_reset"))
    )


def _only_inserted(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether a table was inserted into and nothing else between two snapshots, by counters that went on."""
    same = all(now[name] == then[name] for name in ("updated", "deleted"))
    return same and now["inserted"] > then["inserted"] and now["total_bytes"] >= then["total_bytes"]


def _compression(session: Session, tables: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    columns = {row["oid"]: row["columns"] for row in session.rows(_UNCOMPRESSED)}
    for row in tables:
        if row["oid"] in columns:
            because = f"EXTERNAL: {', '.join(columns[row['oid']])}; old rows once written again"
            sets = ", ".join(f"alter column {name} set storage extended" for name in columns[row["oid"]])
            statement = f"alter table {row['relation']} {sets};"
            yield _row("compress", row["relation"], row["toast_bytes"], _BOUND, because, statement)
