"""What drills do to a whole server: stop it for a moment, and move its ids ahead while it is down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgrunbooks.sandbox import Sandbox

BILLION = 10**9
_NEVER = 2 * BILLION  # autovacuum would otherwise freeze everything at once, and the fault be healed
_SETTINGS = ("autovacuum_freeze_max_age", "autovacuum_multixact_freeze_max_age")
_XIDS_A_SEGMENT = 2**20  # 32 pages of 8 kB in pg_xact, two bits an id
_MULTIXACTS_A_SEGMENT = 2**16  # 32 pages of 8 kB in pg_multixact/offsets, four bytes an id


@contextmanager
def stopped(sandbox: Sandbox) -> Iterator[None]:
    """Keep a server down for as long as the block lasts; every session of it ends."""
    keep = (sandbox.directory / "keep").exists()
    sandbox.stop()
    try:
        yield
    finally:
        sandbox.start(keep=keep, sample=False)


def run(sandbox: Sandbox, program: str, *arguments: str) -> None:
    """Run one of the server's programs on its data directory, as the user that owns it.

    Raises SandboxError with the program's last line where it fails.
    """
    sandbox.run(program, "-D", str(sandbox.data), *arguments)


@contextmanager
def moved_ahead(sandbox: Sandbox, *, transactions: int = 0, multixacts: int = 0) -> Iterator[None]:
    """Move the next transaction id, or the next multixact id, that far ahead; everything is frozen afterwards.

    Autovacuum is kept from healing it. The ids are moved to the first one of a segment file, since the server makes
    a new file there by itself.
    """
    with sandbox.connect() as session:
        for name in _SETTINGS:
            session.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(_NEVER)))
        session.execute("checkpoint")
        row = session.execute(
            "select next_xid, next_multixact_id::text, oldest_multi_xid::text from pg_control_checkpoint()"
        ).fetchone()
    assert row is not None
    epoch, xid = (int(part) for part in row[0].split(":"))
    arguments = []
    if transactions:
        epoch, xid = divmod(_first_of_segment((epoch << 32) + xid + transactions, _XIDS_A_SEGMENT), 2**32)
        arguments += ["-e", str(epoch), "-x", str(xid)]
    if multixacts:
        next_multixact = _first_of_segment(int(row[1]) + multixacts, _MULTIXACTS_A_SEGMENT) % 2**32
        arguments += ["-m", f"{next_multixact},{row[2]}"]
    try:
        with stopped(sandbox):
            run(sandbox, "pg_resetwal", *arguments)
        yield
    finally:
        _freeze(sandbox)
        with stopped(sandbox):
            pass


def _first_of_segment(number: int, ids: int) -> int:
    """Return the first id of the next segment file; never that of file 0, whose first ids are special."""
    first = (number // ids + 1) * ids
    return first if first % 2**32 else first + ids


def _freeze(sandbox: Sandbox) -> None:
    """Freeze every row of every database, template0 included, and give the settings back."""
    with sandbox.connect() as session:
        for name in _SETTINGS:
            session.execute(sql.SQL("alter system reset {}").format(sql.Identifier(name)))
        databases = session.execute("select datname, datallowconn from pg_database where datconnlimit <> -2").fetchall()
        for name, is_open in databases:
            allow = sql.SQL("alter database {} allow_connections {}")
            if not is_open:
                session.execute(allow.format(sql.Identifier(name), sql.Literal(True)))
            try:
                with sandbox.connect(name) as inside:
                    inside.execute("vacuum (freeze)")
            finally:
                if not is_open:
                    session.execute(allow.format(sql.Identifier(name), sql.Literal(False)))
