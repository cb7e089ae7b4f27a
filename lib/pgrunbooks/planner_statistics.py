"""Planner statistics, put into the what-if lab: as pg_dump wrote them, or of an expression that nobody analyzed.

PostgreSQL restores statistics itself since 18. An older lab gets the same rows of pg_statistic from here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from pglast import ast, parse_sql
from psycopg import sql
from psycopg.rows import dict_row

_RESTORES_ITSELF = 18  # the first major version that does
_SLOTS = range(1, 6)  # of a row of pg_statistic
_FLOAT8, _FLOAT8_LESS = 701, 672  # its type, and its operator <

Given = Mapping[str, Any]
"""The arguments of pg_restore_relation_stats or pg_restore_attribute_stats, by name; arrays as PostgreSQL writes them.

https://www.postgresql.org/docs/18/functions-admin.html#FUNCTIONS-ADMIN-STATSMOD
"""

# A superuser alone may write pg_statistic, and to read a value may run code of production's, such as the check of a
# domain: the lab's role reads the values, and this view writes them.
_DOOR = """
set allow_system_table_mods = on;
create view pg_catalog.pgrunbooks_statistic as select * from pg_catalog.pg_statistic;
grant select, insert on pg_catalog.pgrunbooks_statistic to {role};
reset allow_system_table_mods
"""

# The default btree operators of a type: of its own operator class, that of the type that it is read as, or that of all
# types of its sort.
_OPERATORS = """(
    select
        (
            select l.amopopr from pg_catalog.pg_amop as l
            where l.amopfamily = c.opcfamily and l.amopstrategy = 1
                and l.amoplefttype = c.opcintype and l.amoprighttype = c.opcintype
        ) as less,
        (
            select e.amopopr from pg_catalog.pg_amop as e
            where e.amopfamily = c.opcfamily and e.amopstrategy = 3
                and e.amoplefttype = c.opcintype and e.amoprighttype = c.opcintype
        ) as equal
    from pg_catalog.pg_opclass as c
    join pg_catalog.pg_am as m on m.oid = c.opcmethod and m.amname = 'btree'
    join pg_catalog.pg_type as i on i.oid = c.opcintype
    join pg_catalog.pg_type as t on t.oid = {type}
    left join pg_catalog.pg_cast as k
        on k.castsource = t.oid and k.casttarget = i.oid and k.castmethod = 'b' and k.castcontext = 'i'
    where c.opcdefault and (
        i.oid = t.oid
        or k.oid is not null
        or i.typname = case
            when t.typtype = 'e' then 'anyenum'
            when t.typtype = 'r' then 'anyrange'
            when t.typtype = 'm' then 'anymultirange'
            when t.typtype = 'c' then 'record'
            when t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc then 'anyarray'
        end
    )
    order by i.oid = t.oid desc, i.typispreferred desc, i.oid
    limit 1
)"""

# Types and operators of the columns of a relation. A domain is what it is made of, a tsvector has texts, and a key of
# an index is what its expression gives, whatever the index makes of it.
_COLUMNS = f"""
with recursive
    bases (attnum, oid) as (
        select
            a.attnum,
            case
                when coalesce(o.opckeytype, 0) = 0 then a.atttypid
                when o.opcintype = 'pg_catalog.anyarray'::regtype then k.typarray
                else o.opcintype
            end
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_type as k on k.oid = a.atttypid
        left join pg_catalog.pg_index as i on i.indexrelid = a.attrelid and a.attnum <= i.indnkeyatts
        left join pg_catalog.pg_opclass as o on o.oid = i.indclass[a.attnum - 1]
        where a.attrelid = pg_catalog.format('%%I.%%I', %(schema)s::text, %(relation)s::text)::regclass
            and a.attnum > 0 and not a.attisdropped
        union all
        select b.attnum, t.typbasetype
        from bases as b
        join pg_catalog.pg_type as t on t.oid = b.oid and t.typtype = 'd'
    ),
    columns as (
        select
            b.attnum,
            t.oid,
            case
                when t.oid = 'pg_catalog.tsvector'::regtype then 'pg_catalog.text'::regtype
                when t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc then t.typelem
            end as element,
            coalesce((select r.rngtypid from pg_catalog.pg_range as r where r.rngmultitypid = t.oid), t.oid) as range
        from bases as b
        join pg_catalog.pg_type as t on t.oid = b.oid and t.typtype <> 'd'
    )
