"""Do rows land in the default partition?

A default partition catches rows that no other one takes: the partition they belong to is missing. It grows into a
table without the point of partitioning, and each partition that is made later has to read all of it, under ACCESS
EXCLUSIVE, and is refused while a row of its range lies there. Decided without reading it: the server's count of its
live rows, or what the last VACUUM or ANALYZE saw less the rows deleted since the counters began, so that a reset does
not hide rows. Both are estimates, and rows of the last second are not counted yet. It does not tell how old they are.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row

# One row a leaf, since a default partition may be partitioned in turn; it opens no table.
_DEFAULTS = """
with recursive leaves (root, member) as (
    select p.partdefid, p.partdefid from pg_catalog.pg_partitioned_table as p where p.partdefid <> 0
    union all
    select l.root, h.inhrelid
    from leaves as l
    join pg_catalog.pg_class as c on c.oid = l.member and c.relkind = 'p'
    join pg_catalog.pg_inherits as h on h.inhparent = l.member
),
counted as (
    select
        l.root,
        pg_catalog.sum(
            greatest(
                pg_catalog.pg_stat_get_live_tuples(c.oid),
                c.reltuples::int8 - pg_catalog.pg_stat_get_tuples_deleted(c.oid),
                0
            )
        )::int8 as estimated_rows,
        pg_catalog.sum(c.relpages::int8 * current_setting('block_size')::int8)::int8 as size_bytes,
        pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid))::int8 as inserted_rows,
        pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(c.oid))::int8 as deleted_rows
    from leaves as l
    join pg_catalog.pg_class as c on c.oid = l.member and c.relkind <> 'p'
    group by l.root
)
select
    pg_catalog.format('%I.%I', n.nspname, c.relname) as partition,
    pg_catalog.format('%I.%I', tn.nspname, t.relname) as table,
    k.columns,
    d.estimated_rows,
    d.size_bytes,
    d.inserted_rows,
    d.deleted_rows
from counted as d
join pg_catalog.pg_class as c on c.oid = d.root
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_partitioned_table as p on p.partdefid = d.root
join pg_catalog.pg_class as t on t.oid = p.partrelid
join pg_catalog.pg_namespace as tn on tn.oid = t.relnamespace
cross join lateral (
    select
        case
            when pg_catalog.count(*) = p.partnatts
            then pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by k.position)
        end as columns
    from pg_catalog.unnest(p.partattrs::int2[]) with ordinality as k (attnum, position)
    join pg_catalog.pg_attribute as a on a.attrelid = t.oid and a.attnum = k.attnum and k.attnum > 0
) as k
where c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by n.nspname, c.relname
"""
SQL = {15: _DEFAULTS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each default partition that holds rows."""
    for row in rows:
        if not row["estimated_rows"]:
            continue
        name, table = row["partition"], row["table"]
        yield Finding(
            severity="warning",
            kind="partition",
            name=name,
            title=f"Default partition {name} holds about {row['estimated_rows']:,} rows that no other partition of"
            f" {table} takes",
            impact="Their partitions cannot be made before they are moved out, and each one that is made reads all"
            " of them while the table is locked.",
            evidence=[
                {
                    "partition": name,
                    "table": table,
                    "estimated_rows": row["estimated_rows"],
                    "estimated_size_bytes": row["size_bytes"],
                    "inserted_rows": row["inserted_rows"],
                    "deleted_rows": row["deleted_rows"],
                }
            ],
            remedies=tuple(_remedies(row)),
        )


def _remedies(row: Row) -> Iterable[Remedy]:
    if row["columns"]:
        keys = row["columns"]
        yield Remedy(
            "See which rows they are (it reads the whole partition)",
            sql=f"select {keys}, pg_catalog.count(*) as rows from {row['partition']} group by {keys}"
            f" order by {keys} limit 100;",
            risk="none",
            locks="ACCESS SHARE on the partition",
        )
    yield Remedy(
        f"Move them, in one transaction that ends soon or not at all (set local lock_timeout): detach"
        f" {row['partition']} from {row['table']}, make the missing partitions, insert its rows into {row['table']},"
        " truncate it and attach it again as default",
        risk="high",
        locks="ACCESS EXCLUSIVE on the table and on the partition until the rows are moved",
        undo="roll the transaction back before it commits",
    )


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Name the table whose time partitions have ended: its rows have nowhere else to go."""
    table = finding.evidence[0]["table"]
    return [
        it for it in others if it.code == "partition-missing-ahead" and it.severity == "critical" and it.name == table
    ]


check = Check(
    "default-partition-filling",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-PARTITION",),
    runbook="growth_report",
)
