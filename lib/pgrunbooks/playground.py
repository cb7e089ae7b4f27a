"""Playgrounds: databases of the sandbox that a walkthrough may change: a second shop, and a table with a past."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgrunbooks import filing, sample_data
from pgrunbooks.errors import ConfigurationError, SandboxError
from pgrunbooks.sandbox import DATABASE, default_sandbox
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import SANDBOX, Target

if TYPE_CHECKING:
    from pgrunbooks.months import Snapshot

_TO_STAY = (DATABASE, "postgres", "template0", "template1")
_DAY = datetime.timedelta(days=1)
_FILL = "insert into events (note) select repeat('x', 1000) from generate_series(1, %s)"


class Playground:
    """A database of the sandbox that is there until ``close``; ``name`` is what ``connect`` takes for ``database``.

    One of that name that was left behind is dropped. Raises ConfigurationError for the name of one that has to stay.
    """

    def __init__(self, name: str, template: str = "template1") -> None:
        if name in _TO_STAY:
            raise ConfigurationError(f"the database {name} has to stay; choose another name for a playground")
        self.name = name
        self.sandbox = default_sandbox().start()
        self._forget()
        with self.sandbox.connect("postgres") as connection:
            create = sql.SQL("create database {} template {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        self.connection = self.sandbox.connect(name, application_name="playground")

    def run(self, statement: str) -> None:
        """Execute a statement that changes this database; raises SandboxError with the server's reason."""
        try:
            self.connection.execute(statement.encode())
        except psycopg.Error as error:
            raise SandboxError(f"PostgreSQL refuses: {error.diag.message_primary or error}") from None

    def work(self, calls: int) -> None:
        """Let the shop's application run so many of its statements here, the same ones each time."""
        sample_data.run_workload(self.sandbox.url(self.name), calls=calls, clients=1)

    def forget_counts(self) -> None:
        """Forget what pg_stat_statements has counted of this database."""
        self.run("select pg_stat_statements_reset(0, oid) from pg_database where datname = current_database()")

    def session(self) -> Session:
        """Open a guarded session to this database, such as checks ask."""
        return open_session(Target(name=SANDBOX, dsn=self.sandbox.url(self.name)))

    def close(self) -> None:
        """Drop the database, and forget its history."""
        self.connection.close()
        self._forget()

    def _forget(self) -> None:
        with open_session(Target(name=SANDBOX, dsn=self.sandbox.url("postgres"))) as session:
            server, _ = filing.ids(session)
        place = filing.place(filing.history_folder(), (server, self.name))
        if isinstance(place, Path):
            shutil.rmtree(place, ignore_errors=True)
        with self.sandbox.connect("postgres") as connection:
            drop = sql.SQL("drop database if exists {} with (force)")
            connection.execute(drop.format(sql.Identifier(self.name)))


def shop() -> Playground:
    """Return a second shop: a copy of the sandbox's, or one made anew where somebody is connected to that."""
    with default_sandbox().start().connect("postgres") as connection:
        busy = connection.execute("select from pg_stat_activity where datname = %s", [DATABASE]).fetchone()
    if busy is None:
        return Playground("second_shop", template=DATABASE)
    made = Playground("second_shop")
    sample_data.load(made.connection)
    return made


class Past:
    """A database with a table ``events`` and a ``clock`` of its own: each day that it lives ends in a real snapshot."""

    def __init__(self, days_ago: int) -> None:
        self.playground = Playground("events_past")
        self.playground.run("create table events (id bigint generated always as identity, note text)")
        self.clock = datetime.datetime.now(datetime.UTC) - days_ago * _DAY

    def live(self, rows_a_day: Iterable[int]) -> None:
        """Insert so many rows of a kilobyte on each day to come, and measure the database at its end."""
        from pgrunbooks.history import record_snapshot  # Parquet is for those who keep a history

        with self.playground.session() as session:
            for rows in rows_a_day:
                self.playground.connection.execute(_FILL, [rows])
                self.clock += _DAY
                record_snapshot(session, at=self.clock)

    def taken(self) -> list[Snapshot]:
        """Return the snapshots of all days so far, oldest first, as the functions of ``history`` take them."""
        from pgrunbooks.history import snapshots

        with self.playground.session() as session:
            return snapshots(session)[0]
