"""Is replay paused?

``pg_wal_replay_pause()`` holds a standby still while it goes on receiving: for a look at the past, for a rolling
upgrade, and then it is forgotten. Its readers see an ever older state, its disk fills with WAL, and a failover to it
waits for all of that. A server whose recovery has reached its target pauses too. Decided by what the standby says;
critical once WAL waits and the last transaction that was replayed is older than ``critical``. A standby that has
replayed none since it was started sees nothing younger than its start.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration, size

_PAUSE = """
select
    coalesce(
        (pg_catalog.regexp_match(w.conninfo, '(?:^| )application_name=''?([^'' ]+)'))[1],
        nullif(current_setting('cluster_name'), ''),
        'walreceiver'
    ) as standby,
    case when r.in_recovery then pg_catalog.pg_get_wal_replay_pause_state() end as pause_state,
    concat(
        current_setting('recovery_target'), current_setting('recovery_target_lsn'),
        current_setting('recovery_target_name'), current_setting('recovery_target_time'),
        current_setting('recovery_target_xid')
    ) <> '' as has_target,
    pg_catalog.pg_wal_lsn_diff(
        pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()
    )::int8 as waiting_bytes,
    extract(epoch from clock_timestamp() - coalesce(
        pg_catalog.pg_last_xact_replay_timestamp(), pg_catalog.pg_postmaster_start_time()
    ))::float8 as replayed_s
from (select pg_catalog.pg_is_in_recovery() as in_recovery) as r
left join pg_catalog.pg_stat_wal_receiver as w on true
where r.in_recovery
order by standby
"""
SQL = {15: _PAUSE}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report a paused standby, critical once WAL that waits has grown old."""
    for row in rows:
        if row["pause_state"] in (None, "not paused"):
            continue
        waiting, age_s = row["waiting_bytes"] or 0, row["replayed_s"]
        waits = f"{size(waiting)} of WAL wait" if waiting > 0 else "no WAL waits yet"
        yield Finding(
            severity=(grade(age_s, limits) if waiting > 0 else None) or "warning",
            kind="standby",
            name=row["standby"],
            title=f"Replay is {'about to pause' if row['pause_state'] == 'pause requested' else 'paused'} on standby "
            f"{row['standby']}; {waits}",
            impact="Its readers see the same state until replay is resumed"
            + (f"; the last transaction they see is {duration(age_s)} old" if waiting > 0 and age_s is not None else "")
            + ". What it receives meanwhile fills its disk, and a failover to it has to replay all of that first.",
            evidence=evidence([row], *row),
            remedies=(_resume(row),),
        )


def _resume(row: Row) -> Remedy:
    if row["has_target"]:
        return Remedy(
            "Resume, if this is the state that the recovery was for: it ends the recovery, and the server starts a"
            " timeline of its own",
            sql="select pg_wal_replay_resume();",
            risk="high",
            locks="none",
            undo="none: a server that has left recovery cannot follow its primary any more",
        )
    return Remedy(
        "Resume replay, after asking who paused it and what for",
        sql="select pg_wal_replay_resume();",
        risk="low",
        locks="what is replayed may cancel queries that still need the old state",
        undo="select pg_wal_replay_pause();",
    )


check = Check(
    "replay-paused",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL",),
    runbook="replication_health",
)
