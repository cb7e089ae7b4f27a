"""Is pg_wal growing past its limit?

``max_wal_size`` is what checkpoints aim at, and ``wal_keep_size`` comes on top of it; no setting caps pg_wal by itself.
A replication slot that nobody reads, an archiver that fails or a burst of writes lets it grow until the disk is full,
and then the server stops. Decided by its size against both settings together. Named is who keeps at least half of what
lies there: a slot, the archiver, or ``wal_keep_size``. These overlap, so where there are several each has to let go.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import literal
from pgrunbooks.display import size

_DIRECTORY = """
select
    w.wal_bytes,
    w.wal_files,
    pg_catalog.pg_size_bytes(current_setting('max_wal_size')) as max_wal_bytes,
    pg_catalog.pg_size_bytes(current_setting('wal_keep_size')) as wal_keep_bytes,
    a.ready_files * pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) as unarchived_bytes,
    s.slot_name::text as slot,
    s.slot_type,
    s.active,
    pg_catalog.pg_wal_lsn_diff(
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end,
        s.restart_lsn
    )::int8 as retained_bytes
from (
    select coalesce(sum(l.size), 0)::int8 as wal_bytes, count(*) as wal_files
    from pg_catalog.pg_ls_waldir() as l
) as w
cross join (
    select count(*) as ready_files
    from pg_catalog.pg_ls_archive_statusdir() as f
    where f.name like '%.ready' and current_setting('archive_mode') <> 'off'
) as a
left join pg_catalog.pg_replication_slots as s on s.restart_lsn is not null and s.wal_status <> 'lost'
order by retained_bytes desc nulls last, slot
"""
SQL = {15: _DIRECTORY}


class Holder(NamedTuple):
    """Who keeps WAL, how many bytes, and the words around these."""

    kind: str
    name: str
    bytes: int
    words: str


def holders(rows: Rows) -> list[Holder]:
    """Return who keeps at least half of what pg_wal holds, who keeps most first: each of them has to let go."""
    first = rows[0]
    found = [
        Holder("archiver", "cluster", first["unarchived_bytes"] or 0, "{} wait for the archiver"),
        Holder("setting", "wal_keep_size", first["wal_keep_bytes"] or 0, "wal_keep_size asks for {}"),
    ]
    for row in rows:
        reader = "an active reader that is behind" if row["active"] else "and nobody reads it"
        words = f"the replication slot {row['slot']} keeps {{}}, {reader}"
        found.append(Holder("slot", row["slot"] or "", row["retained_bytes"] or 0, words))
    half = [it for it in found if it.bytes > 0 and 2 * it.bytes >= first["wal_bytes"]]
    return sorted(half, key=lambda it: (-it.bytes, it.kind != "slot"))


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade the size of pg_wal as a multiple of what the settings allow for."""
    if not rows or not rows[0]["wal_bytes"]:
        return
    row = rows[0]
    allowed = (row["max_wal_bytes"] or 0) + (row["wal_keep_bytes"] or 0)
    factor = row["wal_bytes"] / max(allowed, 1)
    severity = grade(factor, limits)
    if severity:
        together = holders(rows)
        held = together[0] if together else None
        words = "; ".join(it.words.format(size(it.bytes)) for it in together[:3])
        facts = {"holder": held.kind if held else None, "held_by": held.name if held else None}
        columns = ("wal_bytes", "wal_files", "max_wal_bytes", "wal_keep_bytes", "unarchived_bytes")
        slots = evidence(rows, "slot", "slot_type", "active", "retained_bytes") if row["slot"] else []
        yield Finding(
            severity=severity,
            kind="cluster",
            name="cluster",
            title=f"pg_wal holds {size(row['wal_bytes'])}, {factor:.1f} times the {size(allowed)} it is meant for: "
            f"{words or 'no slot, archiver or setting explains it'}",
            impact="It grows with every write, and a server whose pg_wal cannot grow any more stops at once."
            if held
            else "Writes outrun checkpoints, or it is left from a burst: then it shrinks with the next checkpoints.",
            evidence=[*evidence([{**facts, **row}], "holder", "held_by", *columns), *slots],
            remedies=_remedies(held),
        )


def _remedies(held: Holder | None) -> tuple[Remedy, ...]:
    never = Remedy("Never delete files from pg_wal by hand: the server does not start again without them")
    if held is None:
        look = Remedy(
            "See whether a checkpoint is late, and what it writes: checkpoints alone remove WAL",
            sql="select checkpoint_time, redo_wal_file from pg_control_checkpoint();",
            risk="none",
            locks="none",
        )
        return (look, never)
    see = {
        "slot": "select slot_name, slot_type, active_pid, wal_status, restart_lsn, safe_wal_size from"
        f" pg_replication_slots where slot_name = {literal(held.name)};",
        "archiver": "select last_failed_wal, last_failed_time, last_archived_time from pg_stat_archiver;",
        "setting": "select name, setting, unit, sourcefile from pg_settings where name = 'wal_keep_size';",
    }
    then = {
        "slot": "Bring its reader back, or drop the slot if it never comes back",
        "archiver": "Repair archiving; what was archived goes with the next checkpoints",
        "setting": "Lower wal_keep_size if no standby needs it; a slot keeps exactly what its standby needs",
    }
    return (Remedy(then[held.kind], sql=see[held.kind], risk="none", locks="none"), never)


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame what is wrong with each slot, and with the archiver, that keeps at least half of what lies there."""
    facts, *slots = finding.evidence or ({},)
    half = facts.get("wal_bytes", 0) / 2
    held = {row["slot"] for row in slots if row.get("retained_bytes", 0) >= half}
    for it in others:
        by_slot = it.code in ("inactive-replication-slot", "replication-slot-lost") and it.name in held
        if by_slot or (it.code == "wal-archiving-failing" and facts.get("unarchived_bytes", 0) >= half):
            yield it


check = Check(
    "wal-directory-growth",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/wal-configuration.html",),
    runbook="replication_health",
)
