"""How far behind are the standbys?

A standby that replays late shows the past to its readers, and takes over late in an emergency. Time alone misleads: on
an idle primary nothing is replayed and the last transaction grows old, so only a standby with something to replay is
judged. Seen from the primary: ``replay_lag``; or the bytes behind, where the replay position stood still between two
looks half a second apart (the lag in time is that of the last reply then, and does not grow) or no time is reported.
Base backups, WAL archivers and logical walsenders replay nothing and are left out. Seen from the standby itself: what
it had received at the first look and had not replayed at the second, and how old the last transaction is that it has
replayed.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Severity, grade
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import REPLAY, Row, literal
from pgrunbooks.display import duration, size

# Positions are bytes since the beginning of all WAL. A standby knows its own name from the connection that it made.
_STANDBYS = """
with available as (
    select
        pg_catalog.pg_is_in_recovery() as in_recovery,
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end as lsn
)
select
    'primary' as side,
    coalesce(nullif(r.application_name, ''), r.client_addr::text, 'unnamed') as standby,
    r.pid,
    r.client_addr::text as client,
    r.state,
    r.sync_state,
    pg_catalog.pg_wal_lsn_diff(a.lsn, '0/0')::int8 as available_position,
    pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0')::int8 as replayed_position,
    extract(epoch from r.replay_lag)::float8 as lag_s
from available as a
cross join pg_catalog.pg_stat_replication as r
left join pg_catalog.pg_replication_slots as s on s.active_pid = r.pid
where r.state in ('streaming', 'catchup') and r.replay_lsn is not null and s.slot_type is distinct from 'logical'
union all
select
    'standby',
    coalesce(
        (pg_catalog.regexp_match(w.conninfo, '(?:^| )application_name=''?([^'' ]+)'))[1],
        nullif(current_setting('cluster_name'), ''),
        'walreceiver'
    ),
    null,
    w.sender_host,
    w.status,
    null,
    pg_catalog.pg_wal_lsn_diff(a.lsn, '0/0')::int8,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::int8,
    extract(epoch from clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8
from available as a
left join pg_catalog.pg_stat_wal_receiver as w on true
where a.in_recovery
order by side, standby, pid
"""
SQL = {15: _STANDBYS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each standby that has something to replay; of several with one name, the worst."""

    def name(row: Row) -> tuple[str, str]:
        return row["side"], row["standby"]

    for (_, _), same_name in groupby(sorted(rows, key=name), key=name):
        looks = list(same_name)
        pids = sorted({row["pid"] or 0 for row in looks})
        found = [it for pid in pids if (it := _lag([row for row in looks if (row["pid"] or 0) == pid], limits))]
        if found:
            yield max(found, key=lambda it: (it.severity == "critical", it.evidence[0]["behind_bytes"]))


def _lag(looks: Rows, limits: Limits) -> Finding | None:
    first, last = looks[0], looks[-1]
    if last["available_position"] is None or last["replayed_position"] is None:
        return None
    behind, lag_s = last["available_position"] - last["replayed_position"], last["lag_s"]
    caught_up = last["side"] == "standby" and last["replayed_position"] >= (first["available_position"] or 0)
    if behind <= 0 or caught_up:
        return None
    stands_still = len(looks) > 1 and last["replayed_position"] <= (first["replayed_position"] or 0)
    by_bytes = grade(behind, limits, "_bytes") if stands_still or lag_s is None else None
    severities: tuple[Severity | None, ...] = (grade(lag_s, limits), by_bytes)
    severity = next((it for it in ("critical", "warning") if it in severities), None)
    return _finding(last, behind, stands_still, severity) if severity else None


def _finding(row: Row, behind: int, stands_still: bool, severity: str) -> Finding:
    lag_s = row["lag_s"]
    if stands_still:
        how = f"is {size(behind)} behind, and its replay stands still"
    else:
        how = f"is {size(behind)}{f' and {duration(lag_s)}' if lag_s is not None else ''} behind"
    standing = {**row, "behind_bytes": behind, "stands_still": stands_still}
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind="standby",
        name=row["standby"],
        title=f"Standby {row['standby']} {how}",
        impact="Its readers see the past; a failover to it begins with replaying the rest, and what has not reached it"
        " is lost with the primary."
        if row["side"] == "primary"
        else "Its readers see the past; a failover to it begins with replaying what it has received.",
        evidence=evidence([standing], "side", "standby", "client", "state", "behind_bytes", "lag_s", "stands_still"),
        remedies=_remedies(row),
    )


def _remedies(row: Row) -> tuple[Remedy, ...]:
    where = "" if row["side"] == "standby" else "On the standby: "
    network = Remedy(
        "See where it waits: sent, written, flushed and replayed lie apart where network, disk or replay is slow",
        sql="select state, sent_lsn, write_lsn, flush_lsn, replay_lsn, write_lag, flush_lag, replay_lag"
        f" from pg_stat_replication where application_name = {literal(row['standby'])} order by pid;",
        risk="none",
        locks="none",
    )
    return (
        *([network] if row["side"] == "primary" else []),
        Remedy(
            f"{where}see whether somebody paused replay",
            sql="select pg_get_wal_replay_pause_state();",
            risk="none",
            locks="none",
        ),
        Remedy(
            f"{where}see the transactions that replay may be waiting for, the oldest first",
            sql="select pid, usename, application_name, state, xact_start from pg_stat_activity"
            " where backend_type = 'client backend' and xact_start is not null order by xact_start, pid;",
            risk="none",
            locks="none",
        ),
    )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame a pause of the same standby, and on that standby whoever holds a lock that replay waits for."""
    for it in others:
        holds_replay = it.code == "blocking-lock" and any(
            row.get("backend_type") == REPLAY and row.get("depth") for row in it.evidence
        )
        is_here = bool(finding.evidence) and finding.evidence[0].get("side") == "standby"
        if (holds_replay and is_here) or (it.code == "replay-paused" and it.subject == finding.subject):
            yield it


check = Check(
    "replication-lag",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-REPLICATION-VIEW",),
    runbook="replication_health",
    sees_sessions=True,
    samples=2,
    sample_every_s=0.5,
)
