"""What autovacuum knows of every table, and who keeps vacuum from its work: shared by the checks of that area.

The queries take no lock on a user's table and call no function that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgrunbooks.check import Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._sessions import count
from pgrunbooks.checks._texts import with_query

Row = Mapping[str, Any]

# One row for each table, materialized view and TOAST table in which rows have died, the trigger reckoned as
# autovacuum does (relation_needs_vacanalyze): a TOAST table without options of its own has those of its table.
# https://www.postgresql.org/docs/18/routine-vacuuming.html#AUTOVACUUM
_TABLES = """
with here as materialized (
    select d.oid, d.datname from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
),
vacuuming as materialized (
    select p.relid from pg_catalog.pg_stat_progress_vacuum as p where p.datid = (select h.oid from here as h)
    union
    select p.relid from pg_catalog.pg_stat_progress_cluster as p where p.datid = (select h.oid from here as h)
),
workers as materialized (
    select a.pid, {query} as query
    from pg_catalog.pg_stat_activity as a
    where a.backend_type = 'autovacuum worker'
),
dead as materialized (
    select
        c.oid, c.relnamespace, c.relname, c.relkind, c.reltuples, c.relpages, c.reloptions,
        pg_catalog.pg_stat_get_dead_tuples(c.oid) as dead_rows
    from pg_catalog.pg_class as c
    where c.relkind in ('r', 'm', 't') and c.relpersistence <> 't'
)
select
    (select h.datname::text from here as h) as database,
    pg_catalog.format('%I.%I', n.nspname, coalesce(m.relname, c.relname)) as "table",
    case when coalesce(m.relkind, c.relkind) = 'm' then 'materialized view' else 'table' end as relation_type,
    c.relkind = 't' as is_toast,
    c.dead_rows,
    greatest(c.reltuples, 0)::int8 as rows,
    c.relpages * current_setting('block_size')::int8 as bytes,
    least(
        coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold')::float8)
        + coalesce(o.scale_factor, current_setting('autovacuum_vacuum_scale_factor')::float8)
        * greatest(c.reltuples, 0),
        {most}
    ) as vacuum_trigger,
    o.scale_factor as own_scale_factor,
    coalesce(o.is_enabled, true) as autovacuum_enabled,
    c.oid in (select v.relid from vacuuming as v) or coalesce(m.oid in (select v.relid from vacuuming as v), false)
        as is_vacuumed_now,
    extract(epoch from clock_timestamp() - greatest(
        pg_catalog.pg_stat_get_last_vacuum_time(c.oid), pg_catalog.pg_stat_get_last_autovacuum_time(c.oid)
    ))::float8 as last_vacuum_s,
    (select pg_catalog.count(*) from workers as w) as workers_running,
    {workers} as workers_allowed,
    array(select w.query from workers as w where w.query <> '' order by w.query, w.pid) as workers_do,
    current_setting('autovacuum_vacuum_cost_limit')::int as own_cost_limit,
    current_setting('vacuum_cost_limit')::int as cost_limit
from dead as c
left join pg_catalog.pg_class as m on c.relkind = 't' and m.reltoastrelid = c.oid
join pg_catalog.pg_namespace as n on n.oid = coalesce(m.relnamespace, c.relnamespace)
cross join lateral (
    select
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_vacuum_threshold')::float8
            as threshold,
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_vacuum_scale_factor')::float8
            as scale_factor,
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_vacuum_max_threshold')::float8
            as max_threshold,
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_enabled')::boolean as is_enabled
    from pg_catalog.pg_options_to_table(coalesce(c.reloptions, m.reloptions)) as w
) as o
where c.dead_rows > 0
order by c.dead_rows desc, "table", is_toast
"""

SQL: Mapping[int, str] = {
    15: with_query(_TABLES)
    .replace("{most}", "null")
    .replace("{workers}", "current_setting('autovacuum_max_workers')::int"),
    18: with_query(_TABLES)
    .replace(
        "{most}",
        "nullif(coalesce(o.max_threshold, current_setting('autovacuum_vacuum_max_threshold')::float8), -1)",
    )
    .replace(
        "{workers}",
        "least(current_setting('autovacuum_max_workers')::int, current_setting('autovacuum_worker_slots')::int)",
    ),
}


def overdue(rows: Rows, limits: Limits) -> list[Row]:
    """Return the tables that are past ``factor`` x their vacuum trigger and that nobody vacuums, worst first.

    A table and its TOAST table are one: the one that is further past its trigger stands for both.
    """
    past = [
        row
        for row in rows
        if (row["dead_rows"] or 0) >= max(limits["min_dead"], limits["factor"] * row["vacuum_trigger"])
        and not row["is_vacuumed_now"]
    ]
    worst: dict[str, Row] = {}
    for row in sorted(past, key=lambda row: (-times(row), row["table"], row["is_toast"])):
        worst.setdefault(row["table"], row)
    return list(worst.values())


def times(row: Row) -> float:
    """Return how often the dead rows of a table would have triggered a vacuum of it."""
    return float(row["dead_rows"] / max(row["vacuum_trigger"], 1.0))


def held_back(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return the finding about whoever keeps vacuum from removing the dead rows of a finding's table.

    A session holds the rows of its own database only, and a logical slot those of the system catalogs.
    """
    database = _first(finding).get("database")
    for other in others:
        if other.code == "xmin-horizon-held":
            holder = _first(other)
            is_here = None in (holder.get("database"), database) or holder["database"] == database
            if is_here and (holder.get("holds") != "catalogs" or finding.name.startswith("pg_catalog.")):
                yield other


def measured(relation: str, reads: str, sql: str, context: Context) -> Remedy:
    """Return how to measure with pgstattuple what was estimated, and the extension first where it is missing."""
    installed = "pgstattuple" in context.server.extensions
    return Remedy(
        f"Measure it: reads {reads}" + ("" if installed else ", and installs an extension"),
        sql=("" if installed else "create extension if not exists pgstattuple;\n") + sql,
        risk="low",
        locks=f"ACCESS SHARE on {relation}",
        undo=None if installed else "drop extension if exists pgstattuple;",
    )


def switched_off(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return the findings that say that autovacuum is switched off for a finding's table, or for all."""
    subjects = (finding.subject, "cluster:cluster")
    return [it for it in others if it.code == "autovacuum-disabled" and it.subject in subjects]


def _first(finding: Finding) -> Row:
    return finding.evidence[0] if finding.evidence else {}


def named(names: Sequence[str], noun: str, most: int = 3) -> str:
    """Return ``5 tables (a, b, c, ...)``."""
    return f"{count(len(names), noun)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def unseen(rows: Rows, context: Context) -> Iterable[Skip]:
    """Return a Skip that names the tables whose rows of pg_stats this role may not see, by their column ``unread``."""
    role = context.server.role
    closed = [row["table"] for row in rows if row["unread"] == "privilege"]
    guarded = [row["table"] for row in rows if row["unread"] == "row security"]
    reasons = []
    if closed:
        reasons.append(f"role {role} may not read the statistics of {named(closed, 'table')}")
    if guarded:
        reasons.append(f"row security hides the statistics of {named(guarded, 'table')} from role {role}")
    if reasons:
        yield Skip("; ".join(reasons), f"grant pg_read_all_data to {context.server.quoted_role};" if closed else None)
