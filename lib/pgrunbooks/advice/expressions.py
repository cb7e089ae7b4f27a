"""Pieces of SQL as trees and as text: what stands in them, and how they are written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind
from pglast.keywords import COL_NAME_KEYWORDS, RESERVED_KEYWORDS, TYPE_FUNC_NAME_KEYWORDS
from pglast.parser import ParseError, scan
from pglast.stream import RawStream

_QUOTED_WORDS = RESERVED_KEYWORDS | COL_NAME_KEYWORDS | TYPE_FUNC_NAME_KEYWORDS
_ADDED_CASTS = frozenset({"text", "regconfig", "varchar", "bpchar"})

# A typed literal loses its quotes when pg_stat_statements replaces the constant: 'interval $1' is no SQL.
_TYPED_PARAMETER = re.compile(
    r"\b(interval|date|timestamptz|timestamp|time|timetz|inet|uuid|numeric|jsonb?)\s+(\$\d+)(?!\s*::)", re.IGNORECASE
)


_PREPARED = re.compile(
    r"\s*prepare\s+(?:\"(?:[^\"]|\"\")*\"|[\w$]+)\s*(?:\((?:[^()]|\([^()]*\))*\)\s*)?as\s+", re.IGNORECASE
)
# PL/pgSQL runs a condition or an assignment of a function as what stands there: 'total := (select ...)'.
_ASSIGNED = re.compile(r"\A\s*[\w.$\"\[\]]+\s*:?=")
_EXTRACTED = re.compile(r"\bextract\s*\(\s*(\$\d+)\s+from\s+", re.IGNORECASE)
_ARITHMETIC = frozenset("+-*/%")
_TRIED_TYPES = ("int4", "int8", "varchar", "uuid", "date", "timestamptz")


def quoted(name: str) -> str:
    """Return an identifier quoted as ``quote_ident`` does, and only then."""
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _QUOTED_WORDS
    return name if plain else '"' + name.replace('"', '""') + '"'


def split(name: str) -> tuple[str, str]:
    """Return schema and name of 'schema.name', each still quoted as it was."""
    schema, _, rest = re.fullmatch(r'("(?:[^"]|"")*"|[^."]+)(\.)(.+)', name, re.DOTALL).groups()  # type: ignore[union-attr]
    return schema, rest


def unquoted(name: str) -> str:
    """Return the bare name of a relation that is written 'schema.name'."""
    rest = split(name)[1]
    return rest[1:-1].replace('""', '"') if rest.startswith('"') else rest


def repaired(text: str) -> str:
    """Return a text of pg_stat_statements as SQL again, where constants were and no type can be told any more.

    ``interval $1`` becomes ``$1::interval``, and ``extract($1 from at)`` the function that it stands for; a sum of
    parameters, or of the results of a CASE that are parameters, is one of whole numbers, and so is a series. PREPARE,
    under which the runs of what it prepares are counted, is taken off, and an expression of PL/pgSQL gets its SELECT.
    """
    text = _PREPARED.sub("", text, count=1) if _PREPARED.match(text) else text
    text = _EXTRACTED.sub(r"pg_catalog.extract(\1, ", _TYPED_PARAMETER.sub(r"\2::\1", text))
    for it in (text, "select " + _ASSIGNED.sub("", text, count=1)):
        with contextlib.suppress(ParseError):
            return _cast(it, (inner for node in _nodes_of(it) for inner in _untyped(node)), "int4")
    return text  # whoever reads it next says why it cannot be read


def retyped(text: str) -> Iterator[str]:
    """Yield a statement that cannot be explained with the parameters that PostgreSQL mistakes as one type each.

    It takes ``array[$1]``, ``values ($1)`` and ``select $1 as depth`` for texts, which no other column can be compared
    with and no recursion counts on, and the days of ``current_date - $1`` for a date.
    """
    mistaken = [it for node in _nodes_of(text) for it in _mistaken(node)]
    for name in _TRIED_TYPES if mistaken else ():
        yield _cast(text, mistaken, name)


def with_parameter(text: str, place: int) -> str | None:
    """Return a statement with a parameter in the place of the name that stands there, a variable of the function that
    ran it; None where no column could stand there.
    """
    column = next((it for it in _nodes_of(text) if isinstance(it, ast.ColumnRef) and it.location == place), None)
    if column is None:
        return None
    used = {it.number for it in _nodes_of(text) if isinstance(it, ast.ParamRef)}
    number = next(it for it in count(1) if it not in used)  # a server before 16 wants all from 1 on
    tokens = [it for it in scan(text) if it.start >= place]
    return f"{text[:place]}${number}{text[tokens[2 * len(column.fields) - 2].end + 1 :]}"


def _nodes_of(text: str) -> Iterator[Any]:
    return nodes(tuple(it.stmt for it in parse_sql(text)))


def _cast(text: str, parameters: Iterable[ast.ParamRef], name: str) -> str:
    for place in sorted({it.location for it in parameters}, reverse=True):
        text = text[:place] + re.sub(r"^\$\d+", rf"\g<0>::{name}", text[place:])
    return text


def _mistaken(node: Any) -> Iterator[ast.ParamRef]:
    found: Iterable[Any] = ()
    if isinstance(node, ast.A_ArrayExpr):
        found = node.elements or ()
    elif isinstance(node, ast.SelectStmt):
        found = (*(it for row in node.valuesLists or () for it in row), *(it.val for it in node.targetList or ()))
    elif isinstance(node, ast.A_Expr) and node.name[-1].sval in _ARITHMETIC:
        found = (node.lexpr, node.rexpr)
    return (it for it in found if isinstance(it, ast.ParamRef))


def _untyped(node: Any) -> Iterator[ast.ParamRef]:
    """Yield the parameters of an expression from which PostgreSQL cannot tell which operator or function is meant."""
    if isinstance(node, ast.A_Expr) and node.kind == A_Expr_Kind.AEXPR_OP and node.name[-1].sval in _ARITHMETIC:
        sides = (node.lexpr, node.rexpr)
        if all(isinstance(it, ast.ParamRef) for it in sides):
            yield from sides
    elif isinstance(node, ast.FuncCall) and node.funcname[-1].sval == "generate_series":
        if all(isinstance(it, ast.ParamRef) for it in node.args or ()):
            yield from node.args or ()
    elif isinstance(node, ast.FuncCall) and node.funcname[-1].sval in ("sum", "avg"):
        for case in node.args or ():
            if isinstance(case, ast.CaseExpr):
                results = [*(it.result for it in case.args), *([case.defresult] if case.defresult else [])]
                if all(isinstance(it, ast.ParamRef) for it in results):
                    yield from results


def expression(node: Any) -> str:
    """Return an expression in the words of one table, without the qualifiers of its columns."""
    return str(RawStream()(_bare(node)))


def plain_expression(node: Any) -> str:
    """Return an expression as a statement would have it, without the casts that the server adds when it prints one."""
    return str(RawStream()(_uncast(_bare(node))))


def _uncast(node: Any) -> Any:
    if isinstance(node, tuple):
        return tuple(_uncast(item) for item in node)
    if isinstance(node, ast.TypeCast):
        type_name = node.typeName.names[-1].sval
        if isinstance(node.arg, (ast.A_Const, ast.ColumnRef)) and type_name in _ADDED_CASTS:
            return node.arg
    if isinstance(node, ast.Node):
        return type(node)(**{name: _uncast(getattr(node, name)) for name in node if getattr(node, name) is not None})
    return node


def identifiers(text: str) -> frozenset[str]:
    """Return every identifier that stands in a piece of SQL."""
    words = re.findall(r"'(?:[^']|'')*'|\"((?:[^\"]|\"\")*)\"|([A-Za-z_][A-Za-z0-9_$]*)", text)
    return frozenset(name.replace('""', '"') or word.lower() for name, word in words if name or word)


def nodes(node: Any) -> Iterator[Any]:
    """Yield a node and all that is in it."""
    if isinstance(node, tuple):
        for item in node:
            yield from nodes(item)
    elif isinstance(node, ast.Node):
        yield node
        for name in node:
            yield from nodes(getattr(node, name))


def _bare(node: Any) -> Any:
    if isinstance(node, tuple):
        return tuple(_bare(item) for item in node)
    if isinstance(node, ast.ColumnRef):
        return ast.ColumnRef(fields=node.fields[-1:])
    if isinstance(node, ast.Node):
        return type(node)(**{name: _bare(getattr(node, name)) for name in node if getattr(node, name) is not None})
    return node


def is_fixed(node: Any) -> bool:
    """Tell whether nothing but literals stands in an expression."""
    allowed = (
        ast.A_Const,
        ast.String,
        ast.Integer,
        ast.Float,
        ast.Boolean,
        ast.TypeCast,
        ast.TypeName,
        ast.A_ArrayExpr,
    )
    return all(isinstance(it, allowed) for it in nodes(node))


def plain_items(node: Any) -> Iterator[Any]:
    """Yield what stands alone on one side of a comparison: the items of a list, without their casts."""
    if isinstance(node, tuple):
        for item in node:
            yield from plain_items(item)
    elif isinstance(node, ast.TypeCast):
        yield from plain_items(node.arg)
    elif isinstance(node, ast.A_ArrayExpr):
        yield from plain_items(node.elements or ())
    else:
        yield node


def literal_of(node: Any) -> str | None:
    """Return the text of a literal, without its quotes and casts; None for anything else."""
    while isinstance(node, ast.TypeCast):
        node = node.arg
    if isinstance(node, ast.A_Const) and not node.isnull:
        value = node.val
        text = getattr(value, "sval", None) or getattr(value, "fval", None)
        if text is not None:
            return str(text)
        return str(value.ival) if isinstance(value, ast.Integer) else str(value.boolval).lower()
    return None
