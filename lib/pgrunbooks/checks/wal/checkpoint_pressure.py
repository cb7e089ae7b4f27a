"""Are checkpoints forced by WAL volume?

A checkpoint is due every ``checkpoint_timeout``; when writes fill ``max_wal_size`` before, the server forces one. Each
checkpoint makes the next change of every page write the whole page into the WAL, so forced checkpoints beget WAL that
forces the next one, and the disk never rests. Decided by requested against timed checkpoints, of ``min_checkpoints`` at
least, since the last snapshot of the history. The view counts manual checkpoints and those of backups and dropped
databases as requested too: without a history, over the age of the counters, this is a hint (info) and no more.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._counters import evidence, since, window
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration, size

_CHECKPOINTS_15 = """
select
    b.checkpoints_timed as timed,
    b.checkpoints_req as requested,
    pg_catalog.pg_size_bytes(current_setting('max_wal_size')) as max_wal_bytes,
    extract(epoch from current_setting('checkpoint_timeout')::interval)::float8 as checkpoint_timeout_s,
    extract(epoch from clock_timestamp() - b.stats_reset)::float8 as counters_age_s
from pg_catalog.pg_stat_bgwriter as b
order by b.checkpoints_req
"""

_CHECKPOINTS_17 = """
select
    c.num_timed as timed,
    c.num_requested as requested,
    pg_catalog.pg_size_bytes(current_setting('max_wal_size')) as max_wal_bytes,
    extract(epoch from current_setting('checkpoint_timeout')::interval)::float8 as checkpoint_timeout_s,
    extract(epoch from clock_timestamp() - c.stats_reset)::float8 as counters_age_s
from pg_catalog.pg_stat_checkpointer as c
order by c.num_requested
"""
SQL = {15: _CHECKPOINTS_15, 17: _CHECKPOINTS_17}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report where as many checkpoints were requested as were due, once there are enough of them."""
    for total in rows:
        counted = since(
            total,
            context,
            context.since.checkpoints if context.since else None,
            timed="timed_checkpoints",
            requested="requested_checkpoints",
        )
        row = counted or total
        timed, requested = row["timed"] or 0, row["requested"] or 0
        if timed + requested >= max(limits["min_checkpoints"], 1) and requested >= timed:
            yield Finding(
                severity="warning" if counted else "info",
                kind="cluster",
                name="cluster",
                title=f"{requested} of {timed + requested} checkpoints came before they were due, {window(row)}",
                impact=f"Where WAL volume forces them, max_wal_size ({size(row['max_wal_bytes'] or 0)}) is too small "
                f"for a checkpoint every {duration(row['checkpoint_timeout_s'] or 0)}, and pages go whole into "
                "the WAL again and again. Manual checkpoints and backups count as requested too.",
                evidence=evidence([row], *row),
                remedies=_remedies(row),
            )


def _remedies(row: Row) -> tuple[Remedy, ...]:
    now_mb = (row["max_wal_bytes"] or 0) >> 20
    change = "alter system set max_wal_size = '{}MB';\nselect pg_reload_conf();"
    return (
        Remedy(
            "See what forces them: with log_checkpoints on, the log says 'wal', 'time' or 'immediate force wait'",
            sql="select pg_current_logfile();",
            risk="none",
            locks="none",
        ),
        Remedy(
            "Let more WAL come between two checkpoints, where the disk of pg_wal has the room; recovery after a crash"
            " takes longer",
            sql=change.format(2 * now_mb),
            risk="low",
            locks="none",
            undo=change.format(now_mb),
        ),
    )


check = Check(
    "checkpoint-pressure",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/wal-configuration.html",),
    runbook="replication_health",
    primary_only=True,
    uses_counters=True,
    since_snapshot=True,
)
