"""Row level security: what policies add to the statements of the roles that they hold for.

A statement that names no tenant reads one tenant all the same, and an index for it starts with the column that the
policy compares. What a policy takes from the session, such as current_setting(), becomes a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from pglast import ast, enums, parse_sql
from pglast.parser import ParseError, scan
from pglast.stream import RawStream

from pgrunbooks.advice.accesses import Access, NotUnderstood, Predicate
from pgrunbooks.advice.catalog import Table
from pgrunbooks.advice.expressions import nodes, quoted
from pgrunbooks.session import Session
from pgrunbooks.sizes import locked

# What a role may see of a table: one of the permissive policies and all of the restrictive ones.
_POLICIES = """
select
    r.rolname::text as role,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as "table",
    pg_catalog.concat_ws(
        ' and ',
        '('
        || pg_catalog.string_agg(pg_catalog.pg_get_expr(p.polqual, c.oid), ' or ' order by p.oid)
            filter (where p.polpermissive)
        || ')',
        pg_catalog.string_agg(pg_catalog.pg_get_expr(p.polqual, c.oid), ' and ' order by p.oid)
            filter (where not p.polpermissive)
    ) as condition
from pg_catalog.pg_policy as p
join pg_catalog.pg_class as c on c.oid = p.polrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_roles as r on r.rolname = any(%(roles)s) and not r.rolsuper and not r.rolbypassrls
where c.relrowsecurity and c.oid <> all(%(locked)s::oid[]) and p.polcmd in ('r', '*') and p.polqual is not null
    and (c.relforcerowsecurity or not pg_catalog.pg_has_role(r.oid, c.relowner, 'usage'))
    and exists (
        select 1 from pg_catalog.unnest(p.polroles) as m (oid)
        where case when m.oid = 0 then true else pg_catalog.pg_has_role(r.oid, m.oid, 'usage') end
    )
group by r.rolname, n.nspname, c.relname
order by r.rolname, n.nspname, c.relname
"""
# https://www.postgresql.org/docs/current/rules-privileges.html: before the policy is asked, nothing but a leakproof
# operator may see a row, not even in an index. All orders of these types are leakproof in PostgreSQL 15 to 18.
_LEAKPROOF = frozenset(["bool", "float4", "float8", "int2", "int4", "int8", "money", "oid"])
_LEAKPROOF |= {"bpchar", "bytea", "inet", "macaddr", "name", "text", "uuid", "varchar"}
_LEAKPROOF |= {"date", "interval", "time", "timestamp", "timestamptz", "timetz"}
_SEEN_BY_ALL = ("equal", "among", "range", "test")
_CALLS = (ast.FuncCall, ast.SQLValueFunction)


def read_policies(session: Session, roles: Collection[str]) -> dict[str, dict[str, str]]:
    """Return role -> 'schema.table' -> the condition that row level security adds where that role reads the table."""
    found: dict[str, dict[str, str]] = {role: {} for role in roles}
    for row in session.rows(_POLICIES, {"roles": sorted(roles), "locked": sorted(locked(session))}):
        found[row["role"]][row["table"]] = row["condition"]
    return found


def guarded(text: str, conditions: Mapping[str, str]) -> str:
    """Return a statement that reads only the rows of a table ('schema.table') that fulfil its condition.

    The ``text`` has a schema before every table. What an UPDATE, DELETE or MERGE changes is left as it is.
    Raises NotUnderstood for the condition of a newer server that cannot be read.
    """
    tree = tuple(it.stmt for it in parse_sql(text))
    numbers = count(1 + max((it.number for it in nodes(tree) if isinstance(it, ast.ParamRef)), default=0))
    tokens = scan(text)
    for source in sorted(_sources(tree), key=lambda it: -it.location):
        table = f"{quoted(source.schemaname)}.{quoted(source.relname)}"
        if table in conditions:
            condition = _read(conditions[table])
            inner = f"(select * from {table} where {RawStream()(_of_any_session(condition, numbers))})"
            *_, name = [it for it in tokens if it.start >= source.location][:3]
            alias = "" if source.alias else f" as {quoted(source.relname)}"
            text = f"{text[: source.location]}{inner}{alias}{text[name.end + 1 :]}"
    return text


def visible(access: Access, table: Table, first_parameter: int) -> Access:
    """Return what of an access to a guarded table an index can serve; a policy's own parameters are the last ones."""

    def may(predicate: Predicate) -> bool:
        column = table.columns.get(predicate.key.column or "")
        by_all = predicate.kind in _SEEN_BY_ALL and column is not None and column.type in _LEAKPROOF
        return by_all or any(number >= first_parameter for number in predicate.params)

    return replace(
        access,
        predicates=tuple(filter(may, access.predicates)),
        alternatives=tuple(arm for arm in access.alternatives if all(map(may, arm))),
    )


def _read(condition: str) -> Any:
    try:
        return parse_sql(f"select where {condition}")[0].stmt.whereClause
    except ParseError as error:
        raise NotUnderstood(f"a policy of row level security cannot be read: {error.args[0]}") from None


def _sources(tree: Any) -> Iterator[ast.RangeVar]:
    for node in nodes(tree):
        items: tuple[Any, ...] = ()
        if isinstance(node, (ast.SelectStmt, ast.UpdateStmt)):
            items = node.fromClause or ()
        elif isinstance(node, ast.DeleteStmt):
            items = node.usingClause or ()
        elif isinstance(node, ast.MergeStmt):
            items = (node.sourceRelation,)
        elif isinstance(node, ast.JoinExpr):
            items = (node.larg, node.rarg)
        yield from (it for it in items if isinstance(it, ast.RangeVar) and it.schemaname and it.inh)


def _of_any_session(node: Any, numbers: Iterator[int]) -> Any:
    """Return a condition with a parameter in the place of whatever reads no row and depends on the session.

    IN and EXISTS get an IS TRUE: those of a policy stay filters, where others become joins, which an index can serve.
    """
    if isinstance(node, tuple):
        return tuple(_of_any_session(item, numbers) for item in node)
    if not isinstance(node, ast.Node):
        return node
    inside = list(nodes(node))
    reads = any(isinstance(it, (ast.ColumnRef, ast.RangeVar)) for it in inside)
    if (
        not reads
        and any(isinstance(it, _CALLS) for it in inside)
        and not isinstance(node, (ast.BoolExpr, ast.ResTarget))
    ):
        return ast.ParamRef(number=next(numbers))
    changed = {name: _of_any_session(getattr(node, name), numbers) for name in node if getattr(node, name) is not None}
    if isinstance(node, ast.SubLink) and node.subLinkType != enums.SubLinkType.EXPR_SUBLINK:
        return ast.BooleanTest(arg=ast.SubLink(**changed), booltesttype=enums.BoolTestType.IS_TRUE)
    return type(node)(**changed)
