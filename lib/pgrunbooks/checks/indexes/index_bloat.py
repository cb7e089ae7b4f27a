"""Which indexes waste the most space?

A btree gives a page back only once it is empty: after a large delete, or months of updates all over it, its pages are
half empty, and fill cache, backups and disk as before. Decided by an *estimate*: the pages of a new build, reckoned by
a model that knows deduplication from the planner's statistics (distinct values, nulls, widths), against the pages at
the last VACUUM, ANALYZE or build. Over 48 indexes it erred by 1.8 percentage points in the mean and 13.9 at worst,
where ANALYZE had underestimated the distinct values (benchmarks/results/bloat.md). It does not see keys of several
columns that depend on each other, nor compressed values. What lacks statistics is not judged, nor are the system
catalogs. Reported where share *and* bytes reach their limits, among the 5,000 largest indexes.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._btree import needed_bytes, with_keys
from pgrunbooks.checks._indexes import Row
from pgrunbooks.checks._sessions import literal
from pgrunbooks.checks._vacuum import held_back, measured, named, unseen
from pgrunbooks.display import size

_INDEXES = """
with indexes as materialized (
    select
        i.indexrelid, i.indrelid, i.indkey, i.indclass, i.indcollation, i.indnatts, i.indnkeyatts, i.indisunique,
        i.indpred is not null as is_partial,
        c.relname, c.relpages, c.reltuples, t.relname as table_name, n.nspname,
        coalesce(o.fillfactor, 90)::float8 / 100 as fillfactor,
        coalesce(o.deduplicate_items, true) as may_deduplicate
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indexrelid
    join pg_catalog.pg_am as m on m.oid = c.relam
    join pg_catalog.pg_class as t on t.oid = i.indrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join lateral (
        select
            pg_catalog.max(w.option_value) filter (where w.option_name = 'fillfactor')::int as fillfactor,
            pg_catalog.max(w.option_value) filter (where w.option_name = 'deduplicate_items')::boolean
                as deduplicate_items
        from pg_catalog.pg_options_to_table(c.reloptions) as w
    ) as o
    where m.amname = 'btree' and c.relkind = 'i' and c.relpersistence <> 't' and c.relpages > 0 and c.reltuples >= 0
        and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    order by c.relpages desc, c.oid
    limit 5000
)
select
    pg_catalog.current_database()::text as database,
    i.indrelid::int8 as table_oid,
    i.indexrelid::int8 as index_oid,
    pg_catalog.format('%I.%I', i.nspname, i.relname) as index,
    pg_catalog.format('%I.%I', i.nspname, i.table_name) as "table",
    i.reltuples::int8 as rows,
    i.relpages * current_setting('block_size')::int8 as bytes,
    current_setting('block_size')::int as page_bytes,
    i.fillfactor,
    i.is_partial,
    i.indnkeyatts::int as key_columns,
    i.may_deduplicate and not i.indisunique and i.indnkeyatts = i.indnatts and k.is_equal_image as deduplicates,
    {keys},
    case
        when not k.is_readable then 'privilege'
        when pg_catalog.row_security_active(i.indrelid) then 'row security'
        when k.is_unknown and k.has_expression then 'expression never analyzed'
        when k.is_unknown then 'never analyzed'
        when k.is_of_unknown_width then 'width'
    end as unread
from indexes as i
"""
_ORDER = """
order by i.relpages desc, i.nspname, i.relname
"""
SQL = with_keys(_INDEXES, _ORDER)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report each index whose estimated waste reaches both limits; skip those whose statistics are not to be had."""
    for row in rows:
        if row["unread"] or row["bytes"] < max(limits["min_bytes"], 1):
            continue
        waste = row["bytes"] - needed_bytes(row)
        if waste >= max(limits["waste"] * row["bytes"], limits["min_bytes"]):
            yield _finding(row, waste, context)
    large = [row for row in rows if row["bytes"] >= limits["min_bytes"]]
    yield from unseen(list({row["table"]: row for row in large}.values()), context)
    bare = list(dict.fromkeys(row["table"] for row in large if row["unread"] == "expression never analyzed"))
    if bare:
        yield Skip(
            f"nobody has analyzed the expressions in indexes of {named(bare, 'table')}",
            "\n".join(f"analyze {table};" for table in bare),
        )


def _finding(row: Row, waste: float, context: Context) -> Finding:
    share = waste / row["bytes"]
    return Finding(
        severity="warning",
        kind="index",
        name=row["index"],
        title=f"About {size(waste)} of the {size(row['bytes'])} of index {row['index']} are waste"
        f" ({share:.0%}, estimated)",
        impact=f"Cache, disk and backups hold the holes too, and a scan of many entries of {row['table']} reads them.",
        evidence=[
            {
                "database": row["database"],
                "index": row["index"],
                "table": row["table"],
                "rows": row["rows"],
                "bytes": row["bytes"],
                "waste_bytes": round(waste),
                "waste_share": share,
                "measured_by": "estimate from the planner's statistics",
            }
        ],
        remedies=tuple(_remedies(row, context)),
    )


def _remedies(row: Row, context: Context) -> Iterable[Remedy]:
    index = row["index"]
    yield Remedy(
        f"Build it again beside itself; takes up to {size(row['bytes'])} more on disk meanwhile",
        sql=f"reindex index concurrently {index};",
        risk="low",
        locks="SHARE UPDATE EXCLUSIVE on the table: reads and writes go on; it waits for transactions to end",
    )
    query = f"select leaf_pages, deleted_pages, avg_leaf_density from pgstatindex({literal(index)});"
    yield measured(index, "the whole index", query, context)


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return what holds the horizon: while it does, vacuum cannot remove entries of dead rows."""
    return held_back(finding, others)


check = Check(
    "index-bloat",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=(
        "https://www.postgresql.org/docs/current/routine-reindex.html",
        "https://www.postgresql.org/docs/current/btree.html#BTREE-DEDUPLICATION",
    ),
    runbook="index_analysis",
)
