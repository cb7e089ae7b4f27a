"""Which integer keys run out?

A smallint or integer key that the application, a trigger or another table fills runs out as a sequence does, and no
catalog says how far it is: its largest value does. Asked are columns that are a primary key or unique by themselves
(on a partitioned table: beside the partition key) and own no sequence, whose sequence is sequence-exhaustion's, and
foreign keys that reference one of these or a wider type: a bigint key outgrows the integers that reference it.

The value comes from max() through a plain btree index, and where there is none the column is left out. Tables that
somebody has locked, or waits to lock, are left out and named; one that is locked between that look and the reading
makes the check fail by its lock time-out. Keys that do not count up, such as hashes, look full from the first day.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Rows, Skip, grade
from pgrunbooks.checks._sessions import Row
from pgrunbooks.checks.growth.sequence_exhaustion import LARGEST, examples, widen

# ts_stat() runs a query that is given as text: so one statement can ask the index of every table, also where the
# server was built without libxml, which query_to_xml() wants. The planner locks a table with all its indexes and
# partitions until the query ends: a quarter of the server's lock table is the most taken, first for the smallest
# types and the largest tables. Joins go through the catalog's indexes, since the planner takes these sets for small.
_KEYS = """
with recursive locked as materialized (
    select distinct l.relation
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_database as d on d.oid = l.database
    where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
        and d.datname = pg_catalog.current_database()
),
room as (
    select
        current_setting('max_locks_per_transaction')::int8 * (
            current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8
        ) / 4 as lockable
),
owned as materialized (
    select distinct d.refobjid as relid, d.refobjsubid as attnum
    from pg_catalog.pg_depend as d
    join pg_catalog.pg_class as s on s.oid = d.objid and s.relkind = 'S'
    where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjsubid > 0 and d.deptype in ('a', 'i')
),
integers as materialized (
    select
        c.oid as relid, a.attnum, a.attname, c.relname, c.relkind, n.oid as schema_oid, n.nspname,
        coalesce(nullif(t.typbasetype, 0), t.oid) as type_oid, t.typlen,
        case
            when c.relkind = 'r' then greatest(c.reltuples, pg_catalog.pg_stat_get_tuples_inserted(c.oid))
        end as table_rows
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and not c.relispartition and c.relhasindex
        and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and c.relpersistence <> 't' and (c.relpersistence = 'p' or not pg_catalog.pg_is_in_recovery())
        and a.atttypid = any (array(
            select d.oid
            from pg_catalog.pg_type as d
            where coalesce(nullif(d.typbasetype, 0), d.oid)
                in ('pg_catalog.int2'::regtype::oid, 'pg_catalog.int4'::regtype::oid)
        ))
),
keys as (
    select i.indrelid as relid, pg_catalog.min(k.attnum) as attnum
    from pg_catalog.pg_index as i
    left join pg_catalog.pg_partitioned_table as p on p.partrelid = i.indrelid
    cross join lateral pg_catalog.unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) as k (attnum)
    where i.indisunique and i.indisvalid and i.indpred is null
        and (i.indnkeyatts = 1 or p.partrelid is null or k.attnum <> all (p.partattrs::int2[]))
    group by i.indexrelid, i.indrelid
    having pg_catalog.count(*) = 1
),
wanted as (
    select k.relid, k.attnum, null as referenced
    from keys as k
    left join owned as o on o.relid = k.relid and o.attnum = k.attnum
    where o.relid is null
    union all
    select f.conrelid, k.attnum, pg_catalog.format('%I.%I (%I)', rn.nspname, rc.relname, ra.attname)
    from pg_catalog.pg_constraint as f
    cross join lateral rows from (
        pg_catalog.unnest(f.conkey), pg_catalog.unnest(f.confkey)
    ) as k (attnum, referenced)
    join pg_catalog.pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.attnum
    join pg_catalog.pg_attribute as ra on ra.attrelid = f.confrelid and ra.attnum = k.referenced
    join pg_catalog.pg_class as rc on rc.oid = f.confrelid
    join pg_catalog.pg_namespace as rn on rn.oid = rc.relnamespace
    where f.contype = 'f' and f.conparentid = 0
        and (ra.attlen > a.attlen or (f.confrelid, k.referenced) not in (select o.relid, o.attnum from owned as o))
),
columns as materialized (
    select
        i.relid, i.attnum, i.attname, i.relname, i.relkind, i.schema_oid, i.nspname, i.type_oid, i.typlen, i.table_rows,
        pg_catalog.bool_or(w.referenced is null) as is_key,
        pg_catalog.array_remove(
            pg_catalog.array_agg(distinct w.referenced order by w.referenced), null
        ) as referenced
    from wanted as w
    join integers as i on i.relid = w.relid and i.attnum = w.attnum
    where exists (
        select
        from pg_catalog.pg_index as x
        join pg_catalog.pg_class as xc on xc.oid = x.indexrelid
        join pg_catalog.pg_am as m on m.oid = xc.relam
        where x.indrelid = i.relid and x.indkey[0] = i.attnum and x.indisvalid and x.indpred is null
            and m.amname = 'btree'
    )
    group by
        i.relid, i.attnum, i.attname, i.relname, i.relkind, i.schema_oid, i.nspname, i.type_oid, i.typlen, i.table_rows
),
family (root, member) as (
    select c.relid, h.inhrelid
    from (select distinct k.relid from columns as k where k.relkind = 'p') as c
    join pg_catalog.pg_inherits as h on h.inhparent = c.relid
    union all
    select f.root, h.inhrelid
    from family as f
    join pg_catalog.pg_class as p on p.oid = f.member and p.relkind = 'p'
    join pg_catalog.pg_inherits as h on h.inhparent = f.member
),
families as materialized (
    select
        f.root,
        pg_catalog.count(*) as locks,
        pg_catalog.bool_or(r.relation in (select l.relation from locked as l)) as is_locked
    from family as f
    cross join lateral (
        select f.member as relation
        union all
        select i.indexrelid from pg_catalog.pg_index as i where i.indrelid = f.member
    ) as r
    group by f.root
),
closed as (
    select
        c.relid, c.attnum, c.attname, c.relname, c.relkind, c.nspname, c.type_oid, c.typlen, c.table_rows,
        c.is_key, c.referenced, o.locks + coalesce(w.locks, 0) as locks,
        case
            when not pg_catalog.has_schema_privilege(c.schema_oid, 'usage')
                or not pg_catalog.has_column_privilege(c.relid, c.attnum, 'select') then 'privilege'
            when pg_catalog.row_security_active(c.relid) then 'row security'
            when o.is_locked or w.is_locked then 'locked'
        end as closed
    from columns as c
    cross join lateral (
        select
            pg_catalog.count(*) as locks,
            pg_catalog.bool_or(r.relation in (select l.relation from locked as l)) as is_locked
        from (
            select c.relid as relation
            union all
            select i.indexrelid from pg_catalog.pg_index as i where i.indrelid = c.relid
        ) as r
    ) as o
    left join families as w on w.root = c.relid
),
placed as materialized (
    select
        c.attname, c.relname, c.relkind, c.nspname, c.type_oid, c.is_key, c.referenced,
        coalesce(
            c.closed,
            case
                when pg_catalog.sum(c.locks) over (
                    partition by c.closed order by c.typlen, c.table_rows desc nulls first, c.relid, c.attnum
                ) > r.lockable then 'room'
            end
        ) as unread
    from closed as c
    cross join room as r
)
select
    pg_catalog.format('%I.%I (%I)', p.nspname, p.relname, p.attname) as column,
    pg_catalog.format('%I.%I', p.nspname, p.relname) as table,
    pg_catalog.quote_ident(p.attname) as column_name,
    pg_catalog.format_type(p.type_oid, null) as column_type,
    p.is_key,
    p.referenced,
    m.word::int8 as max_value,
    p.unread
