"""What the advisor knows of the tables: columns with their statistics, indexes, and how much is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError

from pgrunbooks.advice.accesses import AmbiguousName, Found
from pgrunbooks.advice.expressions import plain_expression, quoted, unquoted
from pgrunbooks.session import Session
from pgrunbooks.sizes import locked

# Only libc's C and POSIX and the collations that the server brings itself sort by the bytes; ICU never does.
_COLUMNS = """
select
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as "table",
    a.attname::text as column,
    t.typname::text as type,
    t.typcategory::text as category,
    case
        when a.attcollation = 0 then true
        when l.collname = 'default' then
            d.datlocprovider = 'b' or d.datlocprovider = 'c' and d.datcollate in ('C', 'POSIX')
        else l.collprovider = 'b' or l.collprovider = 'c' and l.collcollate in ('C', 'POSIX')
    end as sorts_bytes,
    s.null_frac::float8,
    s.n_distinct::float8,
    s.correlation::float8,
    coalesce(s.avg_width, case when t.typlen > 0 then t.typlen else 32 end)::int4 as width,
    case when t.typcategory <> 'A' then s.most_common_vals::text::text[] end as common_values,
    case when t.typcategory <> 'A' then s.most_common_freqs::float8[] end as common_shares,
    case when t.typcategory <> 'A' then s.histogram_bounds::text::text[] end as bounds
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type as t on t.oid = a.atttypid
join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
left join pg_catalog.pg_collation as l on l.oid = a.attcollation
left join lateral (
    select st.null_frac, st.n_distinct, st.correlation, st.avg_width, st.most_common_vals, st.most_common_freqs,
        st.histogram_bounds
    from pg_catalog.pg_stats as st
    where st.schemaname = n.nspname and st.tablename = c.relname and st.attname = a.attname
    order by st.inherited desc
    limit 1
) as s on true
where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and c.oid = any(%(oids)s::oid[])
order by c.oid, a.attnum
"""

_RELATIONS = """
with recursive family (member, root) as (
    select h.inhrelid, h.inhparent
    from pg_catalog.pg_inherits as h
    join pg_catalog.pg_class as p on p.oid = h.inhparent
    where p.relkind = 'p'
    union all
    select f.member, h.inhparent
    from family as f
    join pg_catalog.pg_inherits as h on h.inhrelid = f.root
),
heirs (member, root) as (
    select h.inhrelid, h.inhparent
    from pg_catalog.pg_inherits as h
    join pg_catalog.pg_class as p on p.oid = h.inhparent
    where p.relkind = 'r'
    union
    select h.inhrelid, f.root
    from heirs as f
    join pg_catalog.pg_inherits as h on h.inhparent = f.member
),
members as (
    select f.root as oid, f.member from family as f
    union all
    select c.oid, c.oid from pg_catalog.pg_class as c where c.relkind in ('r', 'm')
),
inherited as (
    select
        f.root as oid,
        pg_catalog.array_agg(pg_catalog.format('%%I.%%I', n.nspname, c.relname) order by c.oid) as heirs
    from heirs as f
    join pg_catalog.pg_class as c on c.oid = f.member and c.relkind = 'r'
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    group by f.root
),
sums as (
    select
        m.oid,
        sum(greatest(c.reltuples, 0))::float8 as rows,
        sum(c.relpages)::int8 as pages,
        sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid))::int8 as inserted,
        sum(pg_catalog.pg_stat_get_tuples_updated(c.oid))::int8 as updated,
        sum(pg_catalog.pg_stat_get_tuples_hot_updated(c.oid))::int8 as hot_updated,
        pg_catalog.array_agg(pg_catalog.format('%%I.%%I', n.nspname, c.relname) order by c.oid)
            filter (where c.relkind = 'r') as members
    from members as m
    join pg_catalog.pg_class as c on c.oid = m.member
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    group by m.oid
)
select
    c.oid::int8 as oid,
    n.nspname::text as schema,
    c.relname::text as name,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as "table",
    c.relkind::text as kind,
    coalesce(s.rows, 0) as rows,
    coalesce(s.pages, 0) as pages,
    coalesce(s.inserted, 0) as inserted,
    coalesce(s.updated, 0) as updated,
    coalesce(s.hot_updated, 0) as hot_updated,
    case when c.relkind = 'p' then coalesce(s.members, '{}') end as partitions,
    coalesce(h.heirs, '{}') as heirs,
    pg_catalog.array_position(pg_catalog.current_schemas(false), n.nspname) as place,
    case when c.relkind = 'v' and c.oid <> all(%(locked)s::oid[]) then pg_catalog.pg_get_viewdef(c.oid) end
        as definition
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join sums as s on s.oid = c.oid
left join inherited as h on h.oid = c.oid
where c.relkind in ('r', 'p', 'm', 'v') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by c.oid
"""

_INDEXES = """
select
    pg_catalog.format('%%I.%%I', n.nspname, x.relname) as name,
    pg_catalog.format('%%I.%%I', tn.nspname, t.relname) as "table",
    pg_catalog.pg_get_indexdef(i.indexrelid) as definition,
    i.indisunique as is_unique,
    i.indisunique or i.indisexclusion or i.indisreplident or x.relispartition or exists (
        select 1 from pg_catalog.pg_constraint as k where k.conindid = i.indexrelid
    ) as is_bound,
    x.relpages::int8 * current_setting('block_size')::int8 as size_bytes
