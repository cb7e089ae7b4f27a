"""Are too many transactions rolled back?

A transaction that is rolled back did its work for nothing: constraint violations, deadlocks, timeouts, optimistic
retries. The ratio alone says little, since many drivers and pools end every read with a rollback, monitoring tools such
as this one included. So without its own history to compare with it is no more than a hint (info), for a database with
``min_transactions`` at least; a rise of ``points`` above what was normal here would make it a warning.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import evidence, window
from pgrunbooks.checks._sessions import literal

_TRANSACTIONS = """
select
    d.datname::text as database,
    d.xact_commit as committed,
    d.xact_rollback as rolled_back,
    d.deadlocks,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database as d
cross join pg_catalog.pg_stat_bgwriter as b
where d.datname is not null
order by d.xact_rollback desc, d.datname
"""
SQL = {15: _TRANSACTIONS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each database where a large enough share of enough transactions was rolled back."""
    for row in rows:
        rolled_back = row["rolled_back"] or 0
        transactions = rolled_back + (row["committed"] or 0)
        if transactions < max(limits["min_transactions"], 1):
            continue
        ratio = rolled_back / transactions
        severity = grade(ratio, {"info": limits["info"]})
        if severity:
            yield Finding(
                severity=severity,
                kind="database",
                name=row["database"],
                title=f"Database {row['database']} rolled back {ratio:.0%} of {transactions} transactions"
                f" {window(row)}",
                impact="Their work was for nothing, or their driver ends every read with a rollback: the server cannot "
                "tell which. Compare with what is usual here.",
                evidence=evidence([{**row, "ratio": ratio}], *row, "ratio"),
                remedies=(
                    Remedy(
                        "See whether it goes on, and how fast: ask twice, a minute apart",
                        sql="select now(), xact_commit, xact_rollback from pg_stat_database"
                        f" where datname = {literal(row['database'])};",
                        risk="none",
                        locks="none",
                    ),
                    Remedy(
                        "Find the errors behind it: the server log has every one, in this file",
                        sql="select pg_current_logfile();",
                        risk="none",
                        locks="none",
                    ),
                ),
            )


check = Check(
    "high-rollback-ratio",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW",),
    runbook="log_analysis",
    uses_counters=True,
)
