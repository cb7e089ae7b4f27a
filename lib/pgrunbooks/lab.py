"""The what-if lab: production's planner without production's data, to try indexes in.

Schema, statistics, sizes and settings of some tables are put into a private PostgreSQL that is deleted afterwards: one
of production's own major version where its programs are on this machine, else the embedded one.
Its tables are empty; their files are sparse and as large as the real ones, which is where the planner looks. Indexes
are real and empty too, so that PostgreSQL itself says what it can do with them.

Known edges: extended statistics come without their common values, and a range estimate at the end of a histogram may
differ, since there is no index to probe. Another major version's planner has its own mind about some plans.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbooks import blueprint, index_size, planner_statistics, restoration, storage, undumped_statistics
from pgrunbooks.blueprint import Blueprint
from pgrunbooks.check import variant
from pgrunbooks.checks import _btree as btree
from pgrunbooks.checks import _layout as layout
from pgrunbooks.errors import IndexRefusedError, LabError, SandboxError, UnknownNameError
from pgrunbooks.expression_statistics import give_statistics
from pgrunbooks.sandbox import Sandbox, installed_programs, server_major, server_programs, temporary_sandbox
from pgrunbooks.session import Session

_ADDED = "pgrunbooks_"
_DUMPS_STATISTICS = 18  # the first pg_dump that does
_SERVER_SETTINGS = {
    "autovacuum": "off",  # it would truncate the sparse files
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "max_connections": "10",
    "max_parallel_maintenance_workers": "0",  # else CREATE INDEX looks into files that are not ready
    "max_prepared_transactions": "0",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "shared_preload_libraries": "",
    "wal_level": "replica",  # at 'minimal' a commit reads new files into the shared buffers
}
_UNKNOWN_WIDTH = 32  # bytes that the planner takes where nobody analyzed
_AS_DUMPED: Any = {"client_encoding": "utf8"}  # whatever the encoding of the database
_PARAMETER = re.compile(r"\$\d")
_EXPLAINS_GENERIC = 16  # the first major version that can, without values
_STARTED = "'Subplans Removed'"


@dataclass(frozen=True)
class Index:
    """An index that may or may not exist.

    ``table`` is 'schema.table', each part quoted as quote_ident would; ``keys`` are what CREATE INDEX wants of each:
    a column or an (expression), with COLLATE, operator class, DESC and NULLS where they are wanted.
    """

    table: str
    keys: tuple[str, ...]
    method: str = "btree"
    include: tuple[str, ...] = ()
    where: str | None = None
    unique: bool = False

    def statement(self, name: str | None = None, *, concurrently: bool = True) -> str:
        """Return the CREATE INDEX statement; without a ``name`` (quoted) the server chooses one."""
        words = ["create", "unique" if self.unique else "", "index", "concurrently" if concurrently else "", name or ""]
        method = "" if self.method == "btree" else f"using {self.method}"
        include = f"include ({', '.join(self.include)})" if self.include else ""
        words += ["on", self.table, method, f"({', '.join(self.keys)})", include]
        words += [f"where {self.where}" if self.where else ""]
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Plan:
    """What the planner would do: total cost in its units, rows, the 'Plan' of EXPLAIN (FORMAT JSON, VERBOSE).

    ``indexes`` are those that the plan uses: 'schema.index' of real ones, the handle of added ones.
    """

    cost: float
    rows: float
    tree: Mapping[str, Any]
    indexes: frozenset[str]

    def outline(self) -> str:
        """Return the plan in a line a node, without its conditions: they hold values, which may be personal data."""
        return "\n".join(_outline(self.tree, 0))


def _outline(tree: Mapping[str, Any], depth: int) -> Iterator[str]:
    words = [tree["Node Type"]]
    if "Index Name" in tree:
        words.append("using the new index" if tree["Index Name"].startswith(_ADDED) else f"using {tree['Index Name']}")
    if "Relation Name" in tree:
        words.append(f"on {tree['Relation Name']}")
    yield "  " * depth + " ".join(words) + f"  (cost {tree['Total Cost']:,.0f}, rows {tree['Plan Rows']:,.0f})"
    for child in tree.get("Plans", ()):
        yield from _outline(child, depth + 1)


@dataclass(frozen=True)
class Value:
    """A representative value as text; ``frequency`` is its share of the rows, None for a bound of the histogram."""

    text: str
    frequency: float | None


_TREE = """
with recursive tree (oid) as (
    select %(name)s::regclass::oid
    union
    select i.inhrelid from tree join pg_catalog.pg_inherits as i on i.inhparent = tree.oid
)
select
    c.oid::int8 as oid,
    n.nspname as schema,
    c.relname as name,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as relation,
    c.relkind::text as kind,
    c.relpages::int8 as pages,
    c.reltuples::float8 as tuples,
    c.relallvisible::int8 as visible_pages,
    pg_catalog.pg_relation_filepath(c.oid) as path
