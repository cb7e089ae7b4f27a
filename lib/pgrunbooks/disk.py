"""Disk: what takes the room on a server's volumes, as far as the server itself knows."""

from __future__ import annotations

from typing import Any

import psycopg

from pgrunbooks import filing
from pgrunbooks.check import Skip
from pgrunbooks.display import duration, size
from pgrunbooks.errors import HistoryError
from pgrunbooks.session import Session, refused

# What a role may see differs from one to the next, so each is a statement of its own.
_USES = {
    "databases": """
select
    'database ' || d.datname as what,
    pg_catalog.pg_database_size(d.oid) as bytes,
    null::text as note
from pg_catalog.pg_database as d
where pg_catalog.has_database_privilege(d.oid, 'connect') or pg_catalog.pg_has_role('pg_read_all_stats', 'usage')
order by bytes desc, what
limit 10
""",
    "pg_wal": """
select
    'pg_wal' as what,
    coalesce(sum(l.size), 0)::int8 as bytes,
    'max_wal_size is ' || current_setting('max_wal_size') || coalesce(
        (select '; the slot ' || s.slot_name || ' keeps WAL since ' || s.restart_lsn
         from pg_catalog.pg_replication_slots as s where s.restart_lsn is not null
         order by s.restart_lsn, s.slot_name limit 1), '; no slot keeps WAL') as note
from pg_catalog.pg_ls_waldir() as l
""",
    "temporary files": """
select 'temporary files now' as what, coalesce(sum(l.size), 0)::int8 as bytes,
    pg_catalog.count(*) || ' of running statements' as note
from pg_catalog.pg_tablespace as t
cross join lateral pg_catalog.pg_ls_tmpdir(t.oid) as l
where t.spcname <> 'pg_global'
""",
    "server logs": """
select 'server logs' as what, coalesce(sum(l.size), 0)::int8 as bytes, pg_catalog.count(*) || ' files' as note
from pg_catalog.pg_ls_logdir() as l
""",
}


def uses(session: Session) -> list[dict[str, Any]]:
    """Return what takes room on the disk: the ten largest databases, WAL, temporary files, server logs.

    Columns: what, bytes (None where this role may not look), disk_share (only where the target names its
    ``disk_bytes``), note. A database with a history says in its note how fast it grows. Raises ConnectionLostError
    where the server went away.
    """
    rows: list[dict[str, Any]] = []
    for what, sql in _USES.items():
        try:
            rows += session.rows(sql)
        except psycopg.Error as error:
            refusal = refused(error, session.server)
            note = refusal.remedy or refusal.reason if isinstance(refusal, Skip) else refusal
            rows.append({"what": what, "bytes": None, "note": note})
    growth = _growth(session)
    disk = session.target.disk_bytes
    for row in rows:
        if growth and row["what"] == f"database {session.server.database}":
            row["note"] = growth
        if disk:
            row["disk_share"] = row["bytes"] / disk if row["bytes"] is not None else None
    return rows


def _growth(session: Session) -> str | None:
    """Return in words how the session's database grew over its history; None where there is none."""
    if not filing.has_history(session):
        return None
    from pgrunbooks import growth, history  # half a second of Parquet, for those who keep a history

    try:
        known = growth.database_sizes(history.snapshots(session)[0])
    except HistoryError as error:
        return str(error)
    if len(known) < 2:
        return None
    span_s = (known[-1]["taken_at"] - known[0]["taken_at"]).total_seconds()
    grown = known[-1]["database_bytes"] - known[0]["database_bytes"]
    return f"{'grew' if grown >= 0 else 'shrank'} by {size(abs(grown))} in {duration(span_s)} of history"
