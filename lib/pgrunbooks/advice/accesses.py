"""What a statement asks of its tables, as the advisor speaks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgrunbooks.advice.expressions import quoted

Kind = Literal["equal", "among", "range", "like", "prefix", "pattern", "contains", "test"]


@dataclass(frozen=True)
class Key:
    """Something that an index can be built on: a column, or an expression in parentheses as CREATE INDEX wants it."""

    text: str
    columns: frozenset[str]

    @property
    def column(self) -> str | None:
        """Return the name of the column, or None for an expression."""
        name = next(iter(self.columns), None)
        return name if name is not None and self.text == quoted(name) else None


@dataclass(frozen=True)
class Predicate:
    """One condition on one table: ``params`` are the $n that stand alone on the other side.

    ``text`` is the condition in the words of the table alone where nothing but literals is compared, so that a partial
    index can carry it; ``joins``: the other side comes from another table.
    """

    kind: Kind
    key: Key
    operator: str
    params: tuple[int, ...] = ()
    text: str | None = None
    joins: bool = False
    constant: str | None = None


@dataclass(frozen=True)
class Order:
    """One key that rows are wanted in the order of."""

    key: Key
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True)
class Access:
    """What a statement asks of one appearance of a table.

    ``alternatives`` are the arms of an OR, each with its own predicates. ``columns`` is None where a whole row is read.
    """

    table: str
    predicates: tuple[Predicate, ...] = ()
    alternatives: tuple[tuple[Predicate, ...], ...] = ()
    order: tuple[Order, ...] = ()
    groups: tuple[Key, ...] = ()
    columns: frozenset[str] | None = None


@dataclass(frozen=True)
class Write:
    """A table that the statement changes; ``columns`` are those that an UPDATE sets."""

    table: str
    command: Literal["insert", "update", "delete"]
    columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Parsed:
    """One statement understood: ``text`` has every table's name qualified, so that it means the same anywhere.

    ``limits`` and ``offsets`` are the $n that stand there; ``condenses``: it returns fewer rows than it reads, since it
    groups, aggregates or asks for existence; ``lost``: expressions that no index can be made for, since a constant in
    them is gone.
    """

    text: str
    accesses: tuple[Access, ...]
    writes: tuple[Write, ...]
    tables: frozenset[str]
    limits: frozenset[int]
    offsets: frozenset[int]
    condenses: bool = False
    lost: frozenset[str] = frozenset()


class NotUnderstood(ValueError):
    """A statement that the advisor cannot read; the message says why."""


class AmbiguousName(NotUnderstood):
    """A statement with the bare ``name`` of tables in several ``schemas``, the one with most rows first."""

    def __init__(self, name: str, schemas: Sequence[str]) -> None:
        self.name, self.schemas = name, schemas
        super().__init__(f"{name} is a table in each of the schemas {', '.join(sorted(schemas))}")


# From schema (or None), name and search path to the qualified name and the columns; None for an unknown relation.
# A view answers with its definition instead of columns.
Found: TypeAlias = tuple[str, Sequence[str] | str]
Find: TypeAlias = Callable[[str | None, str, Sequence[str]], Found | None]