from tree
join pg_catalog.pg_class as c on c.oid = tree.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
order by c.oid <> %(name)s::regclass, c.oid
"""

# The keys of an added index, and what statistics know of them.
_INDEX = btree.with_keys("""
with indexes as materialized (
    select
        i.indexrelid, i.indrelid, i.indkey, i.indclass, i.indcollation, i.indnatts, i.indnkeyatts, i.indisunique,
        i.indpred, x.relname, t.relname as table_name, t.reltuples, n.nspname, m.amname
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as x on x.oid = i.indexrelid
    join pg_catalog.pg_am as m on m.oid = x.relam
    join pg_catalog.pg_class as t on t.oid = i.indrelid
    join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
    where i.indexrelid = %(oid)s
)
select
    pg_catalog.format('%%I.%%I', i.nspname, i.table_name) as table,
    i.reltuples::float8 as table_rows,
    pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate,
    array(
        select pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
        from pg_catalog.generate_series(1, i.indnatts) as k
    ) as keys,
    i.amname as method,
    current_setting('block_size')::int as page_bytes,
    0.9::float8 as fillfactor,
    i.indpred is not null as is_partial,
    i.indnkeyatts::int as key_columns,
    not i.indisunique and i.indnkeyatts = i.indnatts and k.is_equal_image as deduplicates,
    {keys}
from indexes as i
""")

_VALUES = """
select
    s.most_common_vals::text::text[] as common,
    s.most_common_freqs::float8[] as frequencies,
    s.histogram_bounds::text::text[] as bounds
from pg_catalog.pg_stats as s
where pg_catalog.format('%%I.%%I', s.schemaname, s.tablename) = %(table)s
    and (s.attname = %(column)s or pg_catalog.quote_ident(s.attname) = %(column)s)
