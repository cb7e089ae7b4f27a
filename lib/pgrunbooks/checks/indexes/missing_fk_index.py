"""Which foreign keys have no index on the referencing side?

Deleting a row of the parent, or changing its key, looks for the rows that reference it: without an index that is a
sequential scan of the child for each row, while the parent's row stays locked. An index serves where its leading
columns are the key's, in any order, if it is valid and holds every row but those whose key is null. Grave where the
parent sees deletes, or where ON DELETE or ON UPDATE acts on the child. The server does not count updates of a key, and
updates that are not HOT say little of them, so that these are shown and decide nothing. Partitions are judged through
the constraint of their root.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._indexes import SERVES_KEY, Row

# One row a foreign key, those of partitions included; it opens no user's table.
_FOREIGN_KEYS = """
select
    f.oid::int8 as constraint_oid,
    nullif(f.conparentid, 0)::int8 as parent_oid,
    pg_catalog.format('%I.%I %I', n.nspname, c.relname, f.conname) as constraint,
    pg_catalog.format('%I.%I', n.nspname, c.relname) as table,
    pg_catalog.quote_ident(n.nspname) as schema,
    c.relname::text as table_name,
    c.oid::int8 as table_oid,
    c.relkind = 'p' as is_partitioned,
    k.columns,
    k.column_names,
    exists (
        select from pg_catalog.pg_class as x
        where x.relnamespace = c.relnamespace
            and x.relname = pg_catalog.concat(c.relname, '_', k.column_names, '_idx')::name
    ) as is_name_taken,
    greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::int8 as table_rows,
    pg_catalog.format('%I.%I', rn.nspname, r.relname) as referenced_table,
    r.oid::int8 as referenced_oid,
    f.confdeltype::text as on_delete,
    f.confupdtype::text as on_update,
    pg_catalog.pg_stat_get_tuples_deleted(r.oid) as referenced_deleted,
    pg_catalog.pg_stat_get_tuples_updated(r.oid) - pg_catalog.pg_stat_get_tuples_hot_updated(r.oid)
        as referenced_updated_not_hot,
    (
        select pg_catalog.count(*)
        from pg_catalog.pg_index as i
        join pg_catalog.pg_class as ic on ic.oid = i.indexrelid
        join pg_catalog.pg_am as m on m.oid = ic.relam
        where i.indrelid = f.conrelid and {serves_key}
    ) as supporting_indexes
from pg_catalog.pg_constraint as f
join pg_catalog.pg_class as c on c.oid = f.conrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_class as r on r.oid = f.confrelid
join pg_catalog.pg_namespace as rn on rn.oid = r.relnamespace
cross join lateral (
    select
        pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by k.position) as columns,
        pg_catalog.string_agg(a.attname, '_' order by k.position) as column_names
    from pg_catalog.unnest(f.conkey) with ordinality as k (attnum, position)
    join pg_catalog.pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.attnum
) as k
where f.contype = 'f' and {enforced} and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.objsubid = 0 and d.deptype = 'e'
    )
order by n.nspname, c.relname, f.conname, f.oid
"""

_WITH_KEYS = _FOREIGN_KEYS.replace("{serves_key}", SERVES_KEY)
SQL: Mapping[int, str] = {
    15: _WITH_KEYS.replace("{enforced}", "true"),
    18: _WITH_KEYS.replace("{enforced}", "f.conenforced"),
}

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each foreign key without an index, those of partitions as one, on tables of ``min_rows`` rows."""
    parents = {row["constraint_oid"]: row["parent_oid"] for row in rows}
    families: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        root = row["constraint_oid"]
        while parents.get(root) in parents:
            root = parents[root]
        families[root].append(row)
    for root in (row for row in rows if row["constraint_oid"] in families):
        family = families[root["constraint_oid"]]
        tables = {row["table_oid"]: row for row in family if not row["is_partitioned"]}
        missing = [row for row in tables.values() if not row["supporting_indexes"]]
        if missing and sum(row["table_rows"] for row in tables.values()) >= limits["min_rows"]:
            yield _finding(root, family, missing, tables)


def _finding(root: Row, family: Rows, missing: Sequence[Row], tables: Mapping[int, Row]) -> Finding:
    referenced = {row["referenced_oid"]: row for row in family}.values()
    deleted = sum(row["referenced_deleted"] or 0 for row in referenced)
    acts = [
        f"ON {event} {_ACTIONS[root[key]]}"
        for event, key in (("DELETE", "on_delete"), ("UPDATE", "on_update"))
        if root[key] in _ACTIONS
    ]
    count = sum(row["table_rows"] for row in tables.values())
    seen = f"{deleted:,} rows of {root['referenced_table']} were deleted" if deleted else ""
    why = " and ".join(filter(None, (seen, f"the key acts {' and '.join(acts)}" if acts else "")))
    partitions = f" on {len(missing)} of {len(tables)} partitions" if root["is_partitioned"] else ""
    return Finding(
        severity="warning" if why else "info",
        kind="constraint",
        name=root["constraint"],
        title=f"Foreign key {root['constraint']} has no index on ({root['columns']}): {count:,} rows{partitions}",
        impact=f"Each delete or key change in {root['referenced_table']} reads all of {root['table']}"
        + (f": {why}." if why else "; none has been seen, so it costs nothing yet."),
        evidence=[
            {
                "table": row["table"],
                "columns": row["columns"],
                "table_rows": row["table_rows"],
                "referenced_table": root["referenced_table"],
                "on_delete": _ACTIONS.get(root["on_delete"], "no action"),
                "on_update": _ACTIONS.get(root["on_update"], "no action"),
                "referenced_deleted_rows": deleted,
                "referenced_not_hot_updates": sum(row["referenced_updated_not_hot"] or 0 for row in referenced),
            }
            for row in missing
        ],
        remedies=(_create(root, missing, whole=root["is_partitioned"] and len(missing) == len(tables)),),
    )


def _create(root: Row, missing: Sequence[Row], *, whole: bool) -> Remedy:
    """Return the statements that build what is missing; ``whole``: and the partitioned index that adopts it."""
    names = [_index_name(row) for row in missing]
    steps = [
        f"create index concurrently {name} on {row['table']} ({row['columns']});"
        for name, row in zip(names, missing, strict=True)
    ]
    undo = [f"drop index concurrently {row['schema']}.{name};" for name, row in zip(names, missing, strict=True)]
    title = f"Index the referencing columns ({root['columns']})"
    locks = "SHARE UPDATE EXCLUSIVE on the table: reads and writes go on; it waits for transactions to end"
    if root["is_partitioned"]:
        title += " partition by partition: CONCURRENTLY does not work on a partitioned table"
    if whole:
        name = _index_name(root)
        steps.append(f"create index {name} on {root['table']} ({root['columns']});")
        undo = [f"drop index {root['schema']}.{name};"]
        title += "; the last statement adopts them and sees to future partitions"
        locks += "; the last one SHARE on all partitions, for a moment"
    return Remedy(title, sql="\n".join(steps), risk="low", locks=locks, undo="\n".join(undo))


def _index_name(row: Row) -> str:
    """Return a name of at most 63 bytes for the index, quoted where it has to be.

    It is the one that missing-index gives, so that of the same index from both the second one is refused.
    """
    name = f"{row['table_name']}_{row['column_names']}{'_fk_idx' if row['is_name_taken'] else '_idx'}"
    if len(name.encode()) > 63:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[:47].decode(errors='ignore')}_{digest}_fk_idx"
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name)
    return name if plain else '"' + name.replace('"', '""') + '"'


check = Check(
    "missing-fk-index",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK",),
    runbook="index_analysis",
)
