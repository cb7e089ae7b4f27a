"""Are the connection slots running out?

PostgreSQL takes ``max_connections`` client connections and keeps a few of them back for superusers (and, from 16
on, for roles with ``pg_use_reserved_connections``). When the rest is used up every new connection is refused with
'too many clients already', health checks and poolers included. Counted are client backends, ours left out, against
the slots that an ordinary role may use. Background workers, walsenders and autovacuum have slots of their own.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import count

# A role without pg_read_all_stats sees neither state nor backend_type of others: who has a role and a database
# counts as a client there.
_SLOTS = """
select
    a.usename::text as role,
    a.application_name as application,
    coalesce(a.state, 'not visible') as state,
    count(*) as sessions,
    sum(count(*)) over () as used,
    current_setting('max_connections')::int as max_connections,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true)::int, 0) as reserved
from pg_catalog.pg_stat_activity as a
where coalesce(a.backend_type = 'client backend', a.datid is not null and a.usesysid is not null)
    and a.pid <> pg_catalog.pg_backend_pid()
group by a.usename, a.application_name, a.state
order by sessions desc, role nulls last, application, state
"""
SQL = {15: _SLOTS}

REMEDIES = (
    Remedy(
        "See which of them do nothing, the longest idle first",
        sql="select pid, usename, application_name, client_addr, state_change from pg_stat_activity"
        " where backend_type = 'client backend' and state = 'idle' order by state_change;",
        risk="none",
        locks="none",
    ),
    Remedy(
        "Give the largest consumer a smaller pool, or put a pooler such as PgBouncer in transaction mode before the"
        " server; raising max_connections needs a restart and costs memory",
        risk="low",
    ),
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade the used share of the slots that an ordinary role may take; name the largest consumer."""
    if not rows:
        return
    used, most = rows[0]["used"], rows[0]
    slots = rows[0]["max_connections"] - rows[0]["reserved"]
    severity = grade(used / slots, limits)
    if severity:
        columns = ("sessions", "role", "application", "state")
        yield Finding(
            severity=severity,
            kind="cluster",
            name="cluster",
            title=f"{used} of {slots} connection slots are in use ({used / slots:.0%})",
            impact=f"{count(max(slots - used, 0), 'slot')} left; after that every new connection is refused. "
            f"The largest consumer is role {most['role']}, application {most['application'] or 'unnamed'}, "
            f"with {count(most['sessions'], 'session')} ({most['state']}).",
            evidence=[{**{key: row[key] for key in columns}, "share": row["sessions"] / slots} for row in rows],
            remedies=REMEDIES,
            involves=frozenset(f"slot:{number}" for number in range(used)),
        )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame what holds at least half of the used slots: a lock queue with its root, or commits without a standby."""
    used, roots = len(finding.involves), {"blocking-lock": 1, "sync-replica-missing": 0}
    return [it for it in others if it.code in roots and 2 * (len(it.involves) + roots[it.code]) >= used]


check = Check(
    "connection-saturation",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/runtime-config-connection.html",),
    runbook="connection_analysis",
)
