"""Are all autovacuum workers busy while tables wait?

A few workers share the work of all tables of all databases, three by default. When each of them is busy with something
large, small hot tables wait for hours and gather dead rows. Decided by the workers that run against those that may
(``autovacuum_max_workers``, since PostgreSQL 18 within ``autovacuum_worker_slots``), where ``min_tables`` tables of
this database are overdue at the same time, by the limits of vacuum-overdue.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import count
from pgrunbooks.checks._vacuum import SQL, Row, named, overdue


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report once that every worker is busy and ``min_tables`` or more tables wait."""
    waiting = overdue(rows, context.target.limits("vacuum-overdue"))
    if not waiting or len(waiting) < limits["min_tables"]:
        return
    row = waiting[0]
    if row["workers_running"] >= row["workers_allowed"]:
        yield Finding(
            severity="warning",
            kind="cluster",
            name="cluster",
            title=f"All {count(row['workers_allowed'], 'autovacuum worker')} are busy while"
            f" {count(len(waiting), 'table')} {'wait' if len(waiting) > 1 else 'waits'}",
            impact=f"Dead rows pile up in {named([it['table'] for it in waiting], 'table')} until a worker is free.",
            evidence=[
                *({"worker": job} for job in row["workers_do"]),
                *({key: it[key] for key in ("table", "rows", "dead_rows", "vacuum_trigger")} for it in waiting),
            ],
            remedies=tuple(_remedies(row, waiting, context)),
        )


def _remedies(row: Row, waiting: Rows, context: Context) -> Iterable[Remedy]:
    old = row["own_cost_limit"]
    larger = 5 * (row["cost_limit"] if old == -1 else old)
    reload = "\nselect pg_reload_conf();"
    yield Remedy(
        "See how far the workers are",
        sql="select p.pid, p.datname, p.relid::regclass as table, p.phase, p.heap_blks_scanned, p.heap_blks_total"
        " from pg_stat_progress_vacuum p order by p.pid;",
        risk="none",
        locks="none",
    )
    yield Remedy(
        "Vacuum by hand what waits longest; that takes no worker",
        sql=f"vacuum (verbose, analyze) {waiting[0]['table']};",
        risk="low",
        locks=f"SHARE UPDATE EXCLUSIVE on {waiting[0]['table']}",
    )
    if larger <= 10000:
        yield Remedy(
            "Let the workers go faster, where the disks have room for it: they share one limit",
            sql=f"alter system set autovacuum_vacuum_cost_limit = {larger};{reload}",
            risk="low",
            locks="none",
            undo=f"alter system set autovacuum_vacuum_cost_limit = {old};{reload}",
        )
    workers = row["workers_allowed"]
    needs = " after that: up to autovacuum_worker_slots without a restart" if context.server.major >= 18 else ""
    yield Remedy(
        f"More workers help only{needs or ' after that, with the next restart'}, since they share the limit of speed",
        sql=f"alter system set autovacuum_max_workers = {workers + 2};{reload}",
        risk="low",
        locks="none",
        undo=f"alter system set autovacuum_max_workers = {workers};{reload}",
    )


check = Check(
    "autovacuum-saturated",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/runtime-config-vacuum.html#GUC-AUTOVACUUM-MAX-WORKERS",),
    runbook="vacuum_health",
    sees_sessions=True,
    primary_only=True,
    uses_counters=True,
)
