"""A schema to work in, and what the table query says of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgrunbooks.sandbox import Sandbox

ODD = '"Odd ""Schéma"'


@pytest.fixture
def build(server: Sandbox) -> Iterator[Callable[..., None]]:
    """Run statements as superuser in a schema ``lab``; it goes afterwards, and so does the oddly named schema."""
    with server.connect() as session:
        session.execute("set deadlock_timeout = '10ms'; create schema lab; set search_path to lab")

        def run(*statements: str) -> None:
            for statement in statements:
                session.execute(statement)
            session.execute("select pg_stat_force_next_flush()")
            session.execute("select 1")

        try:
            yield run
        finally:
            session.execute(f"rollback; drop schema if exists lab cascade; drop schema if exists {ODD} cascade")


@pytest.fixture
def dead() -> Callable[..., dict[str, Any]]:
    """Return a maker of rows: a table of 100,000 rows with that many dead ones and a trigger of 20,050."""

    def make(dead_rows: int | None, **changes: Any) -> dict[str, Any]:
        row = {
            "database": "shop",
            "table": "shop.baskets",
            "relation_type": "table",
            "is_toast": False,
            "dead_rows": dead_rows,
            "rows": 100_000,
            "bytes": 2**24,
            "vacuum_trigger": 20_050.0,
            "own_scale_factor": None,
            "autovacuum_enabled": True,
            "is_vacuumed_now": False,
            "last_vacuum_s": 7200.0,
            "workers_running": 3,
            "workers_allowed": 3,
            "workers_do": ["autovacuum: VACUUM shop.orders"],
            "own_cost_limit": -1,
            "cost_limit": 200,
        }
        assert not set(changes) - set(row)
        return {**row, **changes}

    return make


@pytest.fixture
def powerless(server: Sandbox) -> Iterator[dict[str, str]]:
    """Return the settings of a target whose role, ``no rights``, sees statistics and no table."""
    with server.connect() as session:
        session.execute('create role "no rights" login; grant pg_monitor to "no rights"')
        try:
            yield {"dsn": server.url(user="no rights")}
        finally:
            session.execute('drop owned by "no rights"; drop role "no rights"')