select
    a.attrelid::int8 as relation,
    a.attnum::int4 as attnum,
    a.attname as attname,
    it.oid::int8 as type,
    coalesce(it.element, 0)::int8 as element,
    it.range::int8 as range,
    (case when it.oid = 'pg_catalog.tsvector'::regtype then 100 else a.attcollation end)::int8 as collation,
    coalesce(own.less, 0)::int8 as less,
    coalesce(own.equal, 0)::int8 as equal,
    coalesce(of_element.equal, 0)::int8 as element_equal
from columns as it
join pg_catalog.pg_attribute as a
    on a.attnum = it.attnum
    and a.attrelid = pg_catalog.format('%%I.%%I', %(schema)s::text, %(relation)s::text)::regclass
left join lateral {_OPERATORS.format(type="it.oid")} as own on true
left join lateral {_OPERATORS.format(type="it.element")} as of_element on true
order by a.attnum
"""

_COUNTS = """
update pg_catalog.pg_class
set relpages = %(relpages)s, reltuples = %(reltuples)s, relallvisible = %(relallvisible)s
where oid = pg_catalog.format('%%I.%%I', %(schemaname)s::text, %(relname)s::text)::regclass
"""

_SLOT = "%(kind{n})s, %(operator{n})s, %(collation{n})s, %(numbers{n})s::real[],"
_SLOT += " pg_catalog.array_in(%(values{n})s::cstring, %(type{n})s, -1)"
_INSERT = f"""
insert into pg_catalog.pgrunbooks_statistic (
    starelid, staattnum, stainherit, stanullfrac, stawidth, stadistinct,
    {", ".join(f"stakind{n}, staop{n}, stacoll{n}, stanumbers{n}, stavalues{n}" for n in _SLOTS)}
) values (
    %(relation)s, %(attnum)s, %(inherited)s, %(null_frac)s, %(avg_width)s, %(n_distinct)s,
    {", ".join(_SLOT.format(n=n) for n in _SLOTS)}
)
on conflict do nothing
"""

# PostgreSQL's own way, of what an expression can have.
_RESTORE = """
select pg_catalog.pg_restore_attribute_stats(
    'schemaname', %(schemaname)s::text, 'relname', %(relname)s::text, 'attname', %(attname)s::text,
    'inherited', %(inherited)s::boolean,
    'null_frac', %(null_frac)s::real, 'avg_width', %(avg_width)s::int4, 'n_distinct', %(n_distinct)s::real,
    'most_common_vals', %(most_common_vals)s::text, 'most_common_freqs', %(most_common_freqs)s::real[],
    'histogram_bounds', %(histogram_bounds)s::text, 'correlation', %(correlation)s::real
)
"""


def prepare(owner: psycopg.Connection, role: str) -> None:
    """Let ``role`` write statistics into the database of a superuser's connection, where no function would."""
    if not _restores_itself(owner):
        owner.execute(sql.SQL(_DOOR).format(role=sql.Identifier(role)))


def restore(dumped: str, owner: psycopg.Connection, planner: psycopg.Connection) -> None:
    """Run what pg_dump wrote of the statistics of one relation; raises psycopg.Error where there is none of its name.

    ``owner`` is a superuser's connection, ``planner`` that of the role that owns the relation.
    """
    if _restores_itself(planner):
        planner.execute(dumped.encode())
        return
    calls = list(_calls(dumped))
    for given in (given for function, given in calls if function == "pg_restore_relation_stats"):
        owner.execute(_COUNTS, given)
    attributes = [given for function, given in calls if function == "pg_restore_attribute_stats"]
    if attributes:
        _write(attributes, planner)


