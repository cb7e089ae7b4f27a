"""Every index with all that is known of it: one look at the catalog that every check of indexes shares.

The query takes no lock on a user's table, so it answers while the whole schema is locked: sizes are the estimates of
the last VACUUM, ANALYZE or build (``relpages``), and a definition is put together from the catalog.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrunbooks.check import Remedy, Rows

Row = Mapping[str, Any]

# One row an index of a user's schema; indexes of partitions have rows of their own and name the root of their family.
# pg_get_indexdef(), which alone can print an expression, waits behind ACCESS EXCLUSIVE: it is called for indexes with
# an expression, a predicate or opclass parameters only, where nobody holds or awaits that lock (one that arrives in
# between is waited for until lock_timeout), and not at all in a catalog that has more than 2,000 of them. `keys`,
# `opclasses`, `collations` and `options` are pg_index's own vectors; `build` is 'unseen' where another role's session
# may be building. pg_class.relhasindex is no filter: ANALYZE clears it where a failed build is the only index, since
# that one is not maintained. 42 columns: a dict of one more takes twice the room.
_INDEXES = """
with recursive family (member, root) as (
    select h.inhrelid, h.inhparent
    from pg_catalog.pg_inherits as h
    join pg_catalog.pg_class as p on p.oid = h.inhparent
    where p.relkind in ('p', 'I') and not p.relispartition
    union all
    select h.inhrelid, f.root
    from family as f
    join pg_catalog.pg_inherits as h on h.inhparent = f.member
),
here as materialized (
    select d.oid, extract(epoch from now() - coalesce(s.stats_reset, b.stats_reset))::float8 as counters_age_s
    from pg_catalog.pg_database as d
    left join pg_catalog.pg_stat_database as s on s.datid = d.oid
    cross join pg_catalog.pg_stat_bgwriter as b
    where d.datname = pg_catalog.current_database()
),
locked as materialized (
    select distinct l.relation
    from pg_catalog.pg_locks as l
    where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.database = (select h.oid from here as h)
),
builders as materialized (
    select l.relation, pg_catalog.bool_or(a.state = 'active') as is_seen
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_stat_activity as a on a.pid = l.pid
    where l.locktype = 'relation' and l.mode = 'ShareUpdateExclusiveLock' and l.granted
        and l.database = (select h.oid from here as h) and l.pid <> pg_catalog.pg_backend_pid()
        and (
            (a.state = 'active' and a.query ~* '\\m(create\\s+(unique\\s+)?index|reindex|drop\\s+index)\\M')
            or a.state is null or a.state = 'disabled'
        )
    group by l.relation
),
building as materialized (
    select distinct p.index_relid
    from pg_catalog.pg_stat_progress_create_index as p
    where p.datid = (select h.oid from here as h)
),
tables as materialized (
    select
        c.oid, n.nspname, c.relname, c.relpages,
        greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::int8 as table_rows,
        pg_catalog.pg_stat_get_numscans(c.oid) as sequential_scans,
        pg_catalog.pg_stat_get_tuples_inserted(c.oid) as rows_inserted,
        pg_catalog.pg_stat_get_tuples_updated(c.oid) as rows_updated,
        pg_catalog.pg_stat_get_tuples_hot_updated(c.oid) as rows_hot_updated,
        pg_catalog.pg_stat_get_tuples_deleted(c.oid) as rows_deleted
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
),
columns as (
    select
        i.indexrelid,
        pg_catalog.string_agg(
            case when k.attnum = 0 then '(...)' else pg_catalog.quote_ident(a.attname) end
            || case when l.oid is null then ''
                when ln.nspname = 'pg_catalog' then pg_catalog.format(' COLLATE %I', l.collname)
                else pg_catalog.format(' COLLATE %I.%I', ln.nspname, l.collname) end
            || case when o.oid is null then ''
                when os.nspname = 'pg_catalog' then pg_catalog.format(' %I', o.opcname)
                else pg_catalog.format(' %I.%I', os.nspname, o.opcname) end
            || case k.option & 3
                when 1 then ' DESC NULLS LAST' when 2 then ' NULLS FIRST' when 3 then ' DESC' else '' end,
            ', ' order by k.position
        ) filter (where k.position <= i.indnkeyatts) as columns,
        pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by k.position)
            filter (where k.position > i.indnkeyatts) as included
    from tables as t
    join pg_catalog.pg_index as i on i.indrelid = t.oid
    cross join lateral rows from (
        pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]),
        pg_catalog.unnest(i.indcollation::oid[]), pg_catalog.unnest(i.indoption::int2[])
    ) with ordinality as k (attnum, opclass, collation_oid, option, position)
    left join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum and k.attnum <> 0
    left join pg_catalog.pg_collation as l on l.oid = k.collation_oid and l.oid <> a.attcollation
    left join pg_catalog.pg_namespace as ln on ln.oid = l.collnamespace
    left join pg_catalog.pg_opclass as o on o.oid = k.opclass and not o.opcdefault
    left join pg_catalog.pg_namespace as os on os.oid = o.opcnamespace
    group by i.indexrelid
),
parameters as (
    select a.attrelid, pg_catalog.string_agg(a.attnum || ':' || a.attoptions::text, ' ' order by a.attnum) as parameters
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid and c.relkind in ('i', 'I')
    where a.attoptions is not null
    group by a.attrelid
),
supports as (
    select i.indexrelid, pg_catalog.string_agg(f.oid::text, ' ' order by f.oid) as foreign_keys
    from pg_catalog.pg_constraint as f
    join pg_catalog.pg_index as i on i.indrelid = f.conrelid
    join pg_catalog.pg_class as c on c.oid = i.indexrelid
    join pg_catalog.pg_am as m on m.oid = c.relam
    where f.contype = 'f' and {serves_key}
    group by i.indexrelid
),
referenced as (
    select f.conindid, pg_catalog.count(*) as foreign_keys
    from pg_catalog.pg_constraint as f
    where f.contype = 'f'
    group by f.conindid
)
select
    i.indexrelid::int8 as index_oid,
    pg_catalog.format('%I.%I', t.nspname, c.relname) as index,
    i.indrelid::int8 as table_oid,
    pg_catalog.format('%I.%I', t.nspname, t.relname) as table,
    case when rt.oid is not null then pg_catalog.format('%I.%I', rn.nspname, rt.relname) end as root_table,
    fi.root::int8 as root_index_oid,
    c.relkind = 'I' as is_partitioned,
    m.amname::text as method,
    k.columns,
    k.included,
    i.indkey::text as keys,
    i.indclass::text as opclasses,
    i.indcollation::text as collations,
    i.indoption::text as options,
    p.parameters,
    i.indexprs::text as expressions,
    i.indpred::text as predicate,
    case
        when (i.indexprs is not null or i.indpred is not null or p.parameters is not null) and lk.relation is null
            and (select pg_catalog.count(*) from pg_catalog.pg_index as x
                 where x.indexprs is not null or x.indpred is not null) <= 2000
        then pg_catalog.pg_get_indexdef(i.indexrelid)
    end as definition,
    case
        when not i.indislive then 'dead'
        when i.indisvalid then 'valid'
        when i.indisready then 'invalid'
        else 'invalid, not maintained'
    end as state,
    i.indisunique as is_unique,
    i.indimmediate as is_immediate,
    i.indnullsnotdistinct as nulls_not_distinct,
    i.indisreplident as is_replica_identity,
    i.indisclustered as is_clustered,
    pg_catalog.quote_ident(con.conname) as constraint_name,
    con.contype::text as constraint_type,
    coalesce(r.foreign_keys, 0) as referenced_by,
    s.foreign_keys as supports,
    e.extname::text as extension,
    pg_catalog.concat(
        case when c.reloptions is not null then (
            select pg_catalog.format(' WITH (%s)', pg_catalog.string_agg(
                pg_catalog.quote_ident(w.name) || '=' || case
                    when w.value = pg_catalog.quote_ident(w.value) then w.value else pg_catalog.quote_literal(w.value)
                end, ', ' order by w.n
            ))
            from pg_catalog.pg_options_to_table(c.reloptions) with ordinality as w (name, value, n)
        ) end,
        ' TABLESPACE ' || pg_catalog.quote_ident(ts.spcname)
    ) as storage,
    c.relpages::int8 * current_setting('block_size')::int8 as size_bytes,
    pg_catalog.pg_stat_get_numscans(i.indexrelid) as scans,
    {last_scan} as last_scan_s,
    pg_catalog.pg_stat_get_tuples_returned(i.indexrelid) as entries_read,
    t.relpages::int8 * current_setting('block_size')::int8 as table_bytes,
    t.table_rows,
    t.sequential_scans,
    t.rows_inserted,
    t.rows_updated,
    t.rows_hot_updated,
    t.rows_deleted,
    case
        when b.index_relid is not null or w.is_seen then 'running'
        when w.relation is not null then 'unseen'
    end as build,
    (select h.counters_age_s from here as h) as counters_age_s
