"""Is the shared lock table filling up?

Locks live in a table in shared memory that every session uses together and that does not grow: one pg_dump of a
schema with ten thousand tables, a query over a thousand partitions or a loop over advisory locks can fill it, and
then a statement of *any* session fails with 'out of shared memory'. Decided by the rows of pg_locks that are in this
table against ``max_locks_per_transaction * (max_connections + max_prepared_transactions)``: fast-path locks and
predicate locks (SIReadLock) lie elsewhere.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._sessions import Row, count, evidence, finish_prepared, label, literal, terminate
from pgrunbooks.checks._texts import with_query

# A prepared transaction has no pid and keeps the virtual id of its session: the lock on its own xid says which it is.
_HOLDERS = """
with locks as materialized (
    select l.pid, l.virtualtransaction, l.transactionid, l.mode, l.fastpath from pg_catalog.pg_locks as l
),
prepared as (
    select own.virtualtransaction, x.gid, x.owner, x.database, x.prepared
    from locks as own
    join pg_catalog.pg_prepared_xacts as x on x.transaction = own.transactionid
    where own.pid is null
)
select
    case when p.gid is null then 'pid' else 'prepared_transaction' end as kind,
    coalesce(p.gid, l.pid::text) as name,
    coalesce(a.usename, p.owner)::text as role,
    coalesce(a.datname, p.database)::text as database,
    a.application_name as application,
    a.client_addr::text as client,
    a.backend_type,
    a.state,
    coalesce(a.backend_start, p.prepared) as backend_start,
    pg_catalog.bool_or(l.transactionid is not null and l.mode = 'ExclusiveLock') as has_written,
    extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 as transaction_s,
    count(*) as locks,
    sum(count(*)) over () as used,
    current_setting('max_locks_per_transaction')::int as max_locks_per_transaction,
    current_setting('max_locks_per_transaction')::int8
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) as capacity,
    {query} as query
from locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
left join prepared as p on l.pid is null and p.virtualtransaction = l.virtualtransaction
where not l.fastpath and l.mode <> 'SIReadLock' and l.pid is distinct from pg_catalog.pg_backend_pid()
group by
    p.gid, p.owner, p.database, p.prepared, l.pid, a.usename, a.datname, a.application_name, a.client_addr,
    a.backend_type, a.state, a.backend_start, a.xact_start, a.datid, a.query
order by locks desc, kind, name
"""
SQL = {15: with_query(_HOLDERS)}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade the used share of the lock table; name who holds most of it."""
    if not rows:
        return
    most, used, capacity = rows[0], rows[0]["used"], rows[0]["capacity"]
    severity = grade(used / capacity, limits)
    if severity:
        yield Finding(
            severity=severity,
            kind="cluster",
            name="cluster",
            title=f"{used:,} of {capacity:,} entries of the shared lock table are in use ({used / capacity:.0%})",
            impact="When it is full, a statement of any session fails with 'out of shared memory'. "
            f"{label(most)} holds {most['locks'] / used:.0%} of it, {count(most['locks'], 'lock')}.",
            evidence=[{"locks": row["locks"], "locks_share": row["locks"] / capacity, **evidence(row)} for row in rows],
            remedies=_remedies(most),
        )


def _remedies(most: Row) -> tuple[Remedy, ...]:
    prepared = most["kind"] == "prepared_transaction"
    whose = (
        "pid is null and virtualtransaction = (select own.virtualtransaction from pg_prepared_xacts p"
        " join pg_locks own on own.transactionid = p.transaction and own.pid is null"
        f" where p.gid = {literal(most['name'])})"
        if prepared
        else f"pid = {most['name']}"
    )
    larger = 2 * most["max_locks_per_transaction"]
    return (
        Remedy(
            "See which locks the largest holder has",
            sql=f"select locktype, mode, count(*) from pg_locks where {whose} group by 1, 2 order by 3 desc, 1, 2;",
            risk="none",
            locks="none",
        ),
        *(finish_prepared(most) if prepared else (terminate(most),)),
        Remedy(
            "Make the table larger with the next restart; standbys first, theirs must never be smaller",
            sql=f"alter system set max_locks_per_transaction = {larger};",
            risk="low",
            locks="none",
            undo=f"alter system set max_locks_per_transaction = {most['max_locks_per_transaction']};",
        ),
    )


check = Check(
    "lock-table-exhaustion",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/runtime-config-locks.html#GUC-MAX-LOCKS-PER-TRANSACTION",),
    runbook="lock_analysis",
)
