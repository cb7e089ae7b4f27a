"""Is autovacuum switched off?

Without autovacuum dead rows are never removed, the planner's statistics grow old, and one day old rows have to be
frozen in a hurry. It is off for the whole server where ``autovacuum`` or ``track_counts`` is off (without counts it
does not know which table needs it), which is critical; or for one table by its option ``autovacuum_enabled``, mostly
set for a bulk load and forgotten, which is reported from ``min_rows`` rows on. The same option of a table's TOAST table
counts as the table's. Decided by the settings and options alone; temporary tables are their sessions' own business.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row

_SWITCHES = """
select
    s.name::text as "switch",
    'setting' as kind,
    null as relation_type,
    s.setting::boolean as is_on,
    null::boolean as toast_is_on,
    null::int8 as rows,
    null::int8 as dead_rows,
    s.source::text as set_in
from pg_catalog.pg_settings as s
where s.name in ('autovacuum', 'track_counts')
union all
select
    pg_catalog.format('%I.%I', n.nspname, c.relname),
    'table',
    case when c.relkind = 'm' then 'materialized view' else 'table' end,
    coalesce(o.is_on, true),
    coalesce(x.is_on, true),
    greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), t.reltuples)::int8,
    (pg_catalog.pg_stat_get_dead_tuples(c.oid) + coalesce(pg_catalog.pg_stat_get_dead_tuples(t.oid), 0))::int8,
    null
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_class as t on t.oid = c.reltoastrelid
cross join lateral (
    select pg_catalog.bool_and(w.option_value::boolean) as is_on
    from pg_catalog.pg_options_to_table(c.reloptions) as w
    where w.option_name = 'autovacuum_enabled'
) as o
cross join lateral (
    select pg_catalog.bool_and(w.option_value::boolean) as is_on
    from pg_catalog.pg_options_to_table(t.reloptions) as w
    where w.option_name = 'autovacuum_enabled'
) as x
where c.relkind in ('r', 'm') and c.relpersistence <> 't'
    and (c.reloptions is not null or t.reloptions is not null)
    and (not o.is_on or not x.is_on)
order by kind, rows desc nulls last, "switch"
"""
SQL = {15: _SWITCHES}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report the server whose autovacuum is off, and each table of ``min_rows`` that is left out."""
    off = [row for row in rows if row["kind"] == "setting" and row["is_on"] is False]
    if off:
        yield _cluster(off)
    for row in rows:
        if row["kind"] == "table" and (row["rows"] or 0) >= limits["min_rows"]:
            yield _table(row)


def _cluster(off: Rows) -> Finding:
    names = [row["switch"] for row in off]
    return Finding(
        severity="critical",
        kind="cluster",
        name="cluster",
        title=f"Autovacuum does not run on this server: {' and '.join(names)} {'are' if names[1:] else 'is'} off",
        impact="No dead row is removed and no statistic renewed, in any table; only wraparound is still prevented.",
        evidence=[{"setting": row["switch"], "value": "off", "set_in": row["set_in"]} for row in off],
        remedies=(
            Remedy(
                "Switch it on; if a configuration file or the command line still says off, correct that too",
                sql="\n".join([*(f"alter system set {name} = on;" for name in names), "select pg_reload_conf();"]),
                risk="low",
                locks="none",
                undo="\n".join([*(f"alter system reset {name};" for name in names), "select pg_reload_conf();"]),
            ),
        ),
    )


def _table(row: Row) -> Finding:
    heap, toast = row["is_on"] is False, row["toast_is_on"] is False
    options = [name for name, off in (("autovacuum_enabled", heap), ("toast.autovacuum_enabled", toast)) if off]
    alter = f"alter {row['relation_type']} {row['switch']}"
    dead = f"{row['dead_rows']:,} dead rows wait in it" if row["dead_rows"] else "No dead row waits in it yet"
    return Finding(
        severity="warning",
        kind="table",
        name=row["switch"],
        title=f"Autovacuum is switched off for {'' if heap else 'the TOAST table of '}{row['switch']},"
        f" about {row['rows']:,} rows",
        impact=f"{dead}; nothing removes them"
        f"{' and its statistics are never renewed' if heap else ''}, unless somebody does that by hand.",
        evidence=[
            {
                "table": row["switch"],
                "rows": row["rows"],
                "dead_rows": row["dead_rows"],
                "options": ", ".join(f"{name}=false" for name in options),
            }
        ],
        remedies=(
            Remedy(
                "Leave it to autovacuum again",
                sql=f"{alter} reset ({', '.join(options)});",
                risk="low",
                locks=f"SHARE UPDATE EXCLUSIVE on {row['switch']}",
                undo=f"{alter} set ({', '.join(f'{name} = false' for name in options)});",
            ),
            Remedy(
                "Do now what was left undone",
                sql=f"vacuum (verbose, analyze) {row['switch']};",
                risk="low",
                locks=f"SHARE UPDATE EXCLUSIVE on {row['switch']}",
            ),
        ),
    )


check = Check(
    "autovacuum-disabled",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/runtime-config-vacuum.html#RUNTIME-CONFIG-AUTOVACUUM",),
    runbook="vacuum_health",
    primary_only=True,
)
