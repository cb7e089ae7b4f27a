"""Does an inactive slot retain WAL?

A replication slot makes the server keep all WAL that its reader has not confirmed. While nobody reads it that is every
byte written from then on: pg_wal grows until the disk is full, unless ``max_slot_wal_keep_size`` gives the slot up
before. Decided by the WAL that an inactive slot retains, and by how long it has been inactive. That the server tells
from 17 on (since its last start at most). Before, only a history can: since the first of the snapshots in which the
slot was inactive without a break. Whoever reads between two of them moves what the slot has confirmed, and that begins
anew; one who came, confirmed nothing and went is not seen. Critical where the server has begun to give the slot up
(unreserved), or keeps more than ``max_wal_size`` for it and nothing limits that. Temporary slots, slots synchronised
from a primary, slots that reserve nothing and lost ones (replication-slot-lost has those) are left out.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Severity, grade
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import Row, literal
from pgrunbooks.display import duration, size

_SLOTS_15 = """
select
    s.slot_name::text as slot,
    s.slot_type,
    s.plugin::text as plugin,
    s.database::text as database,
    s.wal_status,
    s.safe_wal_size as safe_wal_bytes,
    current_setting('max_slot_wal_keep_size') = '-1' as unlimited,
    null::timestamptz as inactive_since,
    null::float8 as inactive_s,
    pg_catalog.pg_wal_lsn_diff(
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end,
        s.restart_lsn
    )::int8 as retained_bytes
from pg_catalog.pg_replication_slots as s
where not s.active and not s.temporary and s.restart_lsn is not null and s.wal_status <> 'lost'
order by retained_bytes desc, slot
"""

_SLOTS_17 = """
select
    s.slot_name::text as slot,
    s.slot_type,
    s.plugin::text as plugin,
    s.database::text as database,
    s.wal_status,
    s.safe_wal_size as safe_wal_bytes,
    current_setting('max_slot_wal_keep_size') = '-1' as unlimited,
    s.inactive_since,
    extract(epoch from clock_timestamp() - s.inactive_since)::float8 as inactive_s,
    pg_catalog.pg_wal_lsn_diff(
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end,
        s.restart_lsn
    )::int8 as retained_bytes
from pg_catalog.pg_replication_slots as s
where not s.active and not s.temporary and not s.synced and s.restart_lsn is not null and s.wal_status <> 'lost'
    and s.invalidation_reason is null
order by retained_bytes desc, slot
"""
SQL = {15: _SLOTS_15, 17: _SLOTS_17}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each inactive slot by what it retains, since when, and what the server says of its WAL."""
    for row in rows:
        if row["inactive_s"] is None and context.since:
            row = {**row, "inactive_s": context.since.slots.get(row["slot"])}
        severity = _severity(row, limits)
        if severity:
            yield _finding(row, severity)


def _severity(row: Row, limits: Limits) -> Severity | None:
    if row["wal_status"] == "unreserved" or (row["wal_status"] == "extended" and row["unlimited"]):
        return "critical"
    return grade(row["retained_bytes"], limits, "_bytes") or grade(row["inactive_s"], limits)


def _finding(row: Row, severity: Severity) -> Finding:
    retained, since = row["retained_bytes"] or 0, row["inactive_s"]
    whose = f" of database {row['database']}" if row["database"] else ""
    for_so_long = f" and has been inactive for {duration(since)}" if since is not None else ""
    if row["wal_status"] == "unreserved":
        impact = "It is past max_slot_wal_keep_size: the next checkpoint may remove WAL that its reader still needs."
    elif row["unlimited"]:
        impact = "It keeps every byte that is written from now on, without a limit, until the disk is full."
    else:
        impact = "It keeps all WAL that is written from now on, up to max_slot_wal_keep_size; then the slot is lost."
    return Finding(
        severity=severity,
        kind="slot",
        name=row["slot"],
        title=f"Inactive {row['slot_type']} replication slot {row['slot']}{whose} retains {size(retained)} of WAL"
        f"{for_so_long}",
        impact=impact,
        evidence=evidence([row], *row),
        remedies=_remedies(row),
    )


def _remedies(row: Row) -> tuple[Remedy, ...]:
    name = literal(row["slot"])
    reader = "subscriber" if row["slot_type"] == "logical" else "standby"
    cap_mb = max(2 * (row["retained_bytes"] or 0) >> 20, 1024)
    cap = Remedy(
        f"Or limit what any slot may keep, here to {cap_mb} MB: a slot that needs more is lost, the server lives",
        sql=f"alter system set max_slot_wal_keep_size = '{cap_mb}MB';\nselect pg_reload_conf();",
        risk="high",
        locks="none",
        undo="alter system set max_slot_wal_keep_size = -1;\nselect pg_reload_conf();",
    )
    return (
        Remedy(
            f"Bring its reader back, which frees the WAL by itself; this shows whether the {reader} reads again",
            sql=f"select active_pid, wal_status, restart_lsn from pg_replication_slots where slot_name = {name};",
            risk="none",
            locks="none",
        ),
        Remedy(
            "Or drop the slot, if nobody needs it any more",
            sql=f"select pg_drop_replication_slot({name});",
            risk="high",
            locks="none",
            undo=f"none: the {reader} has to be built anew",
        ),
        *([cap] if row["unlimited"] else []),
    )


check = Check(
    "inactive-replication-slot",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS",),
    runbook="replication_health",
    since_snapshot=True,
)