from tables as t
join pg_catalog.pg_index as i on i.indrelid = t.oid
join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_am as m on m.oid = c.relam
join columns as k on k.indexrelid = i.indexrelid
left join family as fi on fi.member = i.indexrelid
left join family as ft on ft.member = i.indrelid
left join pg_catalog.pg_class as rt on rt.oid = ft.root
left join pg_catalog.pg_namespace as rn on rn.oid = rt.relnamespace
left join parameters as p on p.attrelid = i.indexrelid
left join supports as s on s.indexrelid = i.indexrelid
left join referenced as r on r.conindid = i.indexrelid
left join pg_catalog.pg_constraint as con
    on con.conindid = i.indexrelid and con.conrelid = i.indrelid and con.contype in ('p', 'u', 'x')
left join pg_catalog.pg_depend as d
    on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indrelid and d.objsubid = 0 and d.deptype = 'e'
left join pg_catalog.pg_extension as e
    on e.oid = d.refobjid and d.refclassid = 'pg_catalog.pg_extension'::regclass
left join pg_catalog.pg_tablespace as ts on ts.oid = c.reltablespace
left join locked as lk on lk.relation = i.indrelid
left join builders as w on w.relation = i.indrelid
left join building as b on b.index_relid = i.indexrelid
order by t.nspname, t.relname, i.indexrelid
"""

# Index i of access method m finds the rows of foreign key f: its leading columns are the key's, in any order, and it
# holds all rows, or (the tree of 'column is not null' and nothing else) all that have a key.
SERVES_KEY = r"""i.indisvalid and m.amname in ('btree', 'hash', 'gist')
        and (
            i.indpred is null
            or (pg_catalog.regexp_match(
                i.indpred::text, '^\{NULLTEST :arg \{VAR :varno 1 :varattno (\d+) [^{}]*\} :nulltesttype 1 '
            ))[1]::int2 = any(f.conkey)
        )
        and i.indnkeyatts >= pg_catalog.cardinality(f.conkey)
        and (i.indkey::int2[])[0:pg_catalog.cardinality(f.conkey) - 1] operator(pg_catalog.@>) f.conkey
        and (i.indkey::int2[])[0:pg_catalog.cardinality(f.conkey) - 1] operator(pg_catalog.<@) f.conkey"""

_LAST_SCAN = "extract(epoch from now() - pg_catalog.pg_stat_get_lastscan(i.indexrelid))::float8"

_WITH_KEYS = _INDEXES.replace("{serves_key}", SERVES_KEY)
SQL: Mapping[int, str] = {
    15: _WITH_KEYS.replace("{last_scan}", "null::float8"),
    16: _WITH_KEYS.replace("{last_scan}", _LAST_SCAN),
}

# Where a node was parsed from differs between two expressions that are the same.
_PARSED_AT = re.compile(r" :(?:location|list_start|list_end) -?\d+")


@dataclass(frozen=True)
class Overlap:
    """Two indexes of one table: everything that ``drop`` does, ``keep`` does too."""

    drop: Row
    keep: Row


def whole(rows: Rows) -> list[Row]:
    """Return the rows, those of partitioned indexes with the size, scans and foreign keys of all their children."""
    children: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        children[row["root_index_oid"]].append(row)
    return [_with(row, children[row["index_oid"]]) if row["is_partitioned"] else row for row in rows]


def _with(row: Row, children: Sequence[Row]) -> Row:
    scanned = [child["last_scan_s"] for child in children if child["last_scan_s"] is not None]
    supports = " ".join(filter(None, (each["supports"] for each in (row, *children))))
    return {
        **row,
        "size_bytes": sum(child["size_bytes"] for child in children),
        "scans": sum(child["scans"] or 0 for child in children),
        "entries_read": sum(child["entries_read"] or 0 for child in children),
        "last_scan_s": min(scanned, default=None),
        "supports": supports or None,
    }


def is_own(row: Row) -> bool:
    """Tell whether an index can be dropped on its own: not one of a partitioned index or of an extension's table."""
    return row["root_index_oid"] is None and row["extension"] is None


