"""Do deadlocks happen?

Two transactions wait for each other; after ``deadlock_timeout`` the server picks one and rolls it back with an error.
Now and then is no harm to an application that tries again, every day is a wrong order of locking that gets worse with
load. Decided by deadlocks a day over the age of the counters, which is taken as one day at least; without a reset
since the database was made (or a crash emptied the counters) they are as old as the background writer's. With a
history the deadlocks since its last snapshot are counted instead.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import DAY_S, a_day, since_database, window
from pgrunbooks.checks._sessions import count

_COUNTERS = """
select
    d.datname::text as database,
    d.deadlocks,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database as d
cross join pg_catalog.pg_stat_bgwriter as b
where d.datname is not null
order by d.deadlocks desc, d.datname
"""
SQL = {15: _COUNTERS}

REMEDIES = (
    Remedy(
        "Find the two statements: the server log has both under 'deadlock detected', in this file",
        sql="select pg_current_logfile();",
        risk="none",
        locks="none",
    ),
    Remedy(
        "In the application: lock rows in one order (select ... order by id for update), keep transactions short, and"
        " try again on SQLSTATE 40P01",
        risk="low",
    ),
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each database of the server by its deadlocks a day."""
    for row in rows:
        counted = since_database(row, context, deadlocks="deadlocks") or row
        deadlocks, age = counted["deadlocks"], counted["counters_age_s"]
        daily = a_day(deadlocks, counted)
        severity = grade(daily, limits)
        if not severity or not deadlocks:
            continue
        rate = f" ({daily:.3g} a day)" if age and age > DAY_S else ""
        yield Finding(
            severity=severity,
            kind="database",
            name=row["database"],
            title=f"Database {row['database']} has had {count(deadlocks, 'deadlock')} {window(counted)}{rate}",
            impact="Each one made two clients wait for deadlock_timeout, and one of them lost its transaction.",
            evidence=[{**counted, "deadlocks_a_day": daily}],
            remedies=REMEDIES,
        )


check = Check(
    "deadlocks",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-DEADLOCKS",),
    runbook="log_analysis",
    uses_counters=True,
    since_snapshot=True,
)
