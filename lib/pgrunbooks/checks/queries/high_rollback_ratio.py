"""Are too many transactions rolled back?

A transaction that is rolled back did its work for nothing: constraint violations, deadlocks, timeouts, optimistic
retries. The ratio alone says little, since many drivers and pools end every read with a rollback, monitoring tools such
as this one included. So a share is no more than a hint (info), for a database with ``min_transactions`` at least, and a
rise of ``points`` percentage points above what was usual here is a warning: the transactions since the last snapshot
of the history against those that the server had counted until then, of which there must be as many.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import evidence, since_database, window
from pgrunbooks.checks._sessions import Row, literal

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
    """Report each database where a large enough share of enough transactions was rolled back, or more than usual."""
    for row in rows:
        since = since_database(
            row, context, committed="xact_commit", rolled_back="xact_rollback", deadlocks="deadlocks"
        )
        counted = since or row
        ratio, usual = _ratio(counted, limits), _ratio(_until(row, since), limits) if since else None
        if ratio is None:
            continue
        # rounded: 30 % are 9.999999999999998 points more than 20 %
        risen = usual is not None and round((ratio - usual) * 100, 6) >= limits["points"]
        severity = "warning" if risen else grade(ratio, {"info": limits["info"]})
        if severity:
            compared = f"; before that {usual:.0%}" if usual is not None else ""
            yield Finding(
                severity=severity,
                kind="database",
                name=row["database"],
                title=f"Database {row['database']} rolled back {ratio:.0%} of {_transactions(counted)} transactions"
                f" {window(counted)}{compared}",
                impact="Their work was for nothing, or their driver ends every read with a rollback: the server cannot "
                "tell which. Compare with what is usual here.",
                evidence=evidence([{**counted, "ratio": ratio, "usual_ratio": usual}], *row, "ratio", "usual_ratio"),
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


def _until(row: Row, since: Row) -> Row:
    """Return what was counted until the snapshot: all that was counted, without what was counted since."""
    return {name: (row[name] or 0) - since[name] for name in ("committed", "rolled_back")}


def _transactions(row: Row) -> int:
    return (row["committed"] or 0) + (row["rolled_back"] or 0)


def _ratio(row: Row, limits: Limits) -> float | None:
    """Return the share that was rolled back; None of too few."""
    transactions = _transactions(row)
    return (row["rolled_back"] or 0) / transactions if transactions >= max(limits["min_transactions"], 1) else None


check = Check(
    "high-rollback-ratio",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW",),
    runbook="log_analysis",
    uses_counters=True,
    since_snapshot=True,
)