def is_bound(row: Row) -> bool:
    """Tell whether a constraint, a foreign key that references its columns, or replication needs this very index."""
    return bool(row["constraint_type"] or row["referenced_by"] or row["is_replica_identity"])


def keys(row: Row) -> list[str]:
    """Return the column numbers of the keys in order; 0 is an expression."""
    return list(row["keys"].split()[: len(row["opclasses"].split())])


def included(row: Row) -> set[str]:
    """Return the column numbers of INCLUDE."""
    return set(row["keys"].split()[len(row["opclasses"].split()) :])


def _tree(text: str | None) -> str | None:
    return _PARSED_AT.sub("", text) if text else None


def _expressions(row: Row) -> list[str]:
    """Return the node tree of each expression, without the places in the text that they were parsed from."""
    parts, depth, start = [], 0, 0
    tree = _tree(row["expressions"]) or ""
    for match in re.finditer(r"\\.|[{}]", tree, re.DOTALL):
        if match[0] == "{":
            start = start if depth else match.start()
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if not depth:
                parts.append(tree[start : match.end()])
    return parts


def duplicates(rows: Rows) -> list[Overlap]:
    """Return every valid index that is a copy of one that stays; uniqueness aside, they differ in nothing.

    The one stays that a constraint, a foreign key or replication needs; else the unique one, the clustered one, the
    oldest. Copies are found within one table; an index of a partitioned table stands for those of its partitions.
    """
    groups: dict[object, list[Row]] = defaultdict(list)
    for row in whole(rows):
        if row["state"] == "valid":
            groups[_signature(row)].append(row)
    found = []
    for group in groups.values():
        stay: list[Row] = []
        for row in sorted(group, key=_rank):
            keep = next((other for other in stay if _may_go(row) and _replaces(other, row)), None)
            if keep:
                found.append(Overlap(row, keep))
            else:
                stay.append(row)
    return found


