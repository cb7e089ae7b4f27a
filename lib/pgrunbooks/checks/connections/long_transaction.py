"""Which transactions have been open too long?

A transaction that works for an hour, statement after statement, keeps every lock it took and every row that died
meanwhile: other tables bloat, and what it locked stays locked until the end. Decided by the age of the transaction of
client backends, whatever their state. A session that idles in it is idle-in-transaction's to report, a transaction
that is one running statement is long-running-query's; the rest is here. A dump keeps one snapshot on purpose and
maintenance takes its time: both are 'info'.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import SQL, Row, behind, count, evidence, hangs_in, label, stop
from pgrunbooks.checks.connections import idle_in_transaction, long_running_query
from pgrunbooks.checks.connections.long_running_query import ACTIVE, maintenance
from pgrunbooks.display import duration

ONE_STATEMENT_S = 1.0  # a statement that began within this of its transaction is all of it: rule in checks.csv


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade every transaction by its age, unless another check reports that session already."""
    reported = _reported(rows, context)
    for row in rows:
        severity = grade(row["transaction_s"], limits)
        if row["backend_type"] != "client backend" or not severity:
            continue
        if row["name"] in reported or _is_one_statement(row):
            continue
        dump = (row["application"] or "").startswith("pg_dump")
        waiters = behind(rows, row["id"])
        yield Finding(
            severity="info" if dump or maintenance(row) else severity,
            kind="pid",
            name=row["name"],
            title=f"{label(row)} has had a transaction open for {duration(row['transaction_s'])}",
            impact=f"{count(len(waiters), 'session')} wait{'s' if len(waiters) == 1 else ''} behind its locks."
            if waiters
            else "Its locks stay taken, and vacuum keeps every row that died since it began.",
            evidence=[evidence(row)],
            remedies=tuple(_remedies(row, limits, context)),
            involves=frozenset(waiter["id"] for waiter in waiters),
        )


def _reported(rows: Rows, context: Context) -> set[str]:
    """Return the pids that idle-in-transaction or long-running-query reports under the limits of this target."""
    others = {it.code: it.judge for it in (idle_in_transaction.check, long_running_query.check)}
    answers = (it for code, ask in others.items() for it in ask(rows, context.target.limits(code), context))
    return {it.name for it in answers if isinstance(it, Finding)}


def _is_one_statement(row: Row) -> bool:
    return (
        row["state"] in ACTIVE and row["statement_after_s"] is not None and row["statement_after_s"] < ONE_STATEMENT_S
    )


def _remedies(row: Row, limits: Limits, context: Context) -> Iterable[Remedy]:
    yield from stop(row)
    if row["quoted_role"] and context.server.major >= 17:
        yield Remedy(
            "So that it cannot happen again: let the server end such transactions (for new sessions of this role)",
            sql=f"alter role {row['quoted_role']} set transaction_timeout = '{max(limits['critical'], 1):.0f}s';",
            risk="low",
            locks="none",
            undo=f"alter role {row['quoted_role']} reset transaction_timeout;",
        )
    yield Remedy("Commit in batches of some thousand rows, so that each transaction takes seconds", risk="low")


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame every root blocker in whose tree the session waits, and the missing standby that its commit waits for."""
    return hangs_in(finding, others)


check = Check(
    "long-transaction",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY",),
    runbook="connection_analysis",
    sees_sessions=True,
)