from pg_catalog.pg_index as i
join pg_catalog.pg_class as x on x.oid = i.indexrelid
join pg_catalog.pg_namespace as n on n.oid = x.relnamespace
join pg_catalog.pg_class as t on t.oid = i.indrelid
join pg_catalog.pg_namespace as tn on tn.oid = t.relnamespace
where i.indisvalid and t.oid = any(%(oids)s::oid[])
order by i.indexrelid
"""


@dataclass(frozen=True)
class Column:
    """A column with its statistics; ``sorts_bytes``: a btree on it can answer LIKE 'abc%' without another opclass."""

    name: str
    type: str
    category: str
    sorts_bytes: bool = True
    null_frac: float = 0.0
    n_distinct: float = 0.0
    correlation: float | None = None
    width: int = 8
    common: Mapping[str, float] = field(default_factory=dict)
    bounds: tuple[str, ...] = ()

    def distinct(self, rows: float) -> float:
        """Return the number of distinct values; where nothing is known, as many as the planner assumes."""
        if self.n_distinct == 0:
            return min(rows, 200.0)
        return self.n_distinct if self.n_distinct > 0 else max(1.0, -self.n_distinct * rows)


@dataclass(frozen=True)
class Existing:
    """An index that is there: ``keys`` in the words of CREATE INDEX, as candidates have them."""

    name: str
    table: str
    method: str
    keys: tuple[str, ...]
    include: tuple[str, ...]
    where: str | None
    expressions: tuple[str, ...]
    definition: str
    is_unique: bool
    is_bound: bool
    size_bytes: int


@dataclass(frozen=True)
class Table:
    """A table, the sums of its partitions where it has some; what is written counts since the last reset."""

    name: str
    oid: int
    rows: float
    pages: int
    inserted: int = 0
    updated: int = 0
    hot_updated: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict)
    indexes: tuple[Existing, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """The relations of a database by name; the details of a table only for those that the workload touches."""

    relations: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Table]
    extensions: frozenset[str]

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the names that are taken in any schema, without their quotes."""
        indexes = (it.name for table in self.tables.values() for it in table.indexes)
        return frozenset((*(row["name"] for row in self.relations), *(unquoted(name) for name in indexes)))

    @cached_property
    def _columns(self) -> Mapping[str, Sequence[str]]:
        return {name: tuple(table.columns) for name, table in self.tables.items()}

    @cached_property
    def _by_name(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        named = defaultdict(list)
        for row in self.relations:
            named[row["name"]].append(row)
        return named

    def partitions(self, table: str) -> Sequence[str] | None:
        """Return the partitions of a partitioned table that hold rows, on any level; None for any other table."""
        return next(row["partitions"] for row in self.relations if row["table"] == table)  # type: ignore[no-any-return]

    @cached_property
    def heirs(self) -> Mapping[str, Sequence[str]]:
        """Return the tables that inherit from each that has some: who reads it reads them too."""
        return {row["table"]: row["heirs"] for row in self.relations if row["heirs"]}

    def find(self, schema: str | None, name: str, path: Sequence[str] = ()) -> Found | None:
        """Return the relation that a statement means by a name.

        Without a schema it is the first one on the search path, else on that of this session, else the only one of
        that name: an application may set a search path of its own. Raises AmbiguousName where there are several.
        """
        rows = self._by_name.get(name, ())
        if schema:
            rows = [row for row in rows if row["schema"] == schema]
        elif meant := [row for place in path for row in rows if row["schema"] == place]:
            rows = meant[:1]
        else:
            placed = sorted((row for row in rows if row["place"]), key=lambda row: row["place"])
            rows = placed[:1] or rows
        if not rows:
            return None
        if len(rows) > 1:
            raise AmbiguousName(name, [it["schema"] for it in sorted(rows, key=lambda it: -it["rows"])])
        row = rows[0]
        return row["table"], row["definition"] or self._columns.get(row["table"], ())


def read_catalog(session: Session, names: set[str] | None = None) -> Catalog:
    """Return the catalog with the details of the tables of those names; None: of all tables."""
    in_the_way = locked(session)  # who prints a definition waits for the lock
    relations = session.rows(_RELATIONS, {"locked": sorted(in_the_way)})
    wanted = [row for row in relations if row["kind"] != "v" and (names is None or row["table"] in names)]
    oids = {"oids": [row["oid"] for row in wanted]}
    columns: dict[str, dict[str, Column]] = defaultdict(dict)
    for row in session.rows(_COLUMNS, oids):
        columns[row["table"]][row["column"]] = _column(row)
    indexes: dict[str, list[Existing]] = defaultdict(list)
    for row in session.rows(_INDEXES, {"oids": sorted(set(oids["oids"]) - in_the_way)}):
        indexes[row["table"]].append(_existing(row))
    tables = {
        row["table"]: Table(
            row["table"],
            row["oid"],
            row["rows"],
            row["pages"],
            row["inserted"],
            row["updated"],
            row["hot_updated"],
            columns[row["table"]],
            tuple(indexes[row["table"]]),
        )
        for row in wanted
    }
    return Catalog(relations, tables, frozenset(session.server.extensions))


def _column(row: Mapping[str, Any]) -> Column:
    common = dict(zip(row["common_values"] or (), row["common_shares"] or (), strict=False))
    return Column(
        name=row["column"],
        type=row["type"],
        category=row["category"],
        sorts_bytes=row["sorts_bytes"],
        null_frac=row["null_frac"] or 0.0,
        n_distinct=row["n_distinct"] or 0.0,
        correlation=row["correlation"],
        width=row["width"],
        common=common,
        bounds=tuple(row["bounds"] or ()),
    )


def _existing(row: Mapping[str, Any]) -> Existing:
    """Take apart a definition as the server prints it."""
    try:
        node: Any = parse_sql(row["definition"])[0].stmt
    except ParseError:  # a newer server's syntax: known by name and size only
        return Existing(
            row["name"], row["table"], "", (), (), None, (), row["definition"], True, True, row["size_bytes"]
        )
    return Existing(
        name=row["name"],
        table=row["table"],
        method=node.accessMethod or "btree",
        keys=tuple(_key(element) for element in node.indexParams),
        include=tuple(quoted(element.name) for element in node.indexIncludingParams or ()),
        where=plain_expression(node.whereClause) if node.whereClause else None,
        expressions=tuple(plain_expression(it.expr) for it in node.indexParams if it.expr is not None),
        definition=row["definition"],
        is_unique=row["is_unique"],
        is_bound=row["is_bound"],
        size_bytes=row["size_bytes"],
    )


def _key(element: Any) -> str:
    if element.name:
        text = quoted(element.name)
    else:
        body = plain_expression(element.expr)
        text = body if isinstance(element.expr, ast.FuncCall) else f"({body})"
    parts = [text]
    if element.opclass:
        name = element.opclass[-1].sval
        parts.append("text_pattern_ops" if name == "varchar_pattern_ops" else name)  # one family, the same entries
    if int(element.ordering) == 2:
        parts.append("DESC")
    nulls = int(element.nulls_ordering)
    if nulls:
        parts.append("NULLS FIRST" if nulls == 1 else "NULLS LAST")
    return " ".join(parts)