def _signature(row: Row) -> object:
    return (
        row["table_oid"],
        row["method"],
        tuple(keys(row)),
        frozenset(included(row)),
        *(row[name] for name in ("opclasses", "collations", "options", "parameters")),
        tuple(_expressions(row)),
        _tree(row["predicate"]),
    )


def _rank(row: Row) -> tuple[object, ...]:
    return (
        is_own(row) and not is_bound(row),
        row["constraint_type"] != "p",
        not row["referenced_by"],
        not row["is_replica_identity"],
        not row["is_unique"],
        not row["is_clustered"],
        row["index_oid"],
    )


def _may_go(row: Row) -> bool:
    needed = row["constraint_type"] in ("p", "x") or row["referenced_by"] or row["is_replica_identity"]
    return is_own(row) and not needed and row["is_immediate"]


def _replaces(keep: Row, drop: Row) -> bool:
    """Tell whether ``keep`` guarantees what ``drop`` does: a constraint, uniqueness, at once, the same for nulls."""
    if drop["constraint_type"] and not keep["constraint_type"]:
        return False
    same = keep["is_immediate"] and keep["nulls_not_distinct"] == drop["nulls_not_distinct"]
    return not drop["is_unique"] or (keep["is_unique"] and same)


def prefixes(rows: Rows) -> list[Overlap]:
    """Return every plain btree whose keys another one of the same table begins with; copies apart.

    ``keep`` is the smallest of those that are not themselves covered by another.
    """
    copies = {overlap.drop["index_oid"] for overlap in duplicates(rows)}
    tables: dict[int, list[Row]] = defaultdict(list)
    for row in whole(rows):
        if row["state"] == "valid" and row["method"] == "btree" and row["index_oid"] not in copies:
            tables[row["table_oid"]].append(row)
    found = []
    for indexes in tables.values():
        covering = {
            row["index_oid"]: [wide for wide in indexes if _covers(wide, row)]
            for row in indexes
            if is_own(row) and not is_bound(row) and not row["is_unique"] and not row["is_clustered"]
        }
        for row in indexes:
            stay = [wide for wide in covering.get(row["index_oid"], ()) if not covering.get(wide["index_oid"])]
            if stay:
                found.append(Overlap(row, min(stay, key=lambda wide: (len(keys(wide)), wide["index_oid"]))))
    return found


