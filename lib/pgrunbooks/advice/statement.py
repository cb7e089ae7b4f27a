"""CREATE INDEX as text: read into an index, and a name for one that has none yet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import count

import pglast
from pglast import ast
from pglast.parser import ParseError
from pglast.stream import RawStream

from pgrunbooks.advice.expressions import identifiers, quoted, split, unquoted
from pgrunbooks.errors import LabError
from pgrunbooks.lab import Index

_NAME_BYTES = 63  # NAMEDATALEN - 1
_CAST = re.compile(r"\bCAST\(([^()]*) AS [^()]*\)")


def read_index(text: str) -> Index:
    """Return the index that a CREATE INDEX statement describes; its table without a schema where the text names none.

    Raises LabError for anything else: a trial runs nothing that a person typed.
    """
    try:
        statements = pglast.parse_sql(text)
    except ParseError as error:
        raise LabError(f"needs one CREATE INDEX statement: {error.args[0]}") from None
    if len(statements) != 1 or not isinstance(statements[0].stmt, ast.IndexStmt):
        raise LabError("needs one CREATE INDEX statement, such as: create index on shop.orders (status, placed_at)")
    it = statements[0].stmt
    schema = f"{quoted(it.relation.schemaname)}." if it.relation.schemaname else ""
    return Index(
        table=schema + quoted(it.relation.relname),
        keys=tuple(_text(element) for element in it.indexParams),
        method=it.accessMethod,
        include=tuple(quoted(element.name) for element in it.indexIncludingParams or ()),
        where=_text(it.whereClause) if it.whereClause else None,
        unique=bool(it.unique),
    )


def names_for(indexes: Iterable[Index], taken: Collection[str]) -> dict[Index, str]:
    """Return for each new index a name as PostgreSQL would choose it, as 'schema.index'; none of ``taken`` (bare)."""
    names: dict[Index, str] = {}
    used = set(taken)
    for index in indexes:
        name = next(name for number in count() if (name := _name(index, number)) not in used)
        used.add(name)
        names[index] = f"{split(index.table)[0]}.{quoted(name)}"
    return names


def _name(index: Index, number: int) -> str:
    words = [unquoted(index.table)]
    for key in index.keys:
        what = key[: key.rfind(")") + 1] or key.partition(" ")[0]  # without collation, operator class and order
        what = _CAST.sub(r"\1", what)
        words += sorted(identifiers(what), key=what.find) or ["expr"]
    tail = f"_idx{number or ''}"
    stem = re.sub(r"\W+", "_", "_".join(words)).lower()
    return stem.encode()[: _NAME_BYTES - len(tail)].decode(errors="ignore") + tail


def _text(node: ast.Node) -> str:
    return str(RawStream()(node))