order by s.inherited desc
limit 1
"""


# Of a prepared statement: what each type is made of, since a domain may refuse the null that stands for any value.
_PARAMETERS = """
with recursive parameters (place, type, depth) as (
    select p.place, p.type::oid, 0
    from pg_catalog.pg_prepared_statements as s
    cross join lateral unnest(s.parameter_types) with ordinality as p (type, place)
    where s.name = %s
    union all
    select p.place, t.typbasetype, p.depth + 1
    from parameters as p
    join pg_catalog.pg_type as t on t.oid = p.type and t.typtype = 'd'
)
select pg_catalog.format_type(p.type, null), p.depth > 0
from parameters as p
join pg_catalog.pg_type as t on t.oid = p.type and t.typtype <> 'd'
order by p.place
"""


class Lab:
    """A private server with production's planner, schema and statistics; use it as a context manager, or close it.

    ``tables`` are the ones that it has, partitions included; ``left_out`` is table -> why it has it not, in a line;
    ``major`` is the version of its planner. Not for several threads.
    """

    def __init__(self, sandbox: Sandbox, plan: Blueprint, held: contextlib.ExitStack) -> None:
        self._sandbox = sandbox
        self._held = held
        self._owner = held.enter_context(sandbox.connect(restoration.DATABASE, options="-c search_path=", **_AS_DUMPED))
        self.major = self._owner.info.server_version // 10_000
        url = sandbox.url(restoration.DATABASE, user=restoration.ROLE)
        # The planner calls functions of production's: on a connection that may do nothing outside of its own tables.
        self._planner = held.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None, **_AS_DUMPED))
        self._numbers = count(1)
        self._added: dict[str, tuple[int, ...]] = {}  # handle -> oids of the index and of those on partitions
        self._names: dict[tuple[str, str], str] = {}  # schema and name of an index -> how we call it
        self._sizes: dict[str, int] = {}
        self._hidden: set[int] = set()
        self._prepared: dict[str, tuple[str, int]] = {}
        self._source_major = plan.major
        planner_statistics.prepare(self._owner, restoration.ROLE)
        left_out = restoration.restore(plan, self._owner, self._planner)
        self.left_out: Mapping[str, str] = MappingProxyType({**plan.left_out, **left_out})
        tables = (row["relation"] for row in plan.relations.values() if row["kind"] in "rpmv")
        self.tables = frozenset(tables) - set(left_out)
        if not plan.asked - set(left_out):
            raise LabError("; ".join(dict.fromkeys(self.left_out.values())))
        restoration.give_costs(plan, self._owner)
        self._real_pages = restoration.give_sizes(plan, sandbox, self._owner)
        self._names.update({(row["schema"], row["name"]): row["relation"] for row in plan.indexes.values()})
        restoration.apply_settings(plan, self.tables, self._planner)
        undumped_statistics.give(plan.extended, self._owner, self._planner)

    def add(self, index: Index) -> str:
        """Create an index that is visible at once, and return its handle.

        Raises IndexRefusedError with PostgreSQL's message where it refuses it, and LabError for a table that the lab
        lacks.
        """
        if index.table not in self.tables:
            raise LabError(f"{index.table} is not in the lab: {self.left_out.get(index.table, 'it was not asked for')}")
        handle = f"{_ADDED}{next(self._numbers)}"
        heaps = self._tree(index.table)
        self._empty(heaps)
        try:
            self._execute(f"begin read write; {index.statement(handle, concurrently=False)}; commit")
        except psycopg.Error as error:
            self._planner.rollback()
            raise IndexRefusedError(restoration.primary(error)) from None
        finally:
            self._fill(heaps)
        made = self._tree(sql.Identifier(heaps[0]["schema"], handle).as_string())
        self._added[handle] = tuple(row["oid"] for row in made)
        self._names.update({(row["schema"], row["name"]): handle for row in made})
        self._set_valid(self._added[handle], valid=False)  # nobody looks into its files before they are ready
        try:
            self._sizes[handle] = sum(self._give_size(row) for row in made if row["kind"] == "i")
        finally:
            self._set_valid(self._added[handle], valid=True)
        return handle

    def remove(self, handle: str) -> None:
        """Drop an added index."""
        oids = self._oids_of(handle)
        self._owner.execute(sql.SQL("drop index {}").format(sql.SQL(self._rows_of(oids[:1])[0]["relation"])))
        del self._added[handle], self._sizes[handle]
        self._names = {name: other for name, other in self._names.items() if other != handle}

    def size_bytes(self, handle: str) -> int:
        """Return the estimated size of an added index, or the size that a real one ('schema.index') has."""
        if handle in self._sizes:
            return self._sizes[handle]
        return (
            sum(self._real_pages[row["relation"]] for row in self._index_tree(handle) if row["kind"] == "i")
            * storage.BLOCK
        )

    def show_only(self, handles: Collection[str]) -> None:
        """Make exactly these of the added indexes visible to the planner; real ones are left as they are."""
        visible = [oid for handle in handles for oid in self._oids_of(handle)]
        added = [oid for oids in self._added.values() for oid in oids]
        self._owner.execute(
            "update pg_catalog.pg_index set indisvalid = indexrelid = any(%(visible)s::oid[])"
            " where indexrelid = any(%(added)s::oid[]) and indisvalid <> (indexrelid = any(%(visible)s::oid[]))",
            {"visible": visible, "added": added},
        )

    def hide(self, real_index: str) -> None:
        """Let the planner do without a real index ('schema.index'), as if it were dropped."""
        self._set_valid([row["oid"] for row in self._index_tree(real_index)], valid=False)

    def show(self, real_index: str) -> None:
        """Take back ``hide``."""
        self._set_valid([row["oid"] for row in self._index_tree(real_index)], valid=True)

    def explain(self, statement: str, values: Sequence[Any] | None = None) -> Plan:
        """Return the plan of one statement: generic, or with ``values`` for its $1, $2, ...

        Values are texts as PostgreSQL writes them, numbers, booleans or None. Raises LabError where the statement
        cannot be explained: it is not one, or it asks for what the lab lacks; UnknownNameError where that is a column
        or, perhaps, a variable of a function.
        """
        try:
            if values is not None:
                tree = self._explained_with(statement, values)
            elif not _PARAMETER.search(statement):
                tree = self._explained(statement.strip().rstrip(";"))
            elif self.major >= _EXPLAINS_GENERIC:
                tree = self._explained(statement.strip().rstrip(";"), ", generic_plan")
            else:
                tree = self._explained_generic(statement)
        except psycopg.Error as error:
            raise _not_explained(error) from None
        return Plan(tree["Total Cost"], tree["Plan Rows"], tree, frozenset(self._indexes_of(tree, "")))

    def values(self, table: str, column: str) -> list[Value]:
        """Return representative values of a column from pg_stats: the most common ones first, then histogram bounds."""
        row = self._owner.cursor(row_factory=dict_row).execute(_VALUES, {"table": table, "column": column}).fetchone()
        if not row:
            return []
        common = zip(row["common"] or (), row["frequencies"] or (), strict=False)
        return [*(Value(text, share) for text, share in common), *(Value(text, None) for text in row["bounds"] or ())]

    def close(self) -> None:
        """Stop the server and delete everything."""
        self._held.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the planner's connection --------------------------------------------------------------------------------

    def _execute(self, text: str) -> list[tuple[Any, ...]]:
        cursor = self._planner.execute(text.encode())
        rows = cursor.fetchall() if cursor.description else []
        if text.startswith("explain") and cursor.nextset():
            raise LabError("cannot be explained: it is more than one statement")
        return rows

    def _sent(self, head: str, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self._execute(head + statement)
        except (pg.UndefinedColumn, pg.UndefinedTable) as error:  # the latter for the "new" of new.id as well
            place = int(error.diag.statement_position or 0) - 1 - len(head)
            raise UnknownNameError(str(_not_explained(error)), place) from None

    def _explained(self, statement: str, options: str = "") -> dict[str, Any]:
        told = self._sent(f"explain (format json, verbose{options}) ", statement)[0][0][0]
        if not isinstance(told, dict):
            raise LabError("cannot be explained: a utility statement has no plan")
        tree: dict[str, Any] = told["Plan"]
        return tree

    def _explained_with(self, statement: str, values: Sequence[Any]) -> dict[str, Any]:
        name, expected = self._prepare(statement)
        if expected != len(values):
            raise LabError(f"the statement has {expected} parameters, got {len(values)} values")
        literals = ", ".join(sql.Literal(value).as_string(self._planner) for value in values)
        return self._explained(f"execute {name}" + (f"({literals})" if literals else ""))

    def _explained_generic(self, statement: str) -> dict[str, Any]:
        """Do what GENERIC_PLAN does, which came with PostgreSQL 16."""
        name, expected = self._prepare(statement)
        execute = f"execute {name}({', '.join(['null'] * expected)})"
        with self._planner.transaction():
            # A change of an index alone does not make a server plan again.
            self._planner.execute("set local plan_cache_mode = force_generic_plan; discard plans")
            tree = self._explained(execute)
            if _STARTED in str(tree):  # as it starts, EXPLAIN leaves out the partitions that hold no null
                self._planner.execute("set local enable_partition_pruning = off; discard plans")
                tree = self._explained(execute)
        return tree

    def _prepare(self, statement: str) -> tuple[str, int]:
        """Prepare a statement once, and return its name and how many parameters it has."""
        if statement not in self._prepared:
            name = f"pgrunbooks_{next(self._numbers)}"
            self._sent(f"prepare {name} as ", statement.strip().rstrip(";"))
            rows = self._planner.execute(_PARAMETERS.encode(), [name]).fetchall()
            if any(is_domain for _, is_domain in rows):
                self._execute(f"deallocate {name}")
                types = ", ".join(type_ for type_, _ in rows)
                self._execute(f"prepare {name} ({types}) as {statement.strip().rstrip(';')}")
            self._prepared[statement] = (name, len(rows))
        return self._prepared[statement]

    def _indexes_of(self, node: Mapping[str, Any], schema: str) -> Iterable[str]:
        schema = node.get("Schema", schema)  # a bitmap index scan stands below the scan that names the table
        if name := node.get("Index Name"):
            yield self._names[schema, name]
        for child in node.get("Plans", ()):
            yield from self._indexes_of(child, schema)

    # ---- indexes and files ---------------------------------------------------------------------------------------

    def _rows(self, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._owner.cursor(row_factory=dict_row).execute(query.encode(), parameters).fetchall()

    def _tree(self, name: str) -> list[dict[str, Any]]:
        """Return a table or index and its partitions, itself first."""
        return self._rows(_TREE, {"name": name})

    def _rows_of(self, oids: Sequence[int]) -> list[dict[str, Any]]:
        return [row for oid in oids for row in self._rows(_TREE, {"name": str(oid)}) if row["oid"] == oid]

    def _oids_of(self, handle: str) -> tuple[int, ...]:
        if handle not in self._added:
            raise LabError(f"{handle}: no added index has this handle")
        return self._added[handle]

    def _index_tree(self, real_index: str) -> list[dict[str, Any]]:
        try:
            return self._tree(real_index)
        except psycopg.Error as error:
            raise LabError(f"{real_index}: {restoration.primary(error)}") from None

    def _set_valid(self, oids: Sequence[int], *, valid: bool) -> None:
        self._owner.execute(
            "update pg_catalog.pg_index set indisvalid = %s where indexrelid = any(%s::oid[])", [valid, list(oids)]
        )

    def _empty(self, heaps: Sequence[Mapping[str, Any]]) -> None:
        """Make tables small for a moment, so that an index on them is built at once, and seem to have no index: a new
        one on a partitioned table would take over those of its partitions.
        """
        for row in heaps:
            if row["path"]:
                storage.resize(self._sandbox.data / row["path"], 0)
        self._set_live(heaps, live=False)
        # The change of the row also makes the backends forget how many files and indexes a table has.
        self._owner.execute(
            "update pg_catalog.pg_class set relpages = 0, reltuples = 0 where oid = any(%s::oid[])",
            [[row["oid"] for row in heaps]],
        )

    def _set_live(self, heaps: Sequence[Mapping[str, Any]], *, live: bool) -> None:
        self._owner.execute(
            "update pg_catalog.pg_index set indislive = %s where indrelid = any(%s::oid[])",
            [live, [row["oid"] for row in heaps]],
        )

    def _fill(self, heaps: Sequence[Mapping[str, Any]]) -> None:
        self._set_live(heaps, live=True)
        for row in heaps:
            if row["path"]:
                storage.resize(self._sandbox.data / row["path"], self._real_pages.get(row["relation"], 0))
            _set_statistics(self._owner, row["oid"], row["pages"], row["tuples"], row["visible_pages"])

    def _give_size(self, row: Mapping[str, Any]) -> int:
        """Give an added index the files and counts that it would have, and return its bytes."""
        give_statistics(self._owner, self._planner, row["oid"])
        facts = self._rows(variant(_INDEX, self._source_major), {"oid": row["oid"]})[0]
        source = f"from only {facts['table']}" + (f" where {facts['predicate']}" if facts["predicate"] else "")
        rows = self.explain(f"select {source}").rows
        known = _without_gaps(facts, rows)
        width = math.ceil(layout.laid_out(known, nulls=False)[0])
        if facts["method"] == "btree":
            pages = math.ceil(btree.needed_bytes(known) / storage.BLOCK)
        else:
            groups = rows
            with contextlib.suppress(LabError):  # a type such as point can be indexed, and not be grouped
                groups = self.explain(f"select {source} group by {', '.join(facts['keys'])}").rows
            heap_pages = self._real_pages.get(facts["table"], 0)
            pages = index_size.pages(facts["method"], index_size.Contents(rows, groups, width, heap_pages))
        path = self._sandbox.data / row["path"]
        storage.resize(path, pages)
        if facts["method"] == "btree":
            storage.write_height(path, index_size.height(pages, width))
        _set_statistics(self._owner, row["oid"], pages, rows, 0)
        return pages * storage.BLOCK


def _without_gaps(facts: Mapping[str, Any], rows: float) -> dict[str, Any]:
    """Return what is known of an index with that many rows; where that is nothing, what makes it rather too large.

    A partial index may leave out the nulls of its keys, or nothing else: it is taken to have as few as can be.
    """
    widths = zip(facts["widths"], facts["lengths"], strict=True)
    present = [facts["table_rows"] * (1 - (share or 0)) for share in facts["null_shares"]]
    return {
        **facts,
        "rows": rows,
        "widths": [it if it is not None else length if length > 0 else _UNKNOWN_WIDTH for it, length in widths],
        "distinct_values": [_distinct(it, facts["table_rows"]) for it in facts["distinct_values"]],
        "null_shares": [
            (max(1 - it / rows, 0.0) if rows else 0.0) if facts["is_partial"] else share or 0.0
            for it, share in zip(present, facts["null_shares"], strict=True)
        ],
    }


def _distinct(known: float | None, table_rows: float) -> float:
    if known is None:
        return -1.0
    return index_size.likely_distinct(-known * table_rows if known < 0 else known, table_rows)


def _not_explained(error: psycopg.Error) -> LabError:
    return LabError(f"cannot be explained: {restoration.primary(error)}")


def open_lab(session: Session, tables: Collection[str], programs: Sequence[Path] = ()) -> Lab:
    """Build a lab of tables ('schema.table', each part quoted as quote_ident would) and of what they need.

    Tables that cannot be had are named in ``left_out``. ``programs`` are the folders of the servers that may be the
    lab, the most wanted first; by default one of the source's major version where this machine has its packages, and
    the embedded one. Raises LabError where no table can be had, or where there is no pg_dump of PostgreSQL 18 or newer;
    ConnectionLostError where the session's server goes away.
    """
    embedded = server_programs()
    newest = server_major(embedded)
    if newest < _DUMPS_STATISTICS:
        raise LabError(f"the lab needs pg_dump {_DUMPS_STATISTICS} or newer, got {newest} in {embedded}")
    plan = blueprint.read_blueprint(session, tables, embedded / "pg_dump")
    own = installed_programs(plan.major)
    known = (embedded, own) if plan.major == newest else (own, embedded)
    return _fullest(plan, [*programs] or [it for it in known if it])


def _fullest(plan: Blueprint, programs: Sequence[Path]) -> Lab:
    """Return the lab of the first server that starts and lacks no table, such as for an extension, or the fewest."""
    first, *others = programs
    try:
        lab = _opened(plan, first)
    except (LabError, SandboxError):
        if not others:
            raise
        return _fullest(plan, others)
    if lab.left_out != plan.left_out and others:
        with contextlib.suppress(LabError, SandboxError):
            lab, other = sorted((lab, _fullest(plan, others)), key=lambda it: len(it.left_out))
            other.close()
    return lab


def _opened(plan: Blueprint, programs: Path) -> Lab:
    with contextlib.ExitStack() as held:
        sandbox = held.enter_context(_empty_server(programs))
        restoration.create_database(sandbox, plan.database)
        lab = Lab(sandbox, plan, held.enter_context(contextlib.ExitStack()))
        lab._held = held.pop_all()
        return lab


def _empty_server(programs: Path) -> contextlib.AbstractContextManager[Sandbox]:
    return temporary_sandbox(_SERVER_SETTINGS, sample=False, programs=programs, checksums=False)


def _set_statistics(owner: psycopg.Connection, oid: int, pages: int, tuples: float, visible_pages: int) -> None:
    owner.execute(
        "update pg_catalog.pg_class set relpages = %s, reltuples = %s, relallvisible = %s where oid = %s",
        [pages, tuples, visible_pages, oid],
    )
