"""Does a waiting DDL statement hold up everyone behind it?

ALTER TABLE, CREATE INDEX or VACUUM FULL needs a strong lock. While it waits for one old transaction, every later
statement on the table queues behind the *waiting* request, plain reads too: a migration that 'only hangs' takes the
application down. The cause is the transaction that it waits for; the quickest relief is to cancel the migration.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Rows, grade
from pgrunbooks.checks._sessions import REPLAY, SQL, behind, cancel, count, evidence, label
from pgrunbooks.display import duration
from pgrunbooks.masking import command

STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each waiting request for a strong relation lock that somebody queues behind, by its own wait."""
    for row in rows:
        if row["lock_type"] != "relation" or row["lock_mode"] not in STRONG or not row["blocked_by"]:
            continue
        if row["backend_type"] == REPLAY:
            continue  # there is no statement to cancel: it is the root's to go
        queued = behind(rows, row["id"])
        severity = grade(row["waiting_s"] or 0.0, limits)
        if severity and len(queued) >= limits["critical_waiters"]:
            severity = "critical"
        if severity and queued:
            doing, where = command(row["query"]), row["lock_on"]
            yield Finding(
                severity=severity,
                kind="pid",
                name=row["name"],
                title=f"{label(row)} has waited {duration(row['waiting_s'])} to run {doing} on {where}, "
                f"and {count(len(queued), 'session')} queue{'s' if len(queued) == 1 else ''} behind it",
                impact=f"No new statement on {where} gets past the waiting {row['lock_mode']}, reads included.",
                evidence=[evidence(it) for it in ({"depth": 0, **row}, *queued)],
                remedies=(cancel(row),),
                involves=frozenset(it["id"] for it in queued),
            )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame every root blocker in whose tree the statement waits."""
    return [it for it in others if it.code == "blocking-lock" and finding.subject in it.involves]


check = Check(
    "ddl-lock-queue",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/sql-altertable.html",),
    runbook="lock_analysis",
)