def give(given: Given, planner: psycopg.Connection) -> None:
    """Set the statistics of a column or of a key of an index; raises psycopg.Error."""
    if not _restores_itself(planner):
        _write([given], planner)
        return
    with planner.transaction():
        planner.execute("set transaction read write")
        planner.execute(_RESTORE, given)


def _restores_itself(connection: psycopg.Connection) -> bool:
    return connection.info.server_version // 10_000 >= _RESTORES_ITSELF


def _calls(dumped: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each function that a ``select * from`` calls, with its arguments: pairs of a name and a value."""
    for raw in parse_sql(dumped):
        call = raw.stmt.fromClause[0].functions[0][0]
        values = [_text(argument) for argument in call.args]
        yield call.funcname[-1].sval, dict(zip(values[::2], values[1::2], strict=True))


def _text(argument: ast.Node) -> Any:
    constant = argument.arg if isinstance(argument, ast.TypeCast) else argument
    return None if constant.isnull else constant.val.sval


def _write(attributes: Sequence[Given], planner: psycopg.Connection) -> None:
    """Write rows of pg_statistic for columns of one relation."""
    relation = {"schema": attributes[0]["schemaname"], "relation": attributes[0]["relname"]}
    columns = planner.cursor(row_factory=dict_row).execute(_COLUMNS.encode(), relation, prepare=True).fetchall()
    named, numbered = ({column[by]: column for column in columns} for by in ("attname", "attnum"))
    rows = [
        _row(named[given["attname"]] if "attname" in given else numbered[int(given["attnum"])], given)
        for given in attributes
    ]
    try:
        _insert(rows, planner)
    except psycopg.Error:  # a value that cannot be read any more: its column goes without, alone
        for row in rows:
            with contextlib.suppress(psycopg.Error):
                _insert([row], planner)


def _insert(rows: Sequence[Mapping[str, Any]], planner: psycopg.Connection) -> None:
    with planner.transaction():
        planner.execute("set transaction read write")
        planner.cursor().executemany(_INSERT.encode(), rows)


def _row(column: Mapping[str, Any], given: Given) -> dict[str, Any]:
    row = {"relation": column["relation"], "attnum": column["attnum"], "inherited": given["inherited"]}
    row |= {name: given[name] for name in ("null_frac", "avg_width", "n_distinct")}
    empty = (0, 0, 0, None, None, 0)
    slots = list(_slots(column, given))
    for number, slot in zip(_SLOTS, [*slots, *[empty] * len(_SLOTS)], strict=False):
        names = ("kind", "operator", "collation", "numbers", "values", "type")
        row |= {f"{name}{number}": value for name, value in zip(names, slot, strict=True)}
    return row


def _slots(column: Mapping[str, Any], given: Given) -> Iterator[tuple[int, int, int, str | None, str | None, int]]:
    """Yield kind, operator, collation, numbers, values and their type of each kind of statistics that there is.

    The kinds are those of src/include/catalog/pg_statistic.h, filled as src/backend/statistics/attribute_stats.c does.
    """
    own, collation = column["type"], column["collation"]
    equal, less, element_equal = column["equal"], column["less"], column["element_equal"]
    for kind, operator, numbers, values, type_ in (
        (1, equal, given.get("most_common_freqs"), given.get("most_common_vals"), own),
        (2, less, None, given.get("histogram_bounds"), own),
        (3, less, _alone(given.get("correlation")), None, 0),
        (4, element_equal, given.get("most_common_elem_freqs"), given.get("most_common_elems"), column["element"]),
        (5, element_equal, given.get("elem_count_histogram"), None, 0),
        (6, _FLOAT8_LESS, _alone(given.get("range_empty_frac")), given.get("range_length_histogram"), _FLOAT8),
        (7, 0, None, given.get("range_bounds_histogram"), column["range"]),
    ):
        if numbers or values:
            yield kind, operator, collation if kind < 6 else 0, numbers, values, type_


def _alone(number: str | float | None) -> str | None:
    return None if number is None else f"{{{number}}}"
