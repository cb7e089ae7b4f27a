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
from pgrunbooks.checks._btree import needed_bytes
from pgrunbooks.checks._indexes import Row
from pgrunbooks.checks._vacuum import held_back, named, unseen
from pgrunbooks.display import size

# OFFSET 0 has the rows of pg_stats looked up one by one; joined, they are compared each with each.
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
    k.widths,
    k.null_shares,
    k.alignments,
    k.lengths,
    k.narrowest,
    k.widest,
    k.distinct_values,
    k.common_shares,
    case
        when not k.is_readable then 'privilege'
        when pg_catalog.row_security_active(i.indrelid) then 'row security'
        when k.is_unknown and k.has_expression then 'expression never analyzed'
        when k.is_unknown then 'never analyzed'
        when k.is_of_unknown_width then 'width'
    end as unread
from indexes as i
cross join lateral (
    select
        pg_catalog.array_agg(s.avg_width order by p.position) as widths,
        pg_catalog.array_agg(s.null_frac::float8 order by p.position) as null_shares,
        pg_catalog.array_agg(a.attalign::text order by p.position) as alignments,
        pg_catalog.array_agg(a.attlen::int order by p.position) as lengths,
        pg_catalog.array_agg(w.narrowest order by p.position) as narrowest,
        pg_catalog.array_agg(w.widest order by p.position) as widest,
        pg_catalog.array_agg(s.n_distinct::float8 order by p.position)
            filter (where p.position <= i.indnkeyatts) as distinct_values,
        case when i.indnatts = 1 then pg_catalog.max(s.most_common_freqs::float8[]) end as common_shares,
        pg_catalog.bool_or(s.attname is null) as is_unknown,
        pg_catalog.bool_or(p.attnum = 0) as has_expression,
        pg_catalog.bool_or(a.attlen = -2) as is_of_unknown_width,
        pg_catalog.bool_and(pg_catalog.has_column_privilege(f.relation, f.attnum, 'select')) as is_readable,
        pg_catalog.bool_and(p.opclass is null or exists (
            select
            from pg_catalog.pg_opclass as o
            join pg_catalog.pg_amproc as e
                on e.amprocfamily = o.opcfamily and e.amproclefttype = o.opcintype
                and e.amprocrighttype = o.opcintype and e.amprocnum = 4
            join pg_catalog.pg_proc as q on q.oid = e.amproc
            left join pg_catalog.pg_collation as l on l.oid = p.collation_oid
            where o.oid = p.opclass
                and (q.proname = 'btequalimage' or (q.proname = 'btvarstrequalimage' and l.collisdeterministic))
        )) as is_equal_image
    from rows from (
        pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]),
        pg_catalog.unnest(i.indcollation::oid[])
    ) with ordinality as p (attnum, opclass, collation_oid, position)
    join pg_catalog.pg_attribute as a on a.attrelid = i.indexrelid and a.attnum = p.position
    cross join lateral (
        select
            case when p.attnum = 0 then i.indexrelid else i.indrelid end as relation,
            case when p.attnum = 0 then a.attnum else p.attnum end as attnum,
            case when p.attnum = 0 then i.relname else i.table_name end as relname
    ) as f
    join pg_catalog.pg_attribute as v on v.attrelid = f.relation and v.attnum = f.attnum
    left join lateral (
        select x.attname, x.avg_width, x.null_frac, x.n_distinct, x.most_common_freqs, x.most_common_vals,
            x.histogram_bounds
        from pg_catalog.pg_stats as x
        where x.schemaname = i.nspname and x.tablename = f.relname and x.attname = v.attname and not x.inherited
        offset 0
    ) as s on true
    left join pg_catalog.pg_type as t on t.oid = a.atttypid
    cross join lateral (
        select pg_catalog.min(b.bytes) as narrowest, pg_catalog.max(b.bytes) as widest
        from (
            select case
                when t.typcategory = 'S' then pg_catalog.octet_length(u.value) + 1
                else pg_catalog.pg_column_size(u.value::numeric) - 3
            end as bytes
            from pg_catalog.unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[]) as u (value)
            where a.attlen = -1 and (t.typcategory = 'S' or a.atttypid = 'pg_catalog.numeric'::regtype)
        ) as b
    ) as w
) as k
order by i.relpages desc, i.nspname, i.relname
"""
SQL = {15: _INDEXES}


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
    literal = index.replace("'", "''")
    installed = "pgstattuple" in context.server.extensions
    yield Remedy(
        "Measure it: reads the whole index" + ("" if installed else ", and installs an extension"),
        sql=("" if installed else "create extension pgstattuple;\n")
        + f"select leaf_pages, deleted_pages, avg_leaf_density from pgstatindex('{literal}');",
        risk="low",
        locks=f"ACCESS SHARE on {index}",
        undo=None if installed else "drop extension pgstattuple;",
    )
    yield Remedy(
        f"Build it again beside itself; takes up to {size(row['bytes'])} more on disk meanwhile",
        sql=f"reindex index concurrently {index};",
        risk="low",
        locks="SHARE UPDATE EXCLUSIVE on the table: reads and writes go on; it waits for transactions to end",
    )


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
