"""Which sessions sit idle inside a transaction?

The client began a transaction and went away to do something else. Until it comes back, every lock it took stays
taken, and vacuum keeps the rows that died since. The usual reasons: a request handler that calls a slow service
before it commits, a debugger, a psql window left open. Decided by the time since the session fell idle; critical
at once when another session has waited for it longer than ``blocking``. The idle leader of a parallel pg_dump that
keeps nobody waiting is info.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import (
    IDLE_IN_TRANSACTION,
    SQL,
    Row,
    behind,
    blocks_for,
    count,
    evidence,
    label,
    terminate,
)
from pgrunbooks.display import duration


def prevention(row: Row) -> Remedy:
    """Return the setting that makes the server end such transactions by itself."""
    return Remedy(
        "So that it cannot happen again: let the server end transactions that idle (for new sessions of this role)",
        sql=f"alter role {row['quoted_role']} set idle_in_transaction_session_timeout = '5min';",
        risk="low",
        locks="none",
        undo=f"alter role {row['quoted_role']} reset idle_in_transaction_session_timeout;",
    )


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade every session that idles in a transaction by its idle time, and by whom it has kept waiting."""
    for row in rows:
        if row["state"] not in IDLE_IN_TRANSACTION:
            continue
        blocks_s = blocks_for(rows, row["id"])
        severity = "critical" if blocks_s >= limits["blocking"] else grade(row["state_s"], limits)
        if not severity:
            continue
        if blocks_s < limits["blocking"] and (row["application"] or "").startswith("pg_dump"):
            severity = "info"  # the leader of a parallel dump idles with its snapshot until its workers are done
        waiters = behind(rows, row["id"])
        held = f"{count(len(waiters), 'session')} wait{'s' if len(waiters) == 1 else ''} behind its locks"
        yield Finding(
            severity=severity,
            kind="pid",
            name=row["name"],
            title=f"{label(row)} has sat idle in a transaction for {duration(row['state_s'])}",
            impact=f"{held}, the longest for {duration(max(w['waiting_s'] or 0 for w in waiters))}."
            if waiters
            else "Nobody waits for it yet; its locks stay taken and vacuum keeps dead rows until it ends.",
            evidence=[evidence(row)],
            remedies=(terminate(row), prevention(row)),
            involves=frozenset(waiter["id"] for waiter in waiters),
        )


check = Check(
    "idle-in-transaction",
    sql=SQL,
    judge=judge,
    docs=(
        "https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT",
    ),
    runbook="lock_analysis",
    sees_sessions=True,
)
