"""Are two-phase transactions left behind?

A transaction manager prepares a transaction on every server and then tells all of them to commit. When it dies in
between, or forgets, the prepared transaction stays: it has no session to end, it survives a restart, keeps every
lock it took, and holds vacuum back until the server stops taking writes. Decided by the time since it was prepared,
which is milliseconds in normal life; critical at once when a session has waited for it longer than ``blocking``.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import SQL, Row, behind, blocks_for, count, evidence, finish_prepared, label, literal
from pgrunbooks.display import duration


def _look(row: Row) -> Remedy:
    return Remedy(
        f"See which tables it keeps locked, in database {row['database']}",
        sql="select l.relation::regclass, l.mode from pg_prepared_xacts p"
        " join pg_locks own on own.transactionid = p.transaction and own.pid is null"
        " join pg_locks l on l.virtualtransaction = own.virtualtransaction and l.pid is null"
        f" where p.gid = {literal(row['name'])} and l.locktype = 'relation' order by 1, 2;",
        risk="none",
        locks="none",
    )


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade every prepared transaction by its age, and by whom it has kept waiting."""
    for row in rows:
        if row["kind"] != "prepared_transaction":
            continue
        blocks_s = blocks_for(rows, row["id"])
        severity = "critical" if blocks_s >= limits["blocking"] else grade(row["transaction_s"], limits)
        if not severity:
            continue
        waiters = behind(rows, row["id"])
        yield Finding(
            severity=severity,
            kind="prepared_transaction",
            name=row["name"],
            title=f"{label(row)} has been left unfinished for {duration(row['transaction_s'])}",
            impact=f"{count(len(waiters), 'session')} wait{'s' if len(waiters) == 1 else ''} behind its locks, "
            f"the longest for {duration(max(w['waiting_s'] or 0 for w in waiters))}; a restart does not end it."
            if waiters
            else "Nobody waits for it yet; it keeps its locks and dead rows, a restart does not end it.",
            evidence=[evidence(row)],
            remedies=(_look(row), *finish_prepared(row)),
            involves=frozenset(waiter["id"] for waiter in waiters),
        )


check = Check(
    "orphaned-prepared-transaction",
    sql=SQL,
    judge=judge,
    docs=(
        "https://www.postgresql.org/docs/current/sql-prepare-transaction.html",
        "https://www.postgresql.org/docs/current/two-phase.html",
    ),
    runbook="lock_analysis",
)
