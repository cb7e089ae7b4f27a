"""Are commits waiting for a synchronous standby that is not there?

With ``synchronous_standby_names`` set, a commit returns only when as many standbys as it asks for have confirmed it.
When one of them is away, every writing session hangs in its commit for ever, with no lock and no error to be seen.
Decided by the number that is asked for (``FIRST n``, ``ANY n``; a plain list means one) against the standbys that
stream as 'sync' or 'quorum'; critical as soon as a session waits. Sessions with ``synchronous_commit`` off or local
never wait.
"""

import re
from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import count, evidence, literal
from pgrunbooks.checks._texts import with_query

_COMMITS = """
select
    s.standby_names,
    s.synchronous,
    s.streaming,
    a.pid::text as name,
    a.usename::text as role,
    a.datname::text as database,
    a.application_name as application,
    a.client_addr::text as client,
    a.backend_type,
    a.state,
    a.wait_event,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_s,
    extract(epoch from clock_timestamp() - a.query_start)::float8 as statement_s,
    {query} as query
from (
    select
        current_setting('synchronous_standby_names') as standby_names,
        array(
            select r.application_name from pg_catalog.pg_stat_replication as r
            where r.state = 'streaming' and r.sync_state in ('sync', 'quorum') order by r.application_name
        ) as synchronous,
        array(
            select r.application_name from pg_catalog.pg_stat_replication as r
            where r.state = 'streaming' order by r.application_name
        ) as streaming
) as s
left join pg_catalog.pg_stat_activity as a on a.wait_event_type = 'IPC' and a.wait_event = 'SyncRep'
order by a.query_start nulls last, a.pid
"""
SQL = {15: with_query(_COMMITS)}

# https://www.postgresql.org/docs/18/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
_NUMBER = re.compile(r"(\s*(?:(?:any|first)\s+)?)(\d+)(?=\s*\()", re.IGNORECASE)
_NAME = re.compile(r'"((?:[^"]|"")+)"|([^\s,()"]+)')


def parse(standby_names: str) -> tuple[int, list[str]]:
    """Return how many standbys a value of ``synchronous_standby_names`` asks for, and which names it gives."""
    number = _NUMBER.match(standby_names)
    listed = standby_names[number.end() :] if number else standby_names
    names = [quoted.replace('""', '"') or plain for quoted, plain in _NAME.findall(listed)]
    return (int(number[2]) if number else 1 if names else 0), names


def relaxed(standby_names: str, streaming: int) -> str:
    """Return the setting that asks for the standbys that stream, and for no more."""
    if not streaming or not _NUMBER.match(standby_names):
        return ""
    return _NUMBER.sub(lambda number: f"{number[1]}{streaming}", standby_names, count=1)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Compare what is asked for with what streams; critical where a session waits in its commit."""
    if not rows:
        return
    setting, synchronous = rows[0]["standby_names"], rows[0]["synchronous"]
    wanted, names = parse(setting or "")
    if len(synchronous) >= wanted:
        return
    waiting = [row for row in rows if row["name"]]
    streaming = {name.lower() for name in rows[0]["streaming"]}
    missing = [name for name in names if name != "*" and name.lower() not in streaming]
    asked = f"'{setting}' asks for {wanted} and {len(synchronous)} stream{'s' if len(synchronous) == 1 else ''}"
    who = f" Not streaming: {', '.join(missing)}." if missing else ""
    facts = {"synchronous_standby_names": setting, "asked_for": wanted, "synchronous": synchronous, "missing": missing}
    yield Finding(
        severity="critical" if waiting else "warning",
        kind="cluster",
        name="cluster",
        title=f"{count(len(waiting), 'commit')} wait{'s' if len(waiting) == 1 else ''} for a synchronous standby "
        f"that is not there: {asked}"
        if waiting
        else f"A synchronous standby is not there: {asked}",
        impact=f"Every writing session hangs in its {'' if waiting else 'next '}commit until a standby confirms.{who}",
        evidence=[evidence(row) for row in waiting] or [facts],
        remedies=_remedies(setting, len(synchronous)),
        involves=frozenset(f"pid:{row['name']}" for row in waiting),
    )


def _remedies(setting: str, streaming: int) -> tuple[Remedy, ...]:
    value = "alter system set synchronous_standby_names = {};\nselect pg_reload_conf();"
    return (
        Remedy(
            "Bring the standby back: see which ones stream and how far they are",
            sql="select application_name, client_addr, state, sync_state, flush_lsn, reply_time"
            " from pg_stat_replication order by application_name;",
            risk="none",
            locks="none",
        ),
        Remedy(
            "Or let commits pass with the standbys that there are; waiting ones go on at once, and what is committed"
            " from then on exists on fewer servers",
            sql=value.format(literal(relaxed(setting, streaming))),
            risk="high",
            locks="none",
            undo=value.format(literal(setting)),
        ),
    )


check = Check(
    "sync-replica-missing",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION",),
    runbook="replication_health",
    sees_sessions=True,
    primary_only=True,
)
