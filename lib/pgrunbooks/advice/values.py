"""Values in the place of parameters: a plan depends on them, and pg_stat_statements threw them away.

They come from the statistics of the column that a parameter is compared with, from the constants in expressions and
predicates of indexes that are there, or from pg_qualstats. A parameter for which nothing is known stays: the plan is
then a generic one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pglast import ast, parse_sql
from pglast.parser import scan

from pgrunbooks.advice.catalog import Catalog, Column, Table
from pgrunbooks.advice.scopes import Access, Parsed, Predicate, nodes, plain_expression

LIMIT = 20
OFFSET = 20
_HINT_SHARE = 0.5


@dataclass(frozen=True)
class Variant:
    """A statement with values; the shares of its variants sum up to 1. ``generic``: some parameters stay."""

    text: str
    share: float
    generic: bool


def variants(parsed: Parsed, catalog: Catalog, rows_per_call: float = 0.0) -> list[Variant]:
    """Return a statement with the most common values, with typical ones, and with those that an index is made for."""
    fixed = {number: str(_limit(rows_per_call)) for number in parsed.limits}
    fixed |= {number: str(OFFSET) for number in parsed.offsets}
    common, typical, hinted = dict(fixed), dict(fixed), dict(fixed)
    share = 0.0
    for access in parsed.accesses:
        table = catalog.tables.get(access.table)
        for predicate, column in _compared(access, table):
            low, high = _values(predicate, column, access)
            for number in predicate.params if low and high else ():
                typical.setdefault(number, high or "")
                common.setdefault(number, low or "")
            if table and predicate.params and predicate.kind == "equal":
                share = max(share, max(column.common.values(), default=0.0))
                hint = _hint(table, predicate)
                if hint:
                    hinted[predicate.params[0]] = hint
    share = min(max(share, 0.1), 0.9)
    weighted = [(common, share), (typical, 1 - share)]
    if hinted != fixed:
        weighted = [(values, it * (1 - _HINT_SHARE)) for values, it in weighted]
        weighted.append(({**typical, **hinted}, _HINT_SHARE))
    shares: dict[str, float] = {}
    for values, it in weighted:
        text = filled(parsed.text, values)
        shares[text] = shares.get(text, 0.0) + it
    return [Variant(text, it, bool(parameters(text))) for text, it in shares.items()]


def filled(text: str, values: Mapping[int, str]) -> str:
    """Return a statement with SQL texts in the place of its parameters."""
    raw = text.encode()
    for token in reversed([it for it in scan(text) if it.name == "PARAM"]):
        number = int(raw[token.start + 1 : token.end + 1])
        if number in values:
            raw = raw[: token.start] + values[number].encode() + raw[token.end + 1 :]
    return raw.decode()


def parameters(text: str) -> set[int]:
    """Return the numbers of the parameters of a statement."""
    raw = text.encode()
    return {int(raw[it.start + 1 : it.end + 1]) for it in scan(text) if it.name == "PARAM"}


def restored(text: str, catalog: Catalog) -> str:
    """Return a statement with the constants back that indexed expressions have: normalisation made
    ``to_tsvector('simple', title)`` into ``to_tsvector($1, title)``, which no index matches.
    """
    expressions = {it for table in catalog.tables.values() for index in table.indexes for it in index.expressions}
    with_constants = [it for it in sorted(expressions) if re.search(r"'|\b\d", it)]
    if not with_constants:
        return text
    values: dict[int, str] = {}
    for node in nodes(parse_sql(text)[0].stmt):
        if isinstance(node, (ast.FuncCall, ast.A_Expr, ast.CoalesceExpr)) and _mixes(node):
            pattern = re.sub(r"\\\$(\d+)", r"(?P<p\1>'(?:[^']|'')*'|-?\\d+(?:\\.\\d+)?)", re.escape(plain_expression(node)))
            for it in with_constants:
                match = re.fullmatch(_unique(pattern), it)
                if match:
                    values |= {int(name[1:]): value for name, value in match.groupdict().items()}
    return filled(text, values)


def literal(value: str) -> str:
    """Return a text as an SQL literal."""
    escaped = value.replace("'", "''")
    return f"E'{escaped}'".replace("\\", "\\\\") if "\\" in value else f"'{escaped}'"


def _limit(rows_per_call: float) -> int:
    """Return a LIMIT that such a statement may have: no fewer rows than it returned, and few."""
    return max(10, min(100, round(rows_per_call))) if rows_per_call else LIMIT


def _mixes(node: object) -> bool:
    inside = [type(it) for it in nodes(node)]
    return ast.ParamRef in inside and ast.ColumnRef in inside


def _unique(pattern: str) -> str:
    """Return a pattern in which a group that comes again refers to its first place."""
    seen: set[str] = set()

    def again(match: re.Match[str]) -> str:
        if match[1] in seen:
            return f"(?P={match[1]})"
        seen.add(match[1])
        return match[0]

    return re.sub(r"\(\?P<(p\d+)>'\(\?:\[\^'\]\|''\)\*'\|-\?\\d\+\(\?:\\\.\\d\+\)\?\)", again, pattern)


def _compared(access: Access, table: Table | None) -> Iterator[tuple[Predicate, Column]]:
    if table:
        for predicate in (*access.predicates, *(it for arm in access.alternatives for it in arm)):
            names = sorted(predicate.key.columns)
            if predicate.params and len(names) == 1 and names[0] in table.columns:
                column = table.columns[names[0]]
                if predicate.key.column or predicate.kind in ("like", "pattern"):
                    yield predicate, column


def _values(predicate: Predicate, column: Column, access: Access) -> tuple[str | None, str | None]:
    """Return the literals of a common and of a typical value; None where the statistics know nothing."""
    known = _sequence(column)
    if not known:
        return None, None
    most = max(column.common, key=lambda it: column.common[it]) if column.common else None
    middle = known[len(known) // 2]
    if predicate.kind == "range":
        bound = literal(_bound(predicate, known, access))
        return bound, bound
    if predicate.kind in ("like", "prefix", "pattern"):
        prefix = middle[: max(3, len(middle) // 2)].replace("%", "").replace("_", "")
        pattern = f"%{prefix}%" if predicate.kind == "pattern" else prefix if predicate.operator == "^@" else f"{prefix}%"
        return literal(pattern), literal(pattern)
    if predicate.operator == "any":
        some = [known[len(known) * it // 4] for it in (1, 2, 3)]
        array = literal("{" + ",".join('"' + it.replace("\\", "\\\\").replace('"', '\\"') + '"' for it in some) + "}")
        return array, array
    if predicate.kind in ("equal", "among"):
        return literal(most if most is not None else middle), literal(middle)
    return None, None


def _bound(predicate: Predicate, known: Sequence[str], access: Access) -> str:
    """Return a bound of a range: the latest twentieth, or a fiftieth where both ends are given."""
    ends = {it.operator[0] for it in access.predicates if it.kind == "range" and it.key == predicate.key}
    last = len(known) - 1
    if len(ends) > 1:
        return known[round(last * (0.90 if predicate.operator[0] == ">" else 0.92))]
    return known[round(last * (0.95 if predicate.operator[0] == ">" else 0.05))]


def _hint(table: Table, predicate: Predicate) -> str | None:
    """Return the constant that an index is there for: ``where status = 'open'`` says what is asked for."""
    start = f"{predicate.key.text} = "
    for index in table.indexes:
        for part in (index.where or "").split(" AND "):
            if part.startswith(start) and re.fullmatch(r"'(?:[^']|'')*'|\d+|true|false", part[len(start) :], re.I):
                return part[len(start) :]
    return None


def _sequence(column: Column) -> Sequence[str]:
    return column.bounds or tuple(column.common)
