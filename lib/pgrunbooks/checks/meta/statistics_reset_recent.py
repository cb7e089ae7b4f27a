"""Are the counters old enough to judge by?

PostgreSQL counts scans, deadlocks and rows since the last reset, and a crash empties the counters too. An index without
a scan in two days is not an unused one: the report of the month has not run yet. Checks that need a longer history stay
silent until the counters are older than ``min_age``, and this one says so. Their age is that of the database's last
reset; without one, or after a crash, which both leave it NULL, that of the background writer's.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip, registry
from pgrunbooks.display import duration

_AGES = """
select
    d.datname::text as database,
    d.stats_reset as database_reset_at,
    b.stats_reset as server_reset_at,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database as d
cross join pg_catalog.pg_stat_bgwriter as b
where d.datname = pg_catalog.current_database()
order by d.datname
"""
SQL = {15: _AGES}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Say so where the counters of this database are younger than ``min_age``."""
    for row in rows:
        age_s = row["counters_age_s"]
        if age_s is None:
            yield Skip("the server does not tell since when it counts")
        elif age_s < limits["min_age"]:
            asked = [it.code for it in context.outcomes if it.code in registry() and registry()[it.code].uses_counters]
            wait_s = limits["min_age"] - age_s
            yield Finding(
                severity="info",
                kind="database",
                name=row["database"],
                title=f"The counters of database {row['database']} are only {duration(age_s)} old",
                impact="What they have not seen yet may still happen: verdicts that need history stay silent until"
                f" they are {duration(limits['min_age'])} old.",
                evidence=[{**row, "judged_by_counters": ", ".join(asked) or None}],
                remedies=(
                    Remedy(
                        f"Ask again in {duration(wait_s)}, and reset counters only for a reason: snapshots show what"
                        " has changed without that",
                        risk="none",
                    ),
                ),
            )


check = Check(
    "statistics-reset-recent",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-STATS-FUNCTIONS",),
    runbook="health_check",
)
