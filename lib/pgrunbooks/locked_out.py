"""Locked out: who holds a system catalog that every new session of a database has to read."""

from __future__ import annotations

import contextlib

import psycopg

from pgrunbooks.errors import RunbookError
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import Target

# The catalogs have the same oids in every database, below 16384. A lock that is waited for keeps others out as well.
_HOLDER = """
select
    l.relation::pg_catalog.regclass::text as catalog,
    h.pid,
    pg_catalog.concat_ws(', ', 'role ' || a.usename, nullif(a.application_name, ''), a.state) as who
from pg_catalog.pg_locks as l
join pg_catalog.pg_database as d on d.oid = l.database
cross join lateral (
    select case when l.granted then l.pid else (pg_catalog.pg_blocking_pids(l.pid))[1] end as pid
) as h
left join pg_catalog.pg_stat_activity as a on a.pid = h.pid
where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.relation < 16384 and h.pid > 0
    and d.datname = %(database)s
order by l.granted desc, l.waitstart, h.pid
limit 1
"""


def why(target: Target, database: str) -> str | None:
    """Ask in another database of the server who keeps new sessions out of this one, and what lets them in again.

    Returns None where no other database lets us in either, or where nobody holds a catalog any more.
    """
    for elsewhere in {"postgres", "template1"} - {database}:
        with (
            contextlib.suppress(RunbookError, psycopg.Error),
            open_session(target, database=elsewhere, ask_why=False) as session,
        ):
            return _holder(session, database)
    return None


def _holder(session: Session, database: str) -> str | None:
    for row in session.rows(_HOLDER, {"database": database}):
        who = f" ({row['who']})" if row["who"] else ""
        return (
            f"session {row['pid']}{who} has locked the system catalog {row['catalog']} of database {database}, so "
            f"nobody gets in; from another database: select pg_terminate_backend({row['pid']})"
        )
    return None
