"""What keeps vacuum from removing dead rows?

Vacuum removes a dead row only when no snapshot can need it any more. One old snapshot is enough to keep every row that
died since, in all tables that its owner might read: they grow, and each scan wades through the dead. It can be held by
a session (its snapshot or its own transaction id), a prepared transaction, a replication slot, or a standby that
reports its queries' snapshots (hot_standby_feedback). Decided by the oldest of them alone, for the others matter only
when it has gone: by the time since its transaction began, or by the transactions begun since. VACUUM and a CREATE INDEX
CONCURRENTLY without expression or predicate are seen by nobody's horizon and do not count. A dump keeps its snapshot on
purpose: its age is 'info', the transactions it costs are judged as everybody's.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Severity, grade
from pgrunbooks.checks._sessions import Row, evidence, finish_prepared, label, literal, stop
from pgrunbooks.checks._texts import with_query
from pgrunbooks.display import duration

# The flags PROC_IN_VACUUM and PROC_IN_SAFE_IC show nowhere: the progress views and the text of the statement tell.
_HOLDERS = r"""
with vacuums as materialized (
    select p.pid from pg_catalog.pg_stat_progress_vacuum as p
),
analyzes as materialized (
    select p.pid from pg_catalog.pg_stat_progress_analyze as p
),
unsafe_builds as materialized (
    select p.pid
    from pg_catalog.pg_stat_progress_create_index as p
    join pg_catalog.pg_index as i on i.indexrelid = p.index_relid
    where p.datname = pg_catalog.current_database() and (i.indexprs is not null or i.indpred is not null)
)
select
    case when a.backend_type = 'walsender' and a.datname is null then 'standby' else 'pid' end as kind,
    case
        when a.backend_type = 'walsender' and a.datname is null then a.application_name
        else a.pid::text
    end as name,
    a.pid,
    a.usename::text as role,
    a.datname::text as database,
    a.application_name as application,
    a.client_addr::text as client,
    a.backend_type,
    a.state,
    a.wait_event,
    a.backend_start,
    a.backend_xid is not null as has_written,
    null::boolean as is_active,
    'rows' as holds,
    coalesce(
        a.pid in (select v.pid from vacuums as v)
        or q.query ~* '^(\s|--[^\n]*\n|/\*([^*]|\*[^/])*\*/)*(autovacuum: )?vacuum\M'
            and q.query !~* 'vacuum\s+full\M'
            and q.query !~* 'vacuum\s*\([^)]*\mfull\M(?!\s+(off|false|0))'
            and a.state is distinct from 'idle in transaction'
            and a.pid not in (select z.pid from analyzes as z)
        or q.query ~* '^(\s|--[^\n]*\n|/\*([^*]|\*[^/])*\*/)*(create\s+(unique\s+)?index|reindex\M[^;]*)\s+'
                'concurrently\M'
            and a.state = 'active'
            and a.pid not in (select u.pid from unsafe_builds as u),
        false
    ) as is_exempt,
    greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))::int8 as transactions,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as held_s,
    extract(epoch from clock_timestamp() - a.state_change)::float8 as state_s,
    q.query
from pg_catalog.pg_stat_activity as a
cross join lateral (select {query}) as q (query)
where a.pid <> pg_catalog.pg_backend_pid() and a.leader_pid is null
    and (a.backend_xmin is not null or a.backend_xid is not null)
union all
select
    'prepared_transaction', p.gid, null, p.owner::text, p.database::text, null, null, null, 'prepared', null,
    p.prepared, true, null, 'rows', false, pg_catalog.age(p.transaction)::int8,
    extract(epoch from clock_timestamp() - p.prepared)::float8,
    extract(epoch from clock_timestamp() - p.prepared)::float8, null
from pg_catalog.pg_prepared_xacts as p
union all
select
    'slot', s.slot_name::text, s.active_pid, null, s.database::text, r.application_name, r.client_addr::text,
    pg_catalog.concat(s.slot_type, ' replication slot'), case when s.active then 'active' else 'inactive' end, null,
    null, false, s.active, case when s.xmin is null then 'catalogs' else 'rows' end, false,
    greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin))::int8,
    extract(epoch from clock_timestamp() - {inactive_since})::float8, null, null
