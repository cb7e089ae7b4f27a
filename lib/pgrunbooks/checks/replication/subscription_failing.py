"""Does logical replication fail?

A subscription applies the changes of another database. When one cannot be applied (a duplicate key, a column that is
missing) its worker ends with an error, starts again after some seconds and fails at the same change for ever: nothing
behind it arrives, and the publisher keeps all WAL for it. Decided by the errors counted for apply and for the first
copy of tables since the last snapshot of the history, without one by all that were counted; by a subscription that is
enabled and has no worker; and by a table whose copy runs for longer than ``sync`` (no catalog says since when a table
waits, so that a worker's age is what can be measured). Errors are a warning where the worker has run for a minute since
and no copy is open: a failing one ends at once. Only the tables of this database can be seen. On a standby
subscriptions rest, and nothing is judged.
"""

from collections.abc import Iterable
from itertools import groupby

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._counters import evidence, since, window
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import duration

STEADY_S = 60.0  # 12 times wal_retrieve_retry_interval, after which a worker that failed is started again

# Parallel apply workers (16+) count to their subscription; their leader is the oldest of them.
_SUBSCRIPTIONS = """
select
    s.oid::int8 as subscription_oid,
    s.subname::text as subscription,
    pg_catalog.quote_ident(s.subname) as quoted_name,
    d.datname::text as database,
    d.datname = pg_catalog.current_database() as is_here,
    s.subenabled as enabled,
    t.apply_error_count as apply_errors,
    t.sync_error_count as sync_errors,
    t.stats_reset,
    coalesce(w.workers, 0) > 0 as has_worker,
    extract(epoch from clock_timestamp() - w.started_at)::float8 as worker_s,
    case when c.oid is not null then pg_catalog.format('%I.%I', n.nspname, c.relname) end as "table",
    r.srsubstate as table_state,
    extract(epoch from clock_timestamp() - a.backend_start)::float8 as copying_s
from pg_catalog.pg_subscription as s
join pg_catalog.pg_database as d on d.oid = s.subdbid
left join pg_catalog.pg_stat_subscription_stats as t on t.subid = s.oid
left join (
    select p.subid, count(p.pid) as workers, min(b.backend_start) as started_at
    from pg_catalog.pg_stat_subscription as p
    left join pg_catalog.pg_stat_activity as b on b.pid = p.pid
    where p.relid is null
    group by p.subid
) as w on w.subid = s.oid
left join pg_catalog.pg_subscription_rel as r on r.srsubid = s.oid and r.srsubstate <> 'r'
left join pg_catalog.pg_class as c on c.oid = r.srrelid
left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_stat_subscription as y on y.subid = s.oid and y.relid = r.srrelid
left join pg_catalog.pg_stat_activity as a on a.pid = y.pid
order by is_here desc, database, subscription, copying_s desc nulls last, "table"
"""
SQL = {15: _SUBSCRIPTIONS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each subscription with errors, without a worker, or with a copy that takes too long."""
    named = set()
    for _, group in groupby(rows, key=lambda row: row["subscription_oid"]):
        tables = list(group)
        finding = _judged(_since(tables[0], context), [row for row in tables if row["table"]], limits)
        if finding and finding.name not in named:  # one name may stand in two databases; this one comes first
            named.add(finding.name)
            yield finding


def _since(row: Row, context: Context) -> Row:
    then = context.since.subscriptions.get(row["subscription_oid"]) if context.since else None
    return since(row, context, then, apply_errors="apply_errors", sync_errors="sync_errors") or row


def _judged(row: Row, tables: Rows, limits: Limits) -> Finding | None:
    apply_errors, sync_errors = row["apply_errors"] or 0, row["sync_errors"] or 0
    slow = [it for it in tables if (it["copying_s"] or 0) >= limits["sync"]]
    steady = row["has_worker"] and (row["worker_s"] or 0) >= STEADY_S
    stopped = row["enabled"] and not row["has_worker"]
    still = (apply_errors and not steady) or (sync_errors and (tables or not row["is_here"]))
    said = []
    if apply_errors or sync_errors:
        said.append(f"has failed {_times(apply_errors, sync_errors)}{_window(row)}")
    if stopped:
        said.append("is enabled and has no worker")
    if slow:
        said.append(f"copies {slow[0]['table']} for {duration(slow[0]['copying_s'])}")
    if not said:
        return None
    columns = ("subscription", "database", "enabled", "apply_errors", "sync_errors", "has_worker", "worker_s")
    return Finding(
        severity="critical" if still or stopped else "warning",
        kind="subscription",
        name=row["subscription"],
        title=f"Subscription {row['subscription']} of database {row['database']} {' and '.join(said)}",
        impact="Changes of the publisher do not arrive, and it keeps all WAL since then for this subscription."
        if still or stopped
        else "Changes arrive at present; what failed before may have left gaps that nobody looked at."
        if apply_errors or sync_errors
        else "Until its copy is done the table is not complete, and the publisher keeps WAL for it.",
        evidence=[*evidence([row], *columns), *evidence(tables, "table", "table_state", "copying_s")],
        remedies=_remedies(row),
    )


def _window(row: Row) -> str:
    return f" {window(row)}" if "counters_age_s" in row else ""


def _times(apply_errors: int, sync_errors: int) -> str:
    applying = f"{count(apply_errors, 'time')} at a change" if apply_errors else ""
    copying = f"{count(sync_errors, 'time')} at copying a table" if sync_errors else ""
    return " and ".join(filter(None, (applying, copying)))


def _remedies(row: Row) -> tuple[Remedy, ...]:
    name, here = row["quoted_name"], f"in database {row['database']}"
    stop = Remedy(
        f"Stop its attempts while you look, {here}; the publisher goes on keeping WAL",
        sql=f"alter subscription {name} disable;",
        risk="low",
        locks=f"ACCESS EXCLUSIVE on the subscription {name}",
        undo=f"alter subscription {name} enable;",
    )
    start = Remedy(
        f"Once the cause is gone start it again, {here}",
        sql=f"alter subscription {name} enable;",
        risk="low",
        locks=f"ACCESS EXCLUSIVE on the subscription {name}",
        undo=f"alter subscription {name} disable;",
    )
    return (
        Remedy(
            "Read why: the server log names the table, the row and the LSN, in this file. Change the row that is in the"
            " way; the worker tries again by itself",
            sql="select pg_current_logfile();",
            risk="none",
            locks="none",
        ),
        stop if row["enabled"] else start,
        Remedy(
            "Once changes arrive again, empty its error counters: this check goes by them",
            sql=f"select pg_stat_reset_subscription_stats({row['subscription_oid']});",
            risk="low",
            locks="none",
            undo="none: the counts are gone",
        ),
    )


check = Check(
    "subscription-failing",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/logical-replication-conflicts.html",),
    runbook="replication_health",
    sees_sessions=True,
    primary_only=True,
    uses_counters=True,
    since_snapshot=True,
)
