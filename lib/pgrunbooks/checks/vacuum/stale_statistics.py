"""Is the planner working from missing or old statistics?

The planner guesses from what ANALYZE last saw. A table that was never analyzed, or that has changed a lot since, gets
plans for data that is not there: nested loops over millions of rows, or no index where one would do. Two cases are
reported, both from ``min_rows`` rows on: never analyzed (no estimate of its rows, or no statistics on any column, and
no analyze on record); and changes since the last analyze of ``factor`` x the trigger of autoanalyze and of ``share`` of
the rows. Ordinary tables and partitions; a partitioned parent, which autoanalyze never visits, is not judged here.

A session hands its counts in up to a minute late. What it has loaded and analyzed itself meanwhile, as ``pgbench -i``
does, is then counted once more, as changes since. So for an hour after an analyze no more changes are believed than
all that were ever counted for the table less the rows that the analyze has seen; later autoanalyze has come for them.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._vacuum import Row, switched_off, unseen
from pgrunbooks.display import duration

HANDED_IN_S = 3600.0

# Whether a table has statistics is asked of the 5,000 largest without an analyze on record, one by one: an EXISTS would
# read all of pg_stats.
_TABLES = """
with tables as materialized (
    select
        c.oid, n.nspname, c.relname, c.reltuples, c.reloptions,
        greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::int8 as rows,
        pg_catalog.pg_stat_get_mod_since_analyze(c.oid) as changes,
        pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid)
            + pg_catalog.pg_stat_get_tuples_deleted(c.oid) as changes_ever,
        greatest(
            pg_catalog.pg_stat_get_last_analyze_time(c.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid)
        ) as analyzed_at
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
),
unrecorded as materialized (
    select t.oid, t.nspname, t.relname
    from tables as t
    where t.analyzed_at is null and t.reltuples >= 0 and t.rows > 0
    order by t.rows desc, t.oid
    limit 5000
)
select
    pg_catalog.current_database()::text as database,
    pg_catalog.format('%I.%I', t.nspname, t.relname) as "table",
    t.rows,
    t.changes,
    t.changes_ever,
    greatest(t.reltuples, 0)::int8 as analyzed_rows,
    coalesce(o.threshold, current_setting('autovacuum_analyze_threshold')::float8)
        + coalesce(o.scale_factor, current_setting('autovacuum_analyze_scale_factor')::float8)
        * greatest(t.reltuples, 0) as analyze_trigger,
    o.scale_factor as own_scale_factor,
    extract(epoch from clock_timestamp() - t.analyzed_at)::float8 as analyzed_s,
    t.reltuples >= 0 as has_estimate,
    case
        when u.oid is not null then coalesce((
            select true from pg_catalog.pg_stats as s where s.schemaname = u.nspname and s.tablename = u.relname limit 1
        ), false)
    end as has_statistics,
    case
        when u.oid is null then null
        when not pg_catalog.has_table_privilege(u.oid, 'select')
            and not pg_catalog.has_any_column_privilege(u.oid, 'select') then 'privilege'
        when pg_catalog.row_security_active(u.oid) then 'row security'
    end as unread,
    t.oid in (
        select p.relid
        from pg_catalog.pg_stat_progress_analyze as p
        where p.datname = pg_catalog.current_database() and p.relid is not null
    ) as is_analyzed_now
from tables as t
left join unrecorded as u on u.oid = t.oid
cross join lateral (
    select
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_analyze_threshold')::float8
            as threshold,
        pg_catalog.max(w.option_value) filter (where w.option_name = 'autovacuum_analyze_scale_factor')::float8
            as scale_factor
    from pg_catalog.pg_options_to_table(t.reloptions) as w
) as o
where t.rows > 0
order by t.changes desc nulls last, t.nspname, t.relname
"""
SQL = {15: _TABLES}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report each large table without statistics or with statistics of another age; skip what cannot be seen."""
    large = [
        {**row, "changes": _changes(row)}
        for row in rows
        if (row["rows"] or 0) >= limits["min_rows"] and not row["is_analyzed_now"]
    ]
    for row in large:
        if row["analyzed_s"] is None and (not row["has_estimate"] or _has_none(row)):
            yield _finding(
                row,
                title=f"Table {row['table']}, about {row['rows']:,} rows, was never analyzed",
                impact="The planner knows nothing of its values and takes constants instead: its plans are a guess.",
            )
        elif _has_changed(row, limits):
            age = f"{duration(row['analyzed_s'])} ago" if row["analyzed_s"] is not None else "before the counters began"
            yield _finding(
                row,
                title=f"{row['changes']:,} of {row['rows']:,} rows of {row['table']} changed since its last analyze",
                impact=f"That was {age}, and {row['changes'] / max(row['analyze_trigger'], 1):.3g} times what should"
                " have brought autoanalyze. Plans are made for data that is no longer there.",
            )
    yield from unseen([row for row in large if not _has_changed(row, limits)], context)


def _has_none(row: Row) -> bool:
    return row["unread"] is None and row["has_statistics"] is False


def _changes(row: Row) -> int | None:
    """Return the changes since the last analyze, without those that were counted once more after it."""
    changes: int | None = row["changes"]
    if changes is None or row["analyzed_s"] is None or row["analyzed_s"] >= HANDED_IN_S:
        return changes
    most: int = row["changes_ever"] - row["analyzed_rows"]
    return min(changes, max(most, 0))


def _has_changed(row: Row, limits: Limits) -> bool:
    least = max(limits["factor"] * row["analyze_trigger"], limits["share"] * row["rows"])
    return row["changes"] is not None and row["changes"] >= least


def _finding(row: Row, title: str, impact: str) -> Finding:
    wanted = ("database", "table", "rows", "changes", "analyze_trigger", "analyzed_s")
    return Finding(
        severity="warning",
        kind="table",
        name=row["table"],
        title=title,
        impact=impact,
        evidence=[{key: row[key] for key in wanted}],
        remedies=tuple(_remedies(row)),
    )


def _remedies(row: Row) -> Iterable[Remedy]:
    yield Remedy(
        "Analyze it; that reads a sample of at most 30,000 pages by default",
        sql=f"analyze (verbose) {row['table']};",
        risk="low",
        locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}",
    )
    own = row["own_scale_factor"]
    if row["analyzed_s"] is not None and (own is None or own > 0.02):
        alter = f"alter table {row['table']}"
        yield Remedy(
            "So that autoanalyze comes earlier to this one",
            sql=f"{alter} set (autovacuum_analyze_scale_factor = 0.02);",
            risk="low",
            locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}",
            undo=f"{alter} reset (autovacuum_analyze_scale_factor);"
            if own is None
            else f"{alter} set (autovacuum_analyze_scale_factor = {own:g});",
        )


check = Check(
    "stale-statistics",
    sql=SQL,
    judge=judge,
    causes=switched_off,
    docs=("https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-STATISTICS",),
    runbook="vacuum_health",
    primary_only=True,
    uses_counters=True,
)