from pg_catalog.pg_replication_slots as s
left join pg_catalog.pg_stat_replication as r on r.pid = s.active_pid
where (s.xmin is not null or s.catalog_xmin is not null) and s.wal_status is distinct from 'lost'
order by transactions desc, held_s desc nulls last, kind, name
"""
SQL = {
    15: with_query(_HOLDERS.replace("{inactive_since}", "null::timestamptz")),
    17: with_query(_HOLDERS.replace("{inactive_since}", "s.inactive_since")),
}

_WORST: tuple[Severity, ...] = ("critical", "warning", "info")
_SAME_OBJECT = (
    "idle-in-transaction",
    "long-transaction",
    "long-running-query",
    "orphaned-prepared-transaction",
    "inactive-replication-slot",
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report the one holder of the horizon that is worst by its age or by its transactions, the oldest among equals."""
    graded = [(severity, row) for row in rows if (severity := _graded(row, limits))]
    if graded:
        severity, row = min(
            graded,
            key=lambda it: (_WORST.index(it[0]), -it[1]["transactions"], -(it[1]["held_s"] or 0.0)),
        )
        yield Finding(
            severity=severity,
            kind=row["kind"],
            name=row["name"],
            title=f"{_who(row)} has kept vacuum from removing dead rows for {_span(row)}",
            impact=_impact(row),
            evidence=[_evidence(row)],
            remedies=tuple(_remedies(row)),
        )


def _graded(row: Row, limits: Limits) -> Severity | None:
    if row["is_exempt"] or row["transactions"] is None:
        return None
    by_age = grade(row["held_s"], limits)
    if by_age and row["kind"] == "pid" and (row["application"] or "").startswith("pg_dump"):
        by_age = "info"
    reached = {by_age, grade(row["transactions"], limits, "_xids")}
    return next((severity for severity in _WORST if severity in reached), None)


def _who(row: Row) -> str:
    if row["kind"] == "slot":
        return f"Replication slot {row['name']} ({row['state']})"
    if row["kind"] == "standby":
        return f"Standby {row['name']} (hot_standby_feedback)"
    return label(row)


def _span(row: Row) -> str:
    transactions = f"{row['transactions']:,} transaction{'' if row['transactions'] == 1 else 's'}"
    return transactions if row["held_s"] is None else f"{duration(row['held_s'])} and {transactions}"


def _impact(row: Row) -> str:
    if row["holds"] == "catalogs":
        return (
            "What has died since in the system catalogs stays there: planning and every change of a schema get slower."
        )
    where = f"database {row['database']}" if row["database"] else "every database"
    return f"Rows of {where} that have died since stay on disk, however often they are vacuumed; tables only grow."


def _evidence(row: Row) -> Row:
    return {
        "kind": row["kind"],
        "name": row["name"],
        "database": row["database"],
        "holds": row["holds"],
        "transactions": row["transactions"],
        "held_s": row["held_s"],
        **evidence(row),
    }


def _remedies(row: Row) -> Iterable[Remedy]:
    if row["kind"] == "prepared_transaction":
        yield from finish_prepared(row)
    elif row["kind"] == "pid":
        yield from stop(row)
    elif row["kind"] == "standby" or row["application"]:
        yield from _on_the_standby(row)
    else:
        yield from _slot(row)


def _on_the_standby(row: Row) -> Iterable[Remedy]:
    yield Remedy(
        f"On the standby {row['application'] or row['name']}: see which query it protects, and end that one",
        sql="select pid, usename, application_name, xact_start, state, query from pg_stat_activity"
        " where backend_xmin is not null and pid <> pg_backend_pid() order by age(backend_xmin) desc, pid;",
        risk="none",
        locks="none",
    )
    yield Remedy(
        "Or, on that standby, stop it from asking; its long queries may then be cancelled by replay",
        sql="alter system set hot_standby_feedback = off;\nselect pg_reload_conf();",
        risk="low",
        locks="none",
        undo="alter system set hot_standby_feedback = on;\nselect pg_reload_conf();",
    )


def _slot(row: Row) -> Iterable[Remedy]:
    name = literal(row["name"])
    yield Remedy(
        "See who should read it and how far that one is behind",
        sql="select slot_name, slot_type, database, active, active_pid, xmin, catalog_xmin, restart_lsn,"
        f" confirmed_flush_lsn from pg_replication_slots where slot_name = {name};",
        risk="none",
        locks="none",
    )
    if row["is_active"]:
        yield Remedy(
            "Find out at its consumer why it confirms nothing: a slot moves on when its reader does", risk="none"
        )
    else:
        yield Remedy(
            "Drop it, if its consumer is gone for good; a consumer that comes back has to be set up anew",
            sql=f"select pg_drop_replication_slot({name});",
            risk="high",
            locks="none",
            undo="none: what it had not read yet is lost to its consumer",
        )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return what else is said of the holder itself: that it idles, was forgotten or that nobody reads it."""
    return [it for it in others if it.code in _SAME_OBJECT and it.subject == finding.subject]


check = Check(
    "xmin-horizon-held",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=(
        "https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY",
        "https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-HOT-STANDBY-FEEDBACK",
    ),
    runbook="vacuum_health",
    sees_sessions=True,
    primary_only=True,
)
