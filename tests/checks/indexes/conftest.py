"""Rows of the index inventory for the judges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CODES = (
    "invalid-index",
    "duplicate-index",
    "redundant-index",
    "unused-index",
    "missing-fk-index",
    "over-indexed-table",
)
_ROW = {
    "index_oid": 1,
    "index": "shop.a_idx",
    "table_oid": 100,
    "table": "shop.orders",
    "root_table": None,
    "root_index_oid": None,
    "is_partitioned": False,
    "method": "btree",
    "columns": "a",
    "included": None,
    "keys": "1",
    "opclasses": "1978",
    "collations": "0",
    "options": "0",
    "parameters": None,
    "expressions": None,
    "predicate": None,
    "definition": None,
    "state": "valid",
    "is_unique": False,
    "is_immediate": True,
    "nulls_not_distinct": False,
    "is_replica_identity": False,
    "is_clustered": False,
    "constraint_name": None,
    "constraint_type": None,
    "referenced_by": 0,
    "supports": None,
    "extension": None,
    "storage": "",
    "size_bytes": 16 * 2**20,
    "scans": 0,
    "last_scan_s": None,
    "entries_read": 0,
    "table_bytes": 64 * 2**20,
    "table_rows": 100_000,
    "sequential_scans": 10,
    "rows_inserted": 1000,
    "rows_updated": 0,
    "rows_hot_updated": 0,
    "rows_deleted": 0,
    "build": None,
    "counters_age_s": 40 * 86400.0,
}


@pytest.fixture
def codes() -> tuple[str, ...]:
    """Return the codes of the checks that need the catalog only."""
    return CODES


@pytest.fixture
def index_row() -> Callable[..., dict[str, Any]]:
    """Return a maker of rows: btree ``shop.a_idx`` on column 1, with number, column numbers and other changes.

    Each key gets opclass 1978 (int4_ops), no collation and no options unless the changes say otherwise.
    """

    def make(number: int = 1, keys: str = "1", *, included: str = "", **changes: Any) -> dict[str, Any]:
        count = len(keys.split())
        row = {
            **_ROW,
            "index_oid": number,
            "index": f"shop.i{number}_idx",
            "keys": f"{keys} {included}".strip(),
            "columns": ", ".join(f"c{key}" for key in keys.split()),
            "included": ", ".join(f"c{key}" for key in included.split()) or None,
            "opclasses": " ".join(["1978"] * count),
            "collations": " ".join(["0"] * count),
            "options": " ".join(["0"] * count),
        }
        assert not set(changes) - set(row)
        return {**row, **changes}

    return make
