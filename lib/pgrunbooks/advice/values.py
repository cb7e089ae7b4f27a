"""Values in the place of parameters: a plan depends on them, and pg_stat_statements threw them away.

They come from the statistics of the column that a parameter is compared with, from the constants in expressions and
predicates of indexes that are there, or from pg_qualstats. A parameter for which nothing is known stays: the plan is
then a generic one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError, scan

from pgrunbooks.advice.accesses import Access, Parsed, Predicate
from pgrunbooks.advice.catalog import Catalog, Column, Table
from pgrunbooks.advice.expressions import nodes, plain_expression

LIMIT = 20
OFFSET = 20
_HINT_SHARE = 0.5
_DOMINATES = 0.3
_LEAST_SHARE = 0.1
_MOST_HIDDEN_SHARE = 0.5  # LIMIT and count() hide how many rows there are: a queue asks for the few that are new


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
    compared = [
        (table, access, predicate, column)
        for access in parsed.accesses
        if (table := catalog.tables.get(access.table))
        for predicate, column in _compared(access, table)
    ]
    # One value in half of the rows decides a plan alone; else the most common values of all stand for the busy ones.
    shares = [max(column.common.values(), default=0.0) for _, _, predicate, column in compared]
    dominating = max(shares, default=0.0) >= _DOMINATES
    common, typical, hinted = dict(fixed), dict(fixed), dict(fixed)
    for (table, access, predicate, column), share in zip(compared, shares, strict=True):
        is_common = predicate.kind == "equal" and share >= (_DOMINATES if dominating else 1e-9)
        for place, number in enumerate(predicate.params):
            value = _typical(predicate, column, access, place)
            if value is not None:
                typical.setdefault(number, value)
                common.setdefault(number, _most_common(column) if is_common else value)
        hint = _hint(table, predicate)
        if hint and predicate.params and predicate.kind == "equal":
            hinted[predicate.params[0]] = hint
    most = _MOST_HIDDEN_SHARE if parsed.limits or parsed.condenses else 1.0
    share = min(max(_LEAST_SHARE, max(shares, default=0.0)), most)
    weighted = [(common, share), (typical, 1 - share)]
    if hinted != fixed:
        weighted = [(values, it * (1 - _HINT_SHARE)) for values, it in weighted]
        weighted.append(({**typical, **hinted}, _HINT_SHARE))
    texts: dict[str, float] = {}
    for values, it in weighted:
        text = filled(parsed.text, values)
        texts[text] = texts.get(text, 0.0) + it
    return [Variant(text, it, bool(parameters(text))) for text, it in texts.items() if it > 0]


def weighed(variants: Sequence[Variant], estimates: Sequence[float], rows_per_call: float) -> tuple[Variant, ...]:
    """Return the variants with their shares corrected by what was observed: one whose estimate is far from the rows
    that a call returned stands for few of the calls.
    """
    near = [min(it + 1, rows_per_call + 1) / max(it + 1, rows_per_call + 1) for it in estimates]
    shares = [variant.share * it for variant, it in zip(variants, near, strict=True)]
    return tuple(replace(variant, share=share / sum(shares)) for variant, share in zip(variants, shares, strict=True))


def filled(text: str, values: Mapping[int, str]) -> str:
    """Return a statement with SQL texts in the place of its parameters."""
    for token in reversed(_parameters(text)):
        number = int(text[token.start + 1 : token.end + 1])
        if number in values:
            text = text[: token.start] + values[number] + text[token.end + 1 :]
    return text


def parameters(text: str) -> set[int]:
    """Return the numbers of the parameters of a statement."""
    return {int(text[it.start + 1 : it.end + 1]) for it in _parameters(text)}


def _parameters(text: str) -> list[Any]:
    return [it for it in scan(text) if it.name == "PARAM"]


def restored(text: str, catalog: Catalog) -> str:
    """Return a statement with the constants back that indexed expressions have: normalisation made
    ``to_tsvector('simple', title)`` into ``to_tsvector($1, title)``, which no index matches.
    """
    expressions = {it for table in catalog.tables.values() for index in table.indexes for it in index.expressions}
    with_constants = [it for it in sorted(expressions) if re.search(r"'|\b\d", it)]
    if not with_constants:
        return text
    values: dict[int, str] = {}
    for node in nodes(_tree(text)):
        if isinstance(node, (ast.FuncCall, ast.A_Expr, ast.CoalesceExpr)) and _mixes(node):
            pattern = re.sub(
                r"\\\$(\d+)", r"(?P<p\1>'(?:[^']|'')*'|-?\\d+(?:\\.\\d+)?)", re.escape(plain_expression(node))
            )
            for it in with_constants:
                match = re.fullmatch(_unique(pattern), it)
                if match:
                    values |= {int(name[1:]): value for name, value in match.groupdict().items()}
    return filled(text, values)


def _tree(text: str) -> Any:
    try:
        return parse_sql(text)[0].stmt
    except ParseError:
        return ()


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


def _compared(access: Access, table: Table) -> Iterator[tuple[Predicate, Column]]:
    for predicate in (*access.predicates, *(it for arm in access.alternatives for it in arm)):
        names = sorted(predicate.key.columns)
        is_known = predicate.params and len(names) == 1 and names[0] in table.columns
        if is_known and (predicate.key.column or predicate.kind in ("like", "pattern")):
            yield predicate, table.columns[names[0]]


def _most_common(column: Column) -> str:
    return literal(max(column.common, key=lambda it: column.common[it]))


def _typical(predicate: Predicate, column: Column, access: Access, place: int) -> str | None:
    """Return the literal of a value that is neither rare nor common; None where the statistics know nothing."""
    known = column.bounds or tuple(column.common)
    if not known:
        return None
    middle = known[(len(known) // 2 + 7 * place) % len(known)]
    if predicate.kind == "range":
        return _bound(predicate, column, access)
    if predicate.kind in ("like", "prefix", "pattern"):
        ends = zip(min(known), max(known), strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))  # nobody asks for 'SKU-' alone
        part = re.sub("[%_]", "", middle[: max(3, len(middle) // 2, shared + 2)])
        if len(predicate.params) > 1:  # $1 || '%'
            return literal("%" if place else part)
        return literal(
            f"%{part}%" if predicate.kind == "pattern" else part if predicate.operator == "^@" else f"{part}%"
        )
    if predicate.operator == "any":
        some = [known[len(known) * it // 4] for it in (1, 2, 3)]
        return literal("{" + ",".join('"' + re.sub(r'(["\\\\])', r"\\\1", it) + '"' for it in some) + "}")
    return literal(middle) if predicate.kind in ("equal", "among") else None


def _bound(predicate: Predicate, column: Column, access: Access) -> str | None:
    """Return a bound of a range: the latest twentieth, or a fiftieth where both ends are given.

    Of a few values it leaves one at least, since none would be the most selective condition of all.
    """
    known = column.bounds or sorted(column.common, key=_in_order)
    ends = {it.operator[0] for it in access.predicates if it.kind == "range" and it.key == predicate.key}
    last = len(known) - 1
    shares = (0.90, 0.92) if len(ends) > 1 else (0.95, 0.05)
    place = round(last * shares[predicate.operator[0] != ">"])
    if predicate.operator in ("<", ">") and not column.bounds:
        place = max(place, 1) if predicate.operator == "<" else min(place, last - 1)
    return literal(known[place]) if 0 <= place <= last else None


def _in_order(value: str) -> tuple[float, str]:
    return (float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else 0.0, value)


def _hint(table: Table, predicate: Predicate) -> str | None:
    """Return the constant that an index is there for: ``where status = 'open'`` says what is asked for."""
    start = f"{predicate.key.text} = "
    for index in table.indexes:
        for part in (index.where or "").split(" AND "):
            if part.startswith(start) and re.fullmatch(r"'(?:[^']|'')*'|\d+|true|false", part[len(start) :], re.I):
                return part[len(start) :]
    return None
