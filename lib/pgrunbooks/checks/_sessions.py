"""Sessions, prepared transactions and who waits for whom: one look that every live check shares.

The query reads views that take no lock on a user's table, so it answers while the whole schema is locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrunbooks.check import Finding, Remedy, Rows
from pgrunbooks.checks._texts import with_query

Row = Mapping[str, Any]

# One row a backend and a prepared transaction. `blocked_by` holds ids of rows ('pid:4711',
# 'prepared_transaction:gid'); parallel workers count as their leader. pg_blocking_pids() answers 0 for a prepared
# transaction: its name is found through the lock that it holds and the conflict table of section 13.3.1
# (https://www.postgresql.org/docs/18/explicit-locking.html#LOCKING-TABLES). A prepared transaction keeps the virtual
# id of the session that prepared it, and becomes -1/xid with a restart: the lock on its own xid says which it is.
# That lock also tells who has written, to a role that may not see backend_xid. Who waits for a row waits for the
# transaction that changed it, and holds the tuple meanwhile, which tells the table. On a standby the startup process
# takes the ACCESS EXCLUSIVE locks of the primary, nobody else may, and pg_blocking_pids() knows nothing of it.
_SESSIONS = """
with conflicts (held, wanted) as (
    values
        ('AccessShareLock', '{AccessExclusiveLock}'::text[]),
        ('RowShareLock', '{ExclusiveLock,AccessExclusiveLock}'),
        ('RowExclusiveLock', '{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
        ('ShareUpdateExclusiveLock',
         '{ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
        ('ShareLock',
         '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
        ('ShareRowExclusiveLock',
         '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
        ('ExclusiveLock',
         '{RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),
        ('AccessExclusiveLock',
         '{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}')
),
locks as materialized (
    select
        l.pid, l.granted, l.mode, l.waitstart, l.virtualtransaction, l.transactionid, l.locktype, l.database,
        l.relation, l.classid, l.objid, l.objsubid,
        concat_ws('/', l.locktype, l.database, coalesce(l.relation::text, '-'), coalesce(l.page::text, '-'),
                  coalesce(l.tuple::text, '-'), l.virtualxid, l.transactionid::text, coalesce(l.classid::text, '-'),
                  coalesce(l.objid::text, '-'), l.objsubid::text) as tag
    from pg_catalog.pg_locks as l
),
activity as materialized (
    select
        a.pid, coalesce(a.leader_pid, a.pid) as session_pid, a.usename, a.datname, a.application_name, a.client_addr,
        a.backend_type, a.state, a.wait_event_type, a.wait_event, a.backend_start, a.xact_start, a.query_start,
        a.state_change, {query} as query
    from pg_catalog.pg_stat_activity as a
),
own as materialized (
    select l.pid, l.virtualtransaction, l.transactionid
    from locks as l
    where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
),
waiting as (
    select distinct on (session_pid)
        session_pid, waitstart, mode, locktype, database, relation, key, tag, blockers
    from (
        select
            coalesce(a.session_pid, l.pid) as session_pid, l.waitstart, l.mode, l.locktype,
            coalesce(l.database, t.database) as database, coalesce(l.relation, t.relation) as relation,
            case l.objsubid
                when 1 then ((l.classid::int8 << 32) + l.objid::int8)::text
                when 2 then pg_catalog.format('(%s, %s)', l.classid::int4, l.objid::int4)
            end as key,
            l.tag,
            case
                when l.mode = 'AccessExclusiveLock' and pg_catalog.pg_is_in_recovery() then array(
                    select h.pid
                    from locks as h
                    join conflicts as f on f.held = h.mode and l.mode = any (f.wanted)
                    where h.tag = l.tag and h.granted and h.pid <> l.pid
                    order by h.pid
                )
                else pg_catalog.pg_blocking_pids(l.pid)
            end as blockers
        from locks as l
        left join activity as a on a.pid = l.pid
        left join locks as t on l.locktype = 'transactionid' and t.pid = l.pid and t.locktype = 'tuple' and t.granted
        where not l.granted and l.pid is not null
    ) as waits
    where pg_catalog.cardinality(blockers) > 0
    order by session_pid, waitstart nulls last
),
prepared_blockers as (
    select distinct w.session_pid, p.gid
    from waiting as w
    join locks as l on l.tag = w.tag and l.granted and l.pid is null
    join conflicts as c on c.held = l.mode and w.mode = any (c.wanted)
    join own as o on o.virtualtransaction = l.virtualtransaction and o.pid is null
    join pg_catalog.pg_prepared_xacts as p on p.transaction = o.transactionid
    where 0 = any (w.blockers)
)
select
    'pid' as kind,
    a.pid::text as name,
    'pid:' || a.pid as id,
    a.usename::text as role,
    pg_catalog.quote_ident(a.usename) as quoted_role,
    a.datname::text as database,
    a.application_name as application,
    a.client_addr::text as client,
    a.backend_type,
    a.state,
    a.wait_event_type,
    a.wait_event,
    a.backend_start,
    a.pid in (select o.pid from own as o where o.pid is not null) as has_written,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_s,
    extract(epoch from a.query_start - a.xact_start)::float8 as statement_after_s,
    extract(epoch from clock_timestamp() - a.query_start)::float8 as statement_s,
    extract(epoch from clock_timestamp() - a.state_change)::float8 as state_s,
    w.session_pid is not null as waits,
    extract(epoch from clock_timestamp() - w.waitstart)::float8 as waiting_s,
    w.locktype as lock_type,
    w.mode as lock_mode,
    case
        when w.locktype in ('transactionid', 'tuple') then concat_ws(' of ', 'a row', o.relation)
        when w.locktype = 'virtualxid' then 'a snapshot'
        when w.locktype = 'advisory' then concat_ws(' ', 'advisory key', w.key)
        else coalesce(o.relation, w.locktype)
    end as lock_on,
    array(
        select 'pid:' || b.pid from pg_catalog.unnest(w.blockers) as b (pid) where b.pid not in (0, a.pid)
        union
        select 'prepared_transaction:' || p.gid from prepared_blockers as p where p.session_pid = a.pid
        order by 1
    ) as blocked_by,
    a.query
from activity as a
left join waiting as w on w.session_pid = a.pid
left join pg_catalog.pg_database as here on here.datname = pg_catalog.current_database()
left join pg_catalog.pg_class as c on c.oid = w.relation and w.database in (0, here.oid)
left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
cross join lateral (
    select case
        when c.oid is not null then pg_catalog.format('%I.%I', n.nspname, c.relname)
        when w.relation is not null then pg_catalog.format('relation %s of another database', w.relation)
    end
) as o (relation)
where a.pid <> pg_catalog.pg_backend_pid() and a.pid = a.session_pid
union all
select
    'prepared_transaction', p.gid, 'prepared_transaction:' || p.gid, p.owner::text,
    pg_catalog.quote_ident(p.owner), p.database::text, null, null, null, 'prepared', null, null, p.prepared, true,
    extract(epoch from clock_timestamp() - p.prepared)::float8, null, null,
    extract(epoch from clock_timestamp() - p.prepared)::float8,
    false, null, null, null, null, '{}', null
from pg_catalog.pg_prepared_xacts as p
order by kind, id
"""

SQL: Mapping[int, str] = {15: with_query(_SESSIONS)}

REPLAY = "startup"  # the backend_type of the process that replays WAL on a standby
IDLE_IN_TRANSACTION = ("idle in transaction", "idle in transaction (aborted)")
CLIENT_WAITS = ("ClientRead", "ClientWrite")


@dataclass(frozen=True)
class Tree:
    """A session that blocks others and waits for nobody else, and everyone who waits behind it, nearest first."""

    root: Row
    waiters: Sequence[Row]

    @property
    def is_deadlock(self) -> bool:
        """Tell whether the root waits for one of those who wait behind it."""
        return bool(self.root["blocked_by"])

    @property
    def longest_s(self) -> float:
        """Return the longest wait in the tree, in seconds."""
        return max((row["waiting_s"] or 0.0 for row in self.waiters), default=0.0)

    def waiting_at_least(self, seconds: float) -> int:
        """Count the sessions that have each waited that long."""
        return sum((row["waiting_s"] or 0.0) >= seconds for row in self.waiters)


def behind(rows: Rows, blocker: str) -> list[Row]:
    """Return every session that waits behind ``blocker``, an id, directly or not, with its ``depth`` added.

    Nearest first, the longest wait first among equals; each session once, whatever the shape of the graph.
    """
    found: list[Row] = []
    seen, nearest, depth = {blocker}, {blocker}, 1
    while nearest:
        level = [row for row in rows if row["id"] not in seen and nearest & set(row["blocked_by"])]
        found += [{"depth": depth, **row} for row in sorted(level, key=lambda row: -(row["waiting_s"] or 0.0))]
        nearest = {row["id"] for row in level}
        seen |= nearest
        depth += 1
    return found


def trees(rows: Rows) -> list[Tree]:
    """Return the tree of every root blocker: of each session that is waited for and waits for nobody itself.

    A deadlock has none until the server breaks it: there it is the session that began to wait last.
    """
    blockers = {blocker for row in rows for blocker in row["blocked_by"]}
    roots = [row for row in rows if row["id"] in blockers and not row["blocked_by"]]
    found = [Tree(root, behind(rows, root["id"])) for root in roots]
    known = {row["id"] for tree in found for row in tree.waiters}
    for row in sorted((it for it in rows if it["blocked_by"]), key=lambda it: (it["waiting_s"] or 0.0, it["id"])):
        waiters = [] if row["id"] in known else behind(rows, row["id"])
        if set(row["blocked_by"]) & {it["id"] for it in waiters}:
            found.append(Tree(row, waiters))
            known |= {it["id"] for it in (row, *waiters)}
    return found


def blocks_for(rows: Rows, blocker: str) -> float:
    """Return for how many seconds the longest direct waiter has waited for ``blocker``; 0 where nobody does."""
    return max((row["waiting_s"] or 0.0 for row in rows if blocker in row["blocked_by"]), default=0.0)


def label(row: Row) -> str:
    """Return how a sentence calls a session: ``Session 4711 (role app, application checkout)``."""
    if row["kind"] == "prepared_transaction":
        return f"Prepared transaction {row['name']} (role {row['role']}, database {row['database']})"
    known = [("role", row["role"]), ("application", row["application"]), ("client", row["client"])]
    words = ", ".join(f"{word} {value}" for word, value in known if value)
    words = words or row["backend_type"] or "other role"
    return f"Session {row['name']} ({words})"


def hangs_in(finding: Finding, others: Sequence[Finding]) -> list[Finding]:
    """Return what a finding's session is held up by: the lock queues, and the missing standby, that involve it."""
    codes = ("blocking-lock", "sync-replica-missing")
    return [it for it in others if it.code in codes and finding.subject in it.involves]


def count(number: int, noun: str) -> str:
    """Return ``1 session``, ``3 sessions``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def evidence(row: Row) -> Row:
    """Return the columns of a session that a person reads first, without the empty ones."""
    wanted = (
        "depth",
        "name",
        "role",
        "database",
        "application",
        "client",
        "backend_type",
        "state",
        "wait_event",
        "waiting_s",
        "lock_mode",
        "lock_on",
        "transaction_s",
        "state_s",
        "statement_s",
        "query",
    )
    return {key: row[key] for key in wanted if row.get(key) not in (None, "")}


def _only(row: Row) -> str:
    """Return the WHERE clause that hits this session and not another one that got its pid meanwhile."""
    if row["backend_start"] is None:
        return f"where pid = {row['name']}"
    return f"where pid = {row['name']} and backend_start = '{row['backend_start']}'"


def cancel(row: Row) -> Remedy:
    """Return the remedy that ends a session's current statement and keeps the session."""
    return Remedy(
        "Cancel its statement; the session stays and its client gets an error",
        sql=f"select pg_cancel_backend(pid) from pg_stat_activity {_only(row)};",
        risk="low",
        locks="none",
        undo="run the statement again",
    )


def terminate(row: Row) -> Remedy:
    """Return the remedy that ends a session; what it has written in this transaction is rolled back."""
    written = "what it wrote is lost" if row["has_written"] else "it has written nothing"
    ends = (
        "it has no transaction open" if row["state"] == "idle" else f"its open transaction is rolled back ({written})"
    )
    return Remedy(
        f"End the session; {ends}",
        sql=f"select pg_terminate_backend(pid) from pg_stat_activity {_only(row)};",
        risk="high" if row["has_written"] else "low",
        locks="none",
        undo="none: the application has to connect and do its work again",
    )


def stop(row: Row) -> tuple[Remedy, ...]:
    """Return what ends a session's work, the mildest first; a cancel where there is a statement that would hear it.

    A statement that waits for its client, to read from it or to write to it, hears a cancel only when the client moves.
    """
    deaf = row["state"] in ("idle", *IDLE_IN_TRANSACTION) or row["wait_event"] in CLIENT_WAITS
    return (terminate(row),) if deaf else (cancel(row), terminate(row))


def finish_prepared(row: Row) -> tuple[Remedy, ...]:
    """Return the two ways to end a prepared transaction; which is right only its transaction manager knows."""
    where = f"in database {row['database']}, after asking the transaction manager"
    return (
        Remedy(
            f"Roll it back, {where}",
            sql=f"rollback prepared {literal(row['name'])};",
            risk="high",
            locks="none",
            undo="none: what it wrote is lost",
        ),
        Remedy(
            f"Or commit it, {where}",
            sql=f"commit prepared {literal(row['name'])};",
            risk="high",
            locks="none",
            undo="none: what it wrote becomes visible",
        ),
    )


def literal(text: str) -> str:
    """Return a text as a string literal that runs whatever standard_conforming_strings says."""
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"
