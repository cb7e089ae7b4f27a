"""Who is at the root of the lock queue, and who waits behind?

A session that waits for nobody and that others wait for is a root: while it keeps its locks nothing behind it moves,
whatever is done to the waiters. Waits of milliseconds are life on a busy server; waits that last are an incident.
Decided by the longest wait in the tree of one root, or by how many have waited for ``warning``. A deadlock that
outlasts ``warning``, since deadlock_timeout is longer, has the session as its root that began to wait last.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import (
    CLIENT_WAITS,
    IDLE_IN_TRANSACTION,
    REPLAY,
    SQL,
    Row,
    Tree,
    cancel,
    count,
    evidence,
    finish_prepared,
    label,
    stop,
    trees,
)
from pgrunbooks.display import duration
from pgrunbooks.masking import command


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each root by the longest wait in its tree; critical also when many have waited long enough."""
    for tree in trees(rows):
        severity = grade(tree.longest_s, limits)
        if tree.waiting_at_least(limits["warning"]) >= limits["critical_waiters"]:
            severity = "critical"
        if severity:
            yield _finding(tree, severity)


def _finding(tree: Tree, severity: str) -> Finding:
    root, waiters = tree.root, tree.waiters
    objects = sorted({row["lock_on"] for row in waiters if row["depth"] == 1 and row["lock_on"]})
    until = "commits, rolls back or ends"
    if root["kind"] == "prepared_transaction":
        doing = "is prepared and not finished"
    elif tree.is_deadlock:
        doing, until = "waits for one of them itself, a deadlock,", "is cancelled or deadlock_timeout has passed"
    elif root["backend_type"] == REPLAY:
        doing, until = "replays a transaction of the primary", "commits or rolls back there"
    elif root["state"] == "idle":
        doing, until = "is idle, outside of any transaction,", "releases it or ends"
    elif root["state"] in IDLE_IN_TRANSACTION:
        doing = f"is {root['state']}"
    elif root["wait_event"] in CLIENT_WAITS:
        doing = f"runs {command(root['query'])}, waits for its client"
    else:
        doing = f"runs {command(root['query'])}" if root["state"] else "does what this role may not see"
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind=root["kind"],
        name=root["name"],
        title=f"{label(root)} blocks {count(len(waiters), 'session')}, the longest for {duration(tree.longest_s)}",
        impact=f"It {doing} and holds a lock on {', '.join(objects[:3])} that they need; "
        f"none of them moves before it {until}.",
        evidence=[evidence(row) for row in ({"depth": 0, **root}, *waiters)],
        remedies=_remedies(root),
        involves=frozenset(row["id"] for row in ((root, *waiters) if tree.is_deadlock else waiters)),
    )


def _remedies(root: Row) -> tuple[Remedy, ...]:
    if root["kind"] == "prepared_transaction":
        return finish_prepared(root)
    if root["backend_type"] == REPLAY:
        return (
            Remedy(
                "On the primary: find the transaction that holds the lock, and end it there",
                sql="select a.pid, a.usename, a.application_name, a.state, a.xact_start from pg_locks l"
                " join pg_stat_activity a on a.pid = l.pid where l.locktype = 'relation' and l.granted"
                " and l.mode = 'AccessExclusiveLock' order by a.xact_start, a.pid;",
                risk="none",
                locks="none",
            ),
        )
    if root["backend_type"] == "autovacuum worker":
        return (
            Remedy(
                "Let it finish, and cancel the statement that waits first; see how far it is",
                sql="select phase, heap_blks_scanned, heap_blks_total from pg_stat_progress_vacuum"
                f" where pid = {root['name']};",
                risk="none",
                locks="none",
            ),
            Remedy(
                "Or cancel it: one that gives way to nobody prevents wraparound, and begins anew within a minute",
                sql=cancel(root).sql,
                risk="low",
                locks="none",
            ),
        )
    return stop(root)


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame what is wrong with the root session itself: that it idles, runs for too long, cannot commit, is paused.

    Maintenance that takes its time is not wrong: there the queue is the finding, and the note follows it.
    """
    reasons = ("idle-in-transaction", "long-transaction", "long-running-query", "orphaned-prepared-transaction")
    if finding.subject in finding.involves:
        return  # a deadlock: it runs for long since it waits
    for it in others:
        hangs = it.code == "sync-replica-missing" and finding.subject in it.involves
        replays = it.code == "replay-paused" and finding.evidence and finding.evidence[0].get("backend_type") == REPLAY
        is_note = it.code == "long-running-query" and it.severity == "info"
        if hangs or replays or (it.code in reasons and it.subject == finding.subject and not is_note):
            yield it


check = Check(
    "blocking-lock",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/explicit-locking.html",),
    runbook="lock_analysis",
)
