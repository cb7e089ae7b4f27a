"""Is a role or a database near its own CONNECTION LIMIT?

``alter role ... connection limit`` and ``alter database ... connection limit`` cap one tenant so that it cannot starve
the others. When the cap is reached its next connection is refused with 'too many connections for role' while the
server has slots to spare, which looks like a network fault from outside. Decided by client sessions, ours left out,
against limits above 0: -1 is no limit, -2 marks a database whose removal was interrupted. A superuser is never
refused, so its role is not judged; in a database its sessions count.
"""

from collections.abc import Iterable
from itertools import groupby

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import Row, count

# A role without pg_read_all_stats sees neither state nor backend_type of others: who has a role and a database
# counts as a client there.
_LIMITED = """
with clients as (
    select a.usesysid, a.datid, a.usename::text as role, a.datname::text as database, a.application_name, a.state
    from pg_catalog.pg_stat_activity as a
    where coalesce(a.backend_type = 'client backend', a.datid is not null and a.usesysid is not null)
        and a.pid <> pg_catalog.pg_backend_pid()
),
limited as (
    select
        'role' as kind, r.rolname as name, r.rolconnlimit as connection_limit, 'usename' as known_by,
        c.role, c.database, c.application_name, c.state
    from clients as c
    join pg_catalog.pg_roles as r on r.oid = c.usesysid
    where r.rolconnlimit > 0 and not r.rolsuper
    union all
    select 'database', d.datname, d.datconnlimit, 'datname', c.role, c.database, c.application_name, c.state
    from clients as c
    join pg_catalog.pg_database as d on d.oid = c.datid
    where d.datconnlimit > 0
)
select
    l.kind,
    l.name::text as name,
    pg_catalog.quote_ident(l.name) as quoted_name,
    pg_catalog.format('%s = %L', l.known_by, l.name) as condition,
    l.connection_limit,
    sum(count(*)) over (partition by l.kind, l.name) as used,
    count(*) as sessions,
    l.role,
    l.database,
    l.application_name as application,
    coalesce(l.state, 'not visible') as state
from limited as l
group by l.kind, l.name, l.known_by, l.connection_limit, l.role, l.database, l.application_name, l.state
order by kind, name, sessions desc, role, database, application nulls last, state
"""
SQL = {15: _LIMITED}


def _remedies(row: Row) -> tuple[Remedy, ...]:
    old, new = row["connection_limit"], row["connection_limit"] * 3 // 2 + 1
    alter = f"alter {row['kind']} {row['quoted_name']} connection limit"
    return (
        Remedy(
            "See which of them do nothing, the longest idle first",
            sql="select pid, usename, datname, application_name, client_addr, state_change from pg_stat_activity"
            f" where {row['condition']} and state = 'idle' order by state_change;",
            risk="none",
            locks="none",
        ),
        Remedy(
            "Raise the limit, where the server has that many slots to spare; a leak only fills them later",
            sql=f"{alter} {new};",
            risk="low",
            locks="none",
            undo=f"{alter} {old};",
        ),
    )


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade the used share of each limit; name who uses most of it."""
    for (kind, name), group in groupby(rows, key=lambda row: (row["kind"], row["name"])):
        consumers = list(group)
        most, used, allowed = consumers[0], consumers[0]["used"], consumers[0]["connection_limit"]
        severity = grade(used / allowed, limits)
        if severity:
            columns = ("sessions", "role", "database", "application", "state")
            yield Finding(
                severity=severity,
                kind=kind,
                name=name,
                title=f"{kind.capitalize()} {name} uses {used} of the {count(allowed, 'connection')} "
                f"that its limit allows ({used / allowed:.0%})",
                impact=f"{max(allowed - used, 0)} left; after that every new connection of this {kind} is refused. "
                f"The largest consumer is application {most['application'] or 'unnamed'} of role {most['role']}, "
                f"with {count(most['sessions'], 'session')} ({most['state']}).",
                evidence=[
                    {**{key: row[key] for key in columns}, "share": row["sessions"] / allowed} for row in consumers
                ],
                remedies=_remedies(most),
            )


check = Check(
    "role-connection-limit",
    sql=SQL,
    judge=judge,
    docs=(
        "https://www.postgresql.org/docs/current/sql-alterrole.html",
        "https://www.postgresql.org/docs/current/sql-alterdatabase.html",
    ),
    runbook="connection_analysis",
)
