"""Partitions by time: the part that queries about them share."""

# To follow ``with`` and be followed by another common table expression. pg_get_expr() with the table's oid waits behind
# ACCESS EXCLUSIVE; a bound names no column, so that 0 does as well.
BOUNDS = """tables as materialized (
    select p.partrelid, p.partdefid, a.attname, t.typname
    from pg_catalog.pg_partitioned_table as p
    join pg_catalog.pg_attribute as a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    where p.partstrat = 'r' and p.partnatts = 1 and t.typname in ('date', 'timestamp', 'timestamptz')
),
texts as materialized (
    select
        h.inhparent as relid, c.oid as partition_oid, c.relname, c.relkind,
        pg_catalog.substring(b.bound, 'FROM \\((.*)\\) TO ') as lower_text,
        pg_catalog.substring(b.bound, ' TO \\((.*)\\)$') as upper_text
    from tables as t
    join pg_catalog.pg_inherits as h on h.inhparent = t.partrelid
    join pg_catalog.pg_class as c on c.oid = h.inhrelid and c.oid <> t.partdefid
    cross join lateral pg_catalog.pg_get_expr(c.relpartbound, 0) as b (bound)
    where not h.inhdetachpending
),
bounds as materialized (
    select
        x.relid, x.partition_oid, x.relname, x.relkind, x.upper_text,
        case
            when x.lower_text not in ('MINVALUE', '''-infinity''') and x.lower_text !~ '^''[0-9]{6}'
            then pg_catalog.btrim(x.lower_text, '''')::timestamptz
        end as lower_at,
        case
            when x.upper_text not in ('MAXVALUE', '''infinity''') and x.upper_text !~ '^''[0-9]{6}'
            then pg_catalog.btrim(x.upper_text, '''')::timestamptz
        end as upper_at
    from texts as x
),"""
