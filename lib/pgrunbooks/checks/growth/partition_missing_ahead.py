"""Do time partitions exist ahead of now?

A table that is range partitioned by time needs its next partition before the time comes. The job that makes it has
failed, or nobody wrote one: then every insert of a current row fails, or lands in the default partition, which is no
cover: rows have to be moved out of it before their partition can be made. Decided by the newest upper bound: behind now
is critical, and ahead of now by less than ``warning`` or twice the width of the newest partition, whichever is shorter,
is a warning. MAXVALUE and infinity cover everything. A table without any partition for a time is critical, since all
its inserts fail, unless it has a default partition that holds nothing: it is not in use yet.

Partition keys that are one column of type date, timestamp or timestamptz are judged; a bound without a time zone is
read in the time zone of our session. A partition that is partitioned in turn needs to cover its own range only.
"""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration

# pg_get_expr() with the table's oid waits behind ACCESS EXCLUSIVE; a bound names no column, so that 0 does as well.
_PARTITIONED = """
with recursive tables as materialized (
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
        case when x.lower_text ~ '^''[0-9]{1,5}-' then pg_catalog.btrim(x.lower_text, '''')::timestamptz end as lower_at,
        case when x.upper_text ~ '^''[0-9]{1,5}-' then pg_catalog.btrim(x.upper_text, '''')::timestamptz end as upper_at
    from texts as x
),
newest as materialized (
    select distinct on (b.relid)
        b.relid, b.relname, b.relkind, b.upper_text, b.lower_at, b.upper_at,
        pg_catalog.count(*) over (partition by b.relid) as partitions
    from bounds as b
    order by b.relid, b.upper_at desc nulls first, b.partition_oid
),
above (relid, attname, member) as (
    select t.partrelid, t.attname, t.partrelid from tables as t
    union all
    select a.relid, a.attname, h.inhparent
    from above as a
    join pg_catalog.pg_inherits as h on h.inhrelid = a.member
    where not exists (select from bounds as b join tables as t on t.partrelid = b.relid
                      where b.partition_oid = a.member and t.attname = a.attname)
),
own as materialized (
    select a.relid, b.lower_at, b.upper_at
    from above as a
    join bounds as b on b.partition_oid = a.member
    join tables as t on t.partrelid = b.relid and t.attname = a.attname
)
select
    pg_catalog.format('%I.%I', n.nspname, c.relname) as table,
    pg_catalog.quote_ident(n.nspname) as schema,
    c.relname::text as table_name,
    pg_catalog.quote_ident(t.attname) as column,
    t.typname::text as column_type,
    coalesce(w.partitions, 0) as partitions,
    w.relname::text as newest_name,
    w.relkind = 'p' as newest_is_partitioned,
    w.upper_text,
    w.relid is not null and w.upper_at is null as is_unbounded,
    extract(epoch from now())::float8 as now_s,
    extract(epoch from w.lower_at)::float8 as lower_s,
    extract(epoch from w.upper_at)::float8 as upper_s,
    extract(epoch from o.lower_at)::float8 as own_lower_s,
    extract(epoch from o.upper_at)::float8 as own_upper_s,
    current_setting('TimeZone') as time_zone,
    pg_catalog.to_char(now()::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as now_local,
    pg_catalog.to_char(w.lower_at::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as lower_local,
    pg_catalog.to_char(w.upper_at::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as upper_local,
    pg_catalog.to_char(now() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as now_utc,
    pg_catalog.to_char(w.lower_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as lower_utc,
    pg_catalog.to_char(w.upper_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as upper_utc,
    case when dc.oid is not null then pg_catalog.format('%I.%I', dn.nspname, dc.relname) end as default_partition,
    greatest(dc.reltuples, pg_catalog.pg_stat_get_live_tuples(dc.oid), 0)::int8 as default_rows
from tables as t
join pg_catalog.pg_class as c on c.oid = t.partrelid and c.relpersistence <> 't'
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join newest as w on w.relid = t.partrelid
left join own as o on o.relid = t.partrelid
left join pg_catalog.pg_class as dc on dc.oid = t.partdefid
left join pg_catalog.pg_namespace as dn on dn.oid = dc.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by n.nspname, c.relname
"""