from placed as p
left join lateral pg_catalog.ts_stat(
    case
        when p.unread is null then pg_catalog.format(
            'select pg_catalog.array_to_tsvector(pg_catalog.array_remove(array[pg_catalog.max(%1$I)::text], null))'
            ' from %2$s %3$I.%4$I',
            p.attname, case when p.relkind = 'p' then '' else 'only' end, p.nspname, p.relname
        )
    end
) as m on true
where m.word is not null or p.unread is not null
order by p.nspname, p.relname, p.attname
"""
SQL = {15: _KEYS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Grade each key by the share of its type that its largest value has reached; skip what could not be read."""
    for row in rows:
        if row["max_value"] is None:
            continue
        share = row["max_value"] / LARGEST[row["column_type"]]
        severity = grade(share, limits)
        if severity:
            yield _finding(row, share, severity)
    yield from _unread(rows, context)


def _finding(row: Row, share: float, severity: str) -> Finding:
    left = LARGEST[row["column_type"]] - row["max_value"]
    what = "Key" if row["is_key"] else "Foreign key"
    references = f" that follow {', '.join(row['referenced'])}" if row["referenced"] else ""
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind="column",
        name=row["column"],
        title=f"{what} {row['column']} is at {int(share * 100)}% of {row['column_type']}: "
        + (f"{left:,} numbers are left" if left else "none is left"),
        impact=f"{'When they are gone' if left else 'Now'}, inserts of larger values{references} fail with"
        f" '{row['column_type']} out of range'.",
        evidence=[
            {
                "column": row["column"],
                "column_type": row["column_type"],
                "references": ", ".join(row["referenced"]) or None,
                "max_value": row["max_value"],
                "numbers_left": left,
                "used_share": share,
            }
        ],
        remedies=tuple(widen(row["table"], row["column_name"], row["column_type"])),
    )


def _unread(rows: Rows, context: Context) -> Iterable[Skip]:
    words = {
        "privilege": f"role {context.server.role} may not read",
        "row security": f"row security hides rows from role {context.server.role} in",
        "locked": "being locked just now:",
        "room": "left out, since reading each takes locks and the server's lock table has no room for all:",
    }
    unread = {why: [row["column"] for row in rows if row["unread"] == why] for why in words}
    reasons = [f"{words[why]} {examples(names, 'key column')}" for why, names in unread.items() if names]
    if reasons:
        grant = f"grant pg_read_all_data to {context.server.quoted_role};"
        yield Skip("; ".join(reasons), grant if unread["privilege"] else None)


check = Check(
    "integer-key-exhaustion",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-INT",),
    runbook="growth_report",
)
