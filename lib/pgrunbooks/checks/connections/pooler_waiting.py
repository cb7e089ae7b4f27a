"""Do clients queue in PgBouncer?

A client that gets no server connection waits inside the pooler, where the server cannot see it: pg_stat_activity
looks calm while requests time out. The pool is too small, or its server connections are kept: by transactions that
idle, by slow statements, by lock waits. Asked is the pooler's admin console. Decided by how long the first client in
the queue has waited already (``maxwait`` and ``maxwait_us``), where clients wait at all; only where the target names
a pooler.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import duration

SQL = {15: "show pools"}

REMEDIES = (
    Remedy(
        "On the server: see what the pool's connections are busy with, the oldest transaction first",
        sql="select pid, usename, application_name, state, wait_event, xact_start from pg_stat_activity"
        " where backend_type = 'client backend' and xact_start is not null order by xact_start;",
        risk="none",
        locks="none",
    ),
    Remedy("On PgBouncer's admin console: see who waits", sql="show clients;", risk="none", locks="none"),
    Remedy(
        "Where the server has slots and CPU to spare: raise pool_size of this database (or default_pool_size) in"
        " pgbouncer.ini, then RELOAD on the admin console",
        risk="low",
        undo="set the old size and RELOAD again",
    ),
)


def _waited_s(row: Row) -> float:
    return float((row["maxwait"] or 0) + (row["maxwait_us"] or 0) / 1e6)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each pool in which clients wait by how long the first of them has waited."""
    for row in sorted(rows, key=lambda row: (-_waited_s(row), row["database"], row["user"])):
        severity = grade(_waited_s(row), limits)
        if not row["cl_waiting"] or not severity:
            continue
        busy = count(row["sv_active"], "server connection")
        columns = ("database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle")
        yield Finding(
            severity=severity,
            kind="pool",
            name=f"{row['database']}/{row['user']}",
            title=f"{count(row['cl_waiting'], 'client')} wait{'s' if row['cl_waiting'] == 1 else ''} in PgBouncer for "
            f"a connection to {row['database']} as {row['user']}, the first for {duration(_waited_s(row))}",
            impact=f"The pool's {busy} cannot take more; requests time out before the server sees them."
            if row["sv_active"]
            else "The pool has no server connection: PgBouncer cannot reach the server, is not let in, or is paused.",
            evidence=[{**{key: row[key] for key in columns}, "waiting_s": _waited_s(row)}],
            remedies=REMEDIES,
        )


check = Check(
    "pooler-waiting",
    sql=SQL,
    judge=judge,
    docs=("https://www.pgbouncer.org/usage.html#show-pools", "https://www.pgbouncer.org/config.html#default_pool_size"),
    runbook="connection_analysis",
    asks_pooler=True,
)
