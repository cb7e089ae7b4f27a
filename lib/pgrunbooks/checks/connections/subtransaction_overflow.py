"""Does a session hold more subtransactions than the cache?

Each savepoint that writes is a subtransaction, and so is each pass of a plpgsql block with an exception handler and
each row of a driver's 'savepoint per statement'. A backend announces 64 of them in shared memory; with one more it
overflows, and from then on every snapshot of every session has to look parents up in pg_subtrans. One such
transaction beside a busy table can make all reads of the server slow, on its standbys too. Decided by what the
server says, ``pg_stat_get_backend_subxact``: overflowed or not. PostgreSQL 16 and later can be asked.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import evidence, label, terminate
from pgrunbooks.checks._texts import with_query
from pgrunbooks.display import duration

_SUBTRANSACTIONS = """
select
    'pid' as kind,
    a.pid::text as name,
    a.usename::text as role,
    a.datname::text as database,
    a.application_name as application,
    a.client_addr::text as client,
    a.backend_type,
    a.state,
    a.wait_event,
    a.backend_start,
    a.backend_xid is not null or s.subxact_overflowed as has_written,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_s,
    s.subxact_count as cached_subtransactions,
    s.subxact_overflowed as overflowed,
    {query} as query
from pg_catalog.pg_stat_get_backend_idset() as b (id)
cross join lateral pg_catalog.pg_stat_get_backend_subxact(b.id) as s
join pg_catalog.pg_stat_activity as a on a.pid = pg_catalog.pg_stat_get_backend_pid(b.id)
where a.pid <> pg_catalog.pg_backend_pid() and s.subxact_count > 0
order by s.subxact_overflowed desc, a.xact_start nulls last, a.pid
"""
SQL = {16: with_query(_SUBTRANSACTIONS)}

REMEDIES = (
    Remedy(
        "See whether it hurts now: sessions that wait for pg_subtrans",
        sql="select wait_event, count(*) from pg_stat_activity where wait_event ilike 'subtrans%'"
        " group by wait_event order by wait_event;",
        risk="none",
        locks="none",
    ),
    Remedy(
        "In the application: one savepoint a batch and not a row, exception blocks outside of loops, 'on conflict' for"
        " duplicates, and a commit before 64 savepoints have written",
        risk="low",
    ),
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report every session whose subtransactions no longer fit into its cache."""
    for row in rows:
        if not row["overflowed"]:
            continue
        since = f" after {duration(row['transaction_s'])}" if row["transaction_s"] is not None else ""
        yield Finding(
            severity="warning",
            kind="pid",
            name=row["name"],
            title=f"{label(row)} holds more than {row['cached_subtransactions']} subtransactions{since}",
            impact="Until it ends, the snapshots of all other sessions look subtransactions up on their way through "
            "rows that changed lately: reads get slow everywhere, most of all under load and on standbys.",
            evidence=[{**evidence(row), "cached_subtransactions": row["cached_subtransactions"]}],
            remedies=(*REMEDIES, terminate(row)),
        )


check = Check(
    "subtransaction-overflow",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/subxacts.html",),
    runbook="connection_analysis",
)
