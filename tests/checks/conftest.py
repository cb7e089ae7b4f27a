"""A schema to work in, one with an odd name, and a role that may do nothing: what several areas test with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgrunbooks.sandbox import Sandbox

ODD = '"Odd ""Schéma"'
LONG = '"' + "x" * 61 + 'é"'  # 63 bytes


@pytest.fixture
def odd() -> tuple[str, str]:
    """Return the quoted names of a schema that ``build`` removes, and one of as many bytes as a name may have."""
    return ODD, LONG


@pytest.fixture
def build(server: Sandbox) -> Iterator[Callable[..., None]]:
    """Run statements as superuser in a schema ``lab``; it goes afterwards, and so does the oddly named schema."""
    with server.connect() as session:
        session.execute("create schema lab; set search_path to lab")

        def run(*statements: str) -> None:
            for statement in statements:
                session.execute(statement)

        try:
            yield run
        finally:
            session.execute(f"rollback; drop schema if exists lab cascade; drop schema if exists {ODD} cascade")


@pytest.fixture
def powerless(server: Sandbox) -> Iterator[dict[str, str]]:
    """Return the settings of a target whose role, ``no rights``, may connect and nothing else."""
    with server.connect() as session:
        session.execute('create role "no rights" login')
        try:
            yield {"dsn": server.url(user="no rights")}
        finally:
            session.execute('drop owned by "no rights"; drop role "no rights"')
