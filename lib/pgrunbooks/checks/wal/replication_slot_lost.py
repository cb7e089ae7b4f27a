"""Has a slot lost the WAL it needs?

When a slot falls behind ``max_slot_wal_keep_size`` (or, on later versions, conflicts with recovery or idles for longer
than ``idle_replication_slot_timeout``) the server invalidates it and removes the WAL. Its reader can never go on from
there: a standby has to find the missing WAL in an archive or be built anew, a subscriber has to be filled again.
Decided by what the server says: wal_status lost, or a reason for the invalidation (17 and later name it).
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import literal

_LOST_15 = """
select
    s.slot_name::text as slot,
    s.slot_type,
    s.plugin::text as plugin,
    s.database::text as database,
    s.active,
    s.wal_status,
    null::text as invalidation_reason
from pg_catalog.pg_replication_slots as s
where s.wal_status = 'lost'
order by s.slot_name
"""

_LOST_17 = """
select
    s.slot_name::text as slot,
    s.slot_type,
    s.plugin::text as plugin,
    s.database::text as database,
    s.active,
    s.wal_status,
    s.invalidation_reason
from pg_catalog.pg_replication_slots as s
where s.wal_status = 'lost' or s.invalidation_reason is not null
order by s.slot_name
"""
SQL = {15: _LOST_15, 17: _LOST_17}

# https://www.postgresql.org/docs/18/view-pg-replication-slots.html
_REASONS = {
    "wal_removed": "the WAL that it needs was removed",
    "rows_removed": "rows of the catalog that it needs were removed",
    "wal_level_insufficient": "wal_level was lowered on the primary",
    "idle_timeout": "it was idle for longer than idle_replication_slot_timeout",
}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report every slot that was invalidated."""
    for row in rows:
        reason = row["invalidation_reason"] or "wal_removed"
        logical = row["slot_type"] == "logical"
        yield Finding(
            severity="critical",
            kind="slot",
            name=row["slot"],
            title=f"Replication slot {row['slot']} is lost: {_REASONS.get(reason, reason)}",
            impact="Its subscriber gets no change any more, and cannot go on from where it stopped."
            if logical
            else "Its standby gets no WAL through it any more; without an archive that has the gap it must be rebuilt.",
            evidence=evidence([row], *row),
            remedies=(
                Remedy(
                    "Build the subscriber anew with a new slot: drop the subscription, empty its tables, create it"
                    if logical
                    else "Give the standby a restore_command for the gap, or build it anew with pg_basebackup",
                    risk="low",
                ),
                Remedy(
                    "Drop the slot: it never becomes valid again",
                    sql=f"select pg_drop_replication_slot({literal(row['slot'])});",
                    risk="low",
                    locks="none",
                    undo="none: a new slot begins at the present",
                ),
                Remedy(
                    "See what limits slots, before the new one is lost too",
                    sql="select name, setting, unit from pg_settings where name in ('max_slot_wal_keep_size',"
                    " 'idle_replication_slot_timeout', 'wal_level') order by name;",
                    risk="none",
                    locks="none",
                ),
            ),
        )


check = Check(
    "replication-slot-lost",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/view-pg-replication-slots.html",),
    runbook="replication_health",
)
