"""What drills do to have a past: a database that changes from snapshot to snapshot, each on a day of its own."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg

from pgrunbooks import filing
from pgrunbooks.drills import Actors
from pgrunbooks.sandbox import Sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

DAY = datetime.timedelta(days=1)
FILL = "insert into events (note) select repeat('x', 1000) from generate_series(1, %s)"


@contextmanager
def database(sandbox: Sandbox, name: str) -> Iterator[psycopg.Connection]:
    """Make a database with a table ``events`` for as long as the block lasts; its history goes with it."""
    drop = f"drop database if exists {name} with (force)"
    with Actors(sandbox) as stage:
        stage.watcher.execute(drop)
        stage.heal(drop)
        stage.watcher.execute(f"create database {name}")
        with sandbox.connect(name) as connection:
            connection.execute("create table events (id bigint generated always as identity, note text)")
            with open_session(Target(name="drill", dsn=sandbox.url(name))) as session:
                place = filing.place(filing.history_folder(), filing.ids(session))
            shutil.rmtree(place, ignore_errors=True)
            try:
                yield connection
            finally:
                shutil.rmtree(place, ignore_errors=True)


def live(sandbox: Sandbox, connection: psycopg.Connection, days: Iterable[int]) -> None:
    """Insert so many rows of a kilobyte each day and take a snapshot; the last day is today, an hour ago."""
    from pgrunbooks.history import record_snapshot  # Parquet is for those who keep a history

    rows = list(days)
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    with open_session(Target(name="drill", dsn=sandbox.url(connection.info.dbname))) as session:
        for number, count in enumerate(rows):
            connection.execute(FILL, [count])
            record_snapshot(session, at=now - (len(rows) - 1 - number) * DAY)
