"""Did the C library or ICU change under the indexes?

How text sorts is not PostgreSQL's own: it asks the C library or ICU. An upgrade of the operating system can change that
order, and every index on text that was built before is then sorted wrongly: rows are not found, unique keys are stored
twice. PostgreSQL records the version that a database or a collation was made with and only warns. Decided by the
recorded version against the actual one, for the default of this database and for each collation that an index in it
uses (a key, or something in its expressions or predicate). Collations without a version, such as C, cannot differ.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row

MOST = 20  # indexes that one remedy names

_VERSIONS = """
with used as materialized (
    select distinct i.indexrelid, k.collation_oid
    from pg_catalog.pg_index as i
    cross join lateral pg_catalog.unnest(i.indcollation::oid[]) as k (collation_oid)
    where k.collation_oid <> 0
    union
    select d.objid, d.refobjid
    from pg_catalog.pg_depend as d
    where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_collation'::regclass
        and d.objid in (select i.indexrelid from pg_catalog.pg_index as i)
),
indexes as materialized (
    select
        u.collation_oid,
        pg_catalog.count(*) as indexes,
        pg_catalog.sum(c.relpages) * current_setting('block_size')::int8 as index_bytes,
        (pg_catalog.array_agg(
            pg_catalog.format('%I.%I', n.nspname, c.relname) order by c.relpages desc, n.nspname, c.relname
        ))[1:100] as examples
    from used as u
    join pg_catalog.pg_class as c on c.oid = u.indexrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'i'
    group by u.collation_oid
)
select
    'database' as kind,
    d.datname::text as name,
    pg_catalog.quote_ident(d.datname) as quoted_name,
    d.datlocprovider::text as provider,
    d.datcollversion as recorded_version,
    pg_catalog.pg_database_collation_actual_version(d.oid) as actual_version,
    coalesce(x.indexes, 0) as indexes,
    coalesce(x.index_bytes, 0)::int8 as index_bytes,
    coalesce(x.examples, '{}') as examples
from pg_catalog.pg_database as d
left join indexes as x on x.collation_oid = 'pg_catalog."default"'::regcollation
where d.datname = pg_catalog.current_database()
union all
select
    'collation',
    pg_catalog.format('%I.%I', n.nspname, l.collname),
    pg_catalog.format('%I.%I', n.nspname, l.collname),
    l.collprovider::text,
    l.collversion,
    pg_catalog.pg_collation_actual_version(l.oid),
    x.indexes,
    x.index_bytes::int8,
    x.examples
from indexes as x
join pg_catalog.pg_collation as l on l.oid = x.collation_oid
join pg_catalog.pg_namespace as n on n.oid = l.collnamespace
where l.collversion is not null
order by kind desc, name
"""
SQL = {15: _VERSIONS}

_PROVIDERS = {"c": "the C library", "i": "ICU", "b": "PostgreSQL"}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report the database and each collation in use whose recorded version is not the one that sorts now."""
    for row in rows:
        recorded, actual = row["recorded_version"], row["actual_version"]
        if None in (recorded, actual) or recorded == actual:
            continue
        provider = _PROVIDERS.get(row["provider"], "its provider")
        what = "The default collation of database" if row["kind"] == "database" else "Collation"
        affected = "1 index" if row["indexes"] == 1 else f"{row['indexes']:,} indexes"
        yield Finding(
            severity="critical",
            kind=row["kind"],
            name=row["name"],
            title=f"{what} {row['name']} was recorded with version {recorded}, {provider} has {actual} now",
            impact=f"{affected} may be sorted in the old order: rows are not found and duplicates get into unique"
            " keys, without an error.",
            evidence=[
                {
                    "provider": provider,
                    "recorded_version": recorded,
                    "actual_version": actual,
                    "indexes": row["indexes"],
                    "index_bytes": row["index_bytes"],
                },
                *({"index": name} for name in row["examples"]),
            ],
            remedies=tuple(_remedies(row, row["examples"])),
        )


def _remedies(row: Row, indexes: Sequence[str]) -> Iterable[Remedy]:
    locks = "SHARE UPDATE EXCLUSIVE on the tables, one after the other"
    if row["kind"] == "database" and row["indexes"]:
        yield Remedy(
            "First build the indexes of this database again; a unique one that fails has duplicates to be merged",
            sql=f"reindex (verbose) database concurrently {row['quoted_name']};",
            risk="low",
            locks=locks,
        )
    elif indexes:
        more = f" (the largest {MOST} of {row['indexes']})" if row["indexes"] > MOST else ""
        yield Remedy(
            f"First build its indexes again{more}; a unique one that fails has duplicates to be merged",
            sql="\n".join(f"reindex index concurrently {name};" for name in indexes[:MOST]),
            risk="low",
            locks=locks,
        )
    yield Remedy(
        "Then, and not before, record the version that is in use",
        sql=f"alter {row['kind']} {row['quoted_name']} refresh "
        f"{'collation ' if row['kind'] == 'database' else ''}version;",
        risk="low",
        locks="none",
        undo="none: nothing warns of an index that was left out any more",
    )


check = Check(
    "collation-version-mismatch",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/sql-altercollation.html#SQL-ALTERCOLLATION-NOTES",),
    runbook="maintenance",
)