def _covers(wide: Row, narrow: Row) -> bool:
    length = len(keys(narrow))
    if keys(wide)[:length] != keys(narrow) or wide["index_oid"] == narrow["index_oid"]:
        return False
    for name in ("opclasses", "collations", "options"):
        if wide[name].split()[:length] != narrow[name].split():
            return False
    more = len(keys(wide)) > length or included(narrow) < included(wide)
    expressions = _expressions(narrow)
    return (
        more
        and included(narrow) <= included(wide) | set(keys(wide))
        and _expressions(wide)[: len(expressions)] == expressions
        and _tree(wide["predicate"]) == _tree(narrow["predicate"])
    )


def definition(row: Row) -> str:
    """Return CREATE INDEX as PostgreSQL prints it; (...) stands for expressions that could not be read."""
    if row["definition"]:
        return str(row["definition"]).replace(" ON ONLY ", " ON ", 1)
    return "".join(
        (
            "CREATE UNIQUE INDEX " if row["is_unique"] else "CREATE INDEX ",
            f"{name(row)} ON {row['table']} USING {row['method']} ({row['columns']})",
            f" INCLUDE ({row['included']})" if row["included"] else "",
            " NULLS NOT DISTINCT" if row["nulls_not_distinct"] else "",
            row["storage"] or "",
            " WHERE (...)" if row["predicate"] else "",
        )
    )


def name(row: Row) -> str:
    """Return the name of an index without its schema, quoted where it has to be."""
    return re.findall(r'"(?:[^"]|"")*"|[^."]+', row["index"])[-1]  # type: ignore[no-any-return]


def undo(row: Row) -> str:
    """Return the statements that make an index again, or how to get them where its expressions cannot be read."""
    if not row["definition"] and (row["expressions"] or row["predicate"] or row["parameters"]):
        return f"keep what this prints, before the drop: select pg_catalog.pg_get_indexdef({row['index_oid']});"
    if row["constraint_type"] and row["is_partitioned"]:  # USING INDEX does not work there
        nulls = " nulls not distinct" if row["nulls_not_distinct"] else ""
        columns = f"({row['columns']})" + (f" include ({row['included']})" if row["included"] else "")
        return f"alter table {row['table']} add constraint {row['constraint_name']} unique{nulls} {columns};"
    text = definition(row)
    if not row["is_partitioned"]:
        text = re.sub(r"^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", text)
    if row["constraint_type"]:
        text += f"; alter table {row['table']} add constraint {row['constraint_name']} unique using index {name(row)}"
    if row["is_clustered"]:
        text += f"; alter table {row['table']} cluster on {name(row)}"
    return f"{text};"


def drop(row: Row, title: str) -> Remedy:
    """Return the remedy that drops an index as gently as its kind allows, with the statements that make it again."""
    if row["constraint_type"]:
        statement = f"alter table {row['table']} drop constraint {row['constraint_name']};"
    elif row["is_partitioned"]:
        statement = f"drop index {row['index']};"
    else:
        return Remedy(
            title,
            sql=f"drop index concurrently {row['index']};",
            risk="low",
            locks="SHARE UPDATE EXCLUSIVE on the table: reads and writes go on; it waits for transactions to end",
            undo=undo(row),
        )
    where = "the table and all its partitions" if row["is_partitioned"] else "the table"
    return Remedy(
        title,
        sql=f"begin;\nset local lock_timeout = '2s';\n{statement}\ncommit;",
        risk="high",
        locks=f"ACCESS EXCLUSIVE on {where}, for a moment; gives up after 2 s of waiting for it",
        undo=undo(row),
    )


def evidence(row: Row, **more: object) -> Row:
    """Return what a person compares two indexes by; the size is an estimate of the last VACUUM, ANALYZE or build."""
    return {
        **more,
        "index": row["index"],
        "definition": definition(row),
        "scans": row["scans"],
        **({"last_scan_s": row["last_scan_s"]} if row["last_scan_s"] is not None else {}),
        "size_bytes": row["size_bytes"],
    }
