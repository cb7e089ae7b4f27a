"""What are active sessions waiting for?

One look at pg_stat_activity is luck; ten looks, 50 ms apart, show where the time goes. A session without a wait event
is on the CPU. Decided by the share of one wait event among all samples of active clients, over ``min_samples`` of them
and ``min_sessions`` sessions in that event. Waits for the client, idle background activity and deliberate pauses are no
hotspot, though they count as samples.

A share alone is not trouble: ten clients that update one small table spend 80% of their time in row locks of
milliseconds each, and commit hundreds of times a second. So a hotspot is a warning where ``min_sessions`` sessions
have been at it for a second: where the lock manager says since when they wait, that long in this wait; elsewhere (I/O,
internal locks: the server does not say) that long in the statement. Otherwise it is a hint (info). A second is what
``deadlock_timeout`` and with it ``log_lock_waits`` take for a long wait.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.checks._texts import with_query
from pgrunbooks.display import duration

LONG_S = 1.0  # https://www.postgresql.org/docs/18/runtime-config-locks.html#GUC-DEADLOCK-TIMEOUT
NO_HOTSPOT = ("Client", "Activity", "Timeout")

_ACTIVE = """
select
    a.pid,
    a.wait_event_type,
    a.wait_event,
    a.datname::text as database,
    a.application_name as application,
    extract(epoch from clock_timestamp() - a.query_start)::float8 as statement_s,
    extract(epoch from clock_timestamp() - l.waitstart)::float8 as waiting_s,
    {query} as query
from pg_catalog.pg_stat_activity as a
left join (
    select w.pid, min(w.waitstart) as waitstart
    from pg_catalog.pg_locks as w
    where not w.granted
    group by w.pid
) as l on l.pid = a.pid
where a.state = 'active' and a.backend_type = 'client backend' and a.pid <> pg_catalog.pg_backend_pid()
order by a.query_start, a.pid
"""
SQL = {15: with_query(_ACTIVE)}

# https://www.postgresql.org/docs/18/monitoring-stats.html#WAIT-EVENT-TABLE
_TYPES = {
    "Lock": "a lock on a row, a table or another object that another session holds",
    "LWLock": "a lock on memory that the server's processes share and want at once",
    "IO": "the disk",
    "IPC": "another process of the server",
    "BufferPin": "a page that another session keeps pinned",
    "Extension": "something in an extension",
}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each wait event that takes enough of the samples; a warning where it has held sessions for long."""
    events: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["wait_event"] and row["wait_event_type"] not in NO_HOTSPOT:
            events[row["wait_event_type"], row["wait_event"]].append(row)
    if len(rows) < limits["min_samples"]:
        return
    named = set()
    for (kind, event), samples in sorted(events.items(), key=lambda item: (-len(item[1]), item[0])):
        share, pids = len(samples) / len(rows), {row["pid"] for row in samples}
        if share >= limits["share"] and len(pids) >= limits["min_sessions"] and event not in named:
            named.add(event)  # two types may have an event of one name
            long = {row["pid"] for row in samples if (_at_it(row) or 0.0) >= LONG_S}
            severity = "warning" if len(long) >= max(limits["min_sessions"], 1) else "info"
            yield _finding(kind, event, samples, share, severity)


def _at_it(row: Row) -> float | None:
    """Return for how long a session has been at its wait, as far as the server says, in seconds."""
    at_it: float | None = row["waiting_s"] if row["wait_event_type"] == "Lock" else row["statement_s"]
    return at_it


def _finding(kind: str, event: str, samples: Rows, share: float, severity: str) -> Finding:
    pids = {row["pid"] for row in samples}
    longest = max((_at_it(row) or 0.0 for row in samples), default=0.0)
    what = "wait" if kind == "Lock" else "statement"
    latest = {row["pid"]: row for row in samples}
    columns = ("pid", "database", "application", "waiting_s", "statement_s", "query")
    sessions = sorted(latest.values(), key=lambda row: (-(_at_it(row) or 0.0), row["pid"]))
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind="wait_event",
        name=event,
        title=f"Active sessions spend {share:.0%} of their time waiting for {kind}:{event} "
        f"({count(len(pids), 'session')}, the longest {what} {duration(longest)})",
        impact=f"They wait for {_TYPES.get(kind, 'something')}, and do nothing meanwhile."
        + (
            "" if severity == "warning" else " None of these waits lasts: this is where the time of a busy server goes."
        ),
        evidence=[{"wait_event": f"{kind}:{event}", **{key: row[key] for key in columns}} for row in sessions],
        remedies=_remedies(kind),
        involves=frozenset(f"pid:{pid}" for pid in pids),
    )


def _remedies(kind: str) -> tuple[Remedy, ...]:
    look = Remedy(
        "See who waits for what at this moment",
        sql="select wait_event_type, wait_event, count(*), min(query_start) from pg_stat_activity"
        " where state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid()"
        " group by wait_event_type, wait_event order by count(*) desc, wait_event_type, wait_event;",
        risk="none",
        locks="none",
    )
    if kind == "Lock":
        then = "Find who holds the lock, not who waits: shorter transactions, and hot rows touched last in each of them"
    elif kind == "IO":
        then = "Compare with the disk's own figures; fewer pages read or commits batched help more than a faster disk"
    elif kind == "LWLock":
        then = "Fewer sessions at once: a pooler with about as many connections as the server has cores"
    else:
        then = "Look the event up in the manual's table of wait events: it says which part of the server is waited for"
    return (look, Remedy(then, risk="low"))


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Blame what holds up at least half of the sessions seen in this event: a lock queue, or a missing standby."""
    half, codes = len(finding.involves) / 2, ("blocking-lock", "sync-replica-missing")
    return [it for it in others if it.code in codes and len(it.involves & finding.involves) >= half > 0]


check = Check(
    "wait-event-hotspot",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE",),
    runbook="lock_analysis",
    sees_sessions=True,
    samples=10,
    sample_every_s=0.05,
)
