"""A shop in words, for the candidates of a statement, and a shop on a server, for the search."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgrunbooks.advice import values
from pgrunbooks.advice.candidates import candidates
from pgrunbooks.advice.catalog import Catalog, Column, Existing, Table
from pgrunbooks.advice.expressions import repaired
from pgrunbooks.advice.scopes import parse

_ROWS = 1_000_000


def column(name: str, type_: str = "int8", n_distinct: float = -1.0, **changes: object) -> Column:
    category = {"text": "S", "bool": "B", "jsonb": "U", "_text": "A", "tstzrange": "R"}.get(type_, "N")
    return Column(name, type_, category, n_distinct=n_distinct, **changes)  # type: ignore[arg-type]


_COLUMNS = {
    "shop.orders": (
        column("id"),
        column("customer_id", n_distinct=-0.1),
        column("status", "text", 4, common={"paid": 0.9, "open": 0.02}, sorts_bytes=False, width=5),
        column("total", "numeric"),
        column("placed_at", "timestamptz", correlation=0.99, bounds=tuple(f"2026-01-{day:02}" for day in range(1, 32))),
        column("cancelled_at", "timestamptz", null_frac=0.97),
        column("shipped_at", "timestamptz", null_frac=0.1),
        column("urgent", "bool", 2, common={"f": 0.99, "t": 0.01}, width=1),
        column("note", "text", width=700),
    ),
    "shop.customers": (
        column("id"),
        column(
            "email", "text", sorts_bytes=False, width=24, bounds=("ada@example.com", "ben@example.com", "eve@x.org")
        ),
        column("code", "text", sorts_bytes=True, width=8, bounds=("AAA1", "BBB2", "CCC3")),
        column("country", "text", 20, sorts_bytes=False, width=3, common={"DE": 0.4, "FR": 0.2}, bounds=("AT", "PL")),
        column("tags", "_text"),
        column("profile", "jsonb"),
        column("active_in", "tstzrange"),
        column("attributes", "hstore"),
        column("address", "inet"),
    ),
    "shop.items": (column("order_id", n_distinct=-0.3), column("product_id", n_distinct=5000), column("quantity")),
}


def _catalog(extensions: frozenset[str] = frozenset(), indexes: tuple[Existing, ...] = ()) -> Catalog:
    tables = {
        name: Table(
            name,
            oid,
            _ROWS,
            20_000,
            columns={it.name: it for it in columns},
            indexes=tuple(it for it in indexes if it.table == name),
        )
        for oid, (name, columns) in enumerate(_COLUMNS.items())
    }
    relations = [
        {"schema": "shop", "name": name.split(".")[1], "table": name, "kind": "r", "place": 1, "definition": None}
        for name in tables
    ]
    relations.append(
        {
            "schema": "shop",
            "name": "open_orders",
            "table": "shop.open_orders",
            "kind": "v",
            "place": 1,
            "definition": "SELECT o.id, o.customer_id AS buyer FROM shop.orders o WHERE o.cancelled_at IS NULL;",
        }
    )
    return Catalog(relations, tables, extensions)


@pytest.fixture
def catalog() -> Callable[..., Catalog]:
    """Return a maker of the catalog of a shop of a million rows a table, with these extensions and indexes."""
    return _catalog


@pytest.fixture
def proposed() -> Callable[..., set[str]]:
    """Return what the candidates of a statement are, as the part of CREATE INDEX after ON."""

    def propose(text: str, catalog: Catalog | None = None, *, covering: bool = False) -> set[str]:
        catalog = catalog or _catalog()
        parsed = parse(values.restored(repaired(text), catalog), catalog.find)
        return {
            index.statement(concurrently=False).removeprefix("create index on shop.")
            for access in parsed.accesses
            for index in candidates(access, catalog, covering=covering)
        }

    return propose
