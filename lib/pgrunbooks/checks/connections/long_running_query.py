"""Which statements have been running too long?

A statement that runs for minutes in an application is a missing index, a plan gone wrong, a report on the wrong
server, or a victim that waits for a lock. While it runs its client waits, its connection is taken, and vacuum keeps
the rows that died since it began. Decided by the age of the statement of active client backends. Maintenance and
bulk work (vacuum, analyze, create index, reindex, cluster, copy, base backup) takes its time: 'info', with the view
that shows how far it is. A statement that waits for a lock is reported as caused by whoever is at the root.
"""

import re
from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import SQL, Row, behind, count, evidence, hangs_in, label, stop
from pgrunbooks.display import duration
from pgrunbooks.masking import command, mask

ACTIVE = ("active", "fastpath function call")
# The suffix of pg_stat_progress_*: how its statements begin, and the columns that tell how far one is.
# https://www.postgresql.org/docs/18/progress-reporting.html
_MAINTENANCE = {
    "cluster": (r"cluster\b|vacuum\b(?=[^;]*\bfull\b)", "phase, heap_blks_scanned, heap_blks_total"),
    "vacuum": (r"vacuum\b", "phase, heap_blks_scanned, heap_blks_total"),
    "analyze": (r"analy[sz]e\b", "phase, sample_blks_scanned, sample_blks_total"),
    "create_index": (r"(create\s+(unique\s+)?index|reindex)\b", "phase, blocks_done, blocks_total, tuples_done"),
    "copy": (r"copy\b", "bytes_processed, bytes_total, tuples_processed"),
    "basebackup": (r"base_backup\b|select\s+(pg_catalog\.)?pg_backup_st", "phase, backup_streamed, backup_total"),
}
_BEFORE = r"((set|begin|start\s+transaction)\b[^;]*;\s*)*"


def maintenance(row: Row) -> str | None:
    """Return which kind of maintenance a session is running, as pg_stat_progress_* calls it; None for anything else."""
    if row["state"] not in ACTIVE:
        return None
    query = mask(row["query"] or "")
    kinds = (
        kind for kind, (start, _) in _MAINTENANCE.items() if re.match(_BEFORE + f"({start})", query, re.IGNORECASE)
    )
    return next(kinds, None)


def _is_asked(row: Row, kind: str | None) -> bool:
    return row["backend_type"] == "client backend" or (row["backend_type"] == "walsender" and kind == "basebackup")


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade every running statement by its age; maintenance is never worse than info."""
    for row in rows:
        severity = grade(row["statement_s"], limits)
        if row["state"] not in ACTIVE or not severity:
            continue
        kind, waiters = maintenance(row), behind(rows, row["id"])
        if not _is_asked(row, kind):
            continue
        doing = "a base backup" if kind == "basebackup" else command(row["query"])
        yield Finding(
            severity="info" if kind else severity,
            kind="pid",
            name=row["name"],
            title=f"{label(row)} has been running {doing} for {duration(row['statement_s'])}",
            impact=_impact(row, len(waiters), kind),
            evidence=[evidence(row)],
            remedies=tuple(_remedies(row, kind, limits)),
            involves=frozenset(waiter["id"] for waiter in waiters),
        )


def _impact(row: Row, waiters: int, kind: str | None) -> str:
    if row["waits"]:
        since = f" for {duration(row['waiting_s'])}" if row["waiting_s"] else ""
        return f"It does nothing: it has waited{since} for a lock on {row['lock_on']} that another session holds."
    if waiters:
        return f"{count(waiters, 'session')} wait{'s' if waiters == 1 else ''} behind its locks."
    if kind:
        return "Such work takes its time; until it ends it uses the disk and may keep vacuum from removing dead rows."
    return "Its client waits, its connection is taken, and vacuum keeps every row that died since it began."


def _remedies(row: Row, kind: str | None, limits: Limits) -> Iterable[Remedy]:
    if row["waits"]:
        look = f"select pg_blocking_pids({row['name']});"
        yield Remedy("It is a victim: see whom it waits for, and free that one", sql=look, risk="none", locks="none")
    elif kind:
        look = f"select {_MAINTENANCE[kind][1]} from pg_stat_progress_{kind} where pid = {row['name']};"
        yield Remedy("Let it finish; see how far it is", sql=look, risk="none", locks="none")
    yield from stop(row)
    if row["quoted_role"] and not kind:
        yield Remedy(
            "So that it cannot happen again: let the server end such statements (for new sessions of this role)",
            sql=f"alter role {row['quoted_role']} set statement_timeout = '{max(limits['critical'], 1):.0f}s';",
            risk="low",
            locks="none",
            undo=f"alter role {row['quoted_role']} reset statement_timeout;",
        )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame the root blockers in whose trees it waits, and the missing standby of its commit; a note, its own queue."""
    own = [it for it in others if it.code == "blocking-lock" and it.subject == finding.subject]
    return [*hangs_in(finding, others), *(own if finding.severity == "info" else [])]


check = Check(
    "long-running-query",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=(
        "https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW",
        "https://www.postgresql.org/docs/current/progress-reporting.html",
    ),
    runbook="connection_analysis",
    sees_sessions=True,
)
