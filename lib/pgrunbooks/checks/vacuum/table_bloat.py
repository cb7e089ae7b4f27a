"""Which tables waste the most space?

Vacuum makes the space of dead rows free for new ones of the same table; it hardly ever gives any back. After a large
delete, or months behind an old snapshot, a table can be mostly holes: it fills cache, backups and disk, and every scan
reads the holes too. Decided by an *estimate*: the pages that its rows would need, reckoned from the planner's
statistics (rows, mean width, share of nulls and alignment of each column, fillfactor), against the pages that it had at
the last vacuum or analyze. It was within 5 percentage points of what a rewrite freed on the tests' tables, bloated and
fresh; dropped columns, and statistics older than the last large change, make it worse. Tables never analyzed are left
out, and so is what lies in TOAST. Reported where share *and* bytes reach their limits, among the 5,000 largest tables.
"""

from collections.abc import Iterable, Sequence
from math import ceil, prod

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._layout import ITEM, aligned, laid_out
from pgrunbooks.checks._sessions import literal
from pgrunbooks.checks._vacuum import Row, held_back, measured, unseen
from pgrunbooks.display import size

PAGE_HEADER, TUPLE_HEADER, MOST_ITEMS = 24, 23, 291  # bufpage.h, htup_details.h

_TABLES = """
with tables as materialized (
    select c.oid, n.nspname, c.relname, c.relkind, c.relpages, c.reltuples, c.reloptions
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence <> 't' and c.relpages > 0 and c.reltuples >= 0
    order by c.relpages desc, c.oid
    limit 5000
)
select
    pg_catalog.current_database()::text as database,
    t.oid::int8 as table_oid,
    pg_catalog.format('%I.%I', t.nspname, t.relname) as "table",
    t.nspname in ('pg_catalog', 'information_schema') as is_system,
    t.reltuples::int8 as rows,
    t.relpages * current_setting('block_size')::int8 as bytes,
    current_setting('block_size')::int as page_bytes,
    coalesce((
        select w.option_value::float8 / 100
        from pg_catalog.pg_options_to_table(t.reloptions) as w
        where w.option_name = 'fillfactor'
    ), 1.0) as fillfactor,
    pg_catalog.pg_stat_get_dead_tuples(t.oid) as dead_rows,
    k.widths,
    k.null_shares,
    k.alignments,
    k.lengths,
    case
        when not k.is_readable then 'privilege'
        when pg_catalog.row_security_active(t.oid) then 'row security'
        when k.is_unknown then 'never analyzed'
    end as unread
from tables as t
cross join lateral (
    select
        pg_catalog.array_agg(s.avg_width order by a.attnum) as widths,
        pg_catalog.array_agg(s.null_frac::float8 order by a.attnum) as null_shares,
        pg_catalog.array_agg(a.attalign::text order by a.attnum) as alignments,
        pg_catalog.array_agg(a.attlen::int order by a.attnum) as lengths,
        coalesce(pg_catalog.bool_or(s.attname is null), true) as is_unknown,
        coalesce(pg_catalog.bool_and(pg_catalog.has_column_privilege(t.oid, a.attnum, 'select')), true) as is_readable
    from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_stats as s
        on s.schemaname = t.nspname and s.tablename = t.relname and s.attname = a.attname and not s.inherited
    where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v'
) as k
order by t.relpages desc, t.nspname, t.relname
"""
SQL = {15: _TABLES}


def needed_bytes(row: Row) -> float:
    """Return the bytes that the rows of a table would take if its pages were filled to its fillfactor.

    Where rows differ in width, half a row stays unused at the end of a page.
    """
    offset, varies = laid_out(row)
    columns = len(row["widths"])
    has_null = 1 - prod(1 - nulls for nulls in row["null_shares"])
    header = (1 - has_null) * aligned(TUPLE_HEADER) + has_null * aligned(TUPLE_HEADER + ceil(columns / 8))
    item = ITEM + header + (offset + 3.5 if varies else aligned(offset))
    usable = row["page_bytes"] * row["fillfactor"] - PAGE_HEADER
    fitting = (usable - item / 2) / item if varies else usable // item
    return float(ceil(row["rows"] / max(min(fitting, MOST_ITEMS), 1)) * row["page_bytes"])


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report each table whose estimated waste reaches both limits; skip those whose statistics may not be read."""
    for row in rows:
        if row["unread"] or not row["bytes"]:
            continue
        waste = max(row["bytes"] - needed_bytes(row), 0.0)
        if waste / row["bytes"] >= limits["waste"] and waste >= limits["min_bytes"]:
            yield _finding(row, waste, context)
    large = [row for row in rows if row["bytes"] >= limits["min_bytes"] and not row["is_system"]]
    yield from unseen(large, context)


def _finding(row: Row, waste: float, context: Context) -> Finding:
    wanted = ("database", "table", "rows", "dead_rows", "bytes")
    return Finding(
        severity="warning",
        kind="table",
        name=row["table"],
        title=f"About {size(waste)} of the {size(row['bytes'])} of {row['table']} are waste"
        f" ({waste / row['bytes']:.0%}, estimated)",
        impact="Cache, disk and backups hold the holes too, and a sequential scan reads them."
        + (f" {row['dead_rows']:,} dead rows are part of it." if row["dead_rows"] else ""),
        evidence=[
            {
                **{key: row[key] for key in wanted},
                "waste_bytes": round(waste),
                "waste_share": waste / row["bytes"],
                "measured_by": "estimate from the planner's statistics",
            }
        ],
        remedies=tuple(_remedies(row, context)),
    )


def _remedies(row: Row, context: Context) -> Iterable[Remedy]:
    table = row["table"]
    wanted = "approx_free_percent, approx_free_space, dead_tuple_percent"
    query = f"select {wanted} from pgstattuple_approx({literal(table)});"
    yield measured(table, "the pages that are not all visible", query, context)
    yield Remedy("Do nothing, if the table is going to grow again: new rows fill the holes", risk="none")
    yield Remedy(
        f"Rewrite it when nobody needs it; takes up to {size(row['bytes'])} more on disk meanwhile (pg_repack does the"
        " same without the lock)",
        sql=f"vacuum (full, analyze, verbose) {table};",
        risk="high",
        locks=f"ACCESS EXCLUSIVE on {table}",
    )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return what holds the horizon: while it does, vacuum cannot make space free again."""
    return held_back(finding, others)


check = Check(
    "table-bloat",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=(
        "https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY",
        "https://www.postgresql.org/docs/current/storage-page-layout.html",
    ),
    runbook="maintenance",
)
