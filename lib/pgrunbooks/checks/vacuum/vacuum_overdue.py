"""Which tables are past their vacuum trigger and not being vacuumed?

Autovacuum comes when the dead rows of a table exceed ``threshold + scale factor x rows``. A table that is well past
that, while no vacuum runs on it, is one that autovacuum does not reach: it is switched off, all its workers are busy
elsewhere, a lock sends it away again and again, or it comes and may not remove anything, since somebody holds the
horizon. Decided by dead rows against ``factor`` x the trigger, from ``min_dead`` on, with the table's own options, and
since PostgreSQL 18 capped by autovacuum_vacuum_max_threshold. A TOAST table counts as its table's.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._vacuum import SQL, Row, held_back, overdue, switched_off, times
from pgrunbooks.display import duration


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each table with ``factor`` x the dead rows that should have brought a vacuum."""
    for row in overdue(rows, limits):
        where = "the TOAST table of " if row["is_toast"] else ""
        last = (
            "It was never vacuumed."
            if row["last_vacuum_s"] is None
            else f"The last vacuum was {duration(row['last_vacuum_s'])} ago."
        )
        yield Finding(
            severity="warning",
            kind="table",
            name=row["table"],
            title=f"{row['dead_rows']:,} dead rows in {where}{row['table']}, {times(row):.3g} times its vacuum trigger,"
            " and no vacuum runs",
            impact=f"{last} {'' if row['autovacuum_enabled'] else 'Autovacuum is switched off for it. '}"
            "Each scan reads the dead rows too, and the table grows instead of using their space again.",
            evidence=[_evidence(row)],
            remedies=tuple(_remedies(row)),
        )


def _evidence(row: Row) -> Row:
    wanted = (
        "database",
        "table",
        "is_toast",
        "rows",
        "dead_rows",
        "vacuum_trigger",
        "bytes",
        "last_vacuum_s",
        "autovacuum_enabled",
    )
    return {key: row[key] for key in wanted}


def _remedies(row: Row) -> Iterable[Remedy]:
    yield Remedy(
        "Vacuum it now, and read how many dead rows it says cannot be removed yet",
        sql=f"vacuum (verbose, analyze) {row['table']};",
        risk="low",
        locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}",
    )
    option = "toast.autovacuum_vacuum_scale_factor" if row["is_toast"] else "autovacuum_vacuum_scale_factor"
    own = row["own_scale_factor"]
    if row["autovacuum_enabled"] and (own is None or own > 0.02):
        alter = f"alter {row['relation_type']} {row['table']}"
        yield Remedy(
            "So that autovacuum comes earlier to this one",
            sql=f"{alter} set ({option} = 0.02);",
            risk="low",
            locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}",
            undo=f"{alter} reset ({option});" if own is None else f"{alter} set ({option} = {own:g});",
        )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return what holds the horizon, and that autovacuum is switched off for the table or for all."""
    return [*held_back(finding, others), *switched_off(finding, others)]


check = Check(
    "vacuum-overdue",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM",),
    runbook="vacuum_health",
    sees_sessions=True,
    primary_only=True,
    uses_counters=True,
)
