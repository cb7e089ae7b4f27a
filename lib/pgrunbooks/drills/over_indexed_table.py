"""A table that is written all day and hardly read has gathered an index for every question ever asked."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox

_COLUMNS = [f"value_{number}" for number in range(1, 9)]


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Create a narrow table with a primary key and an index on each other column, with itself as second key."""
    with sandbox.connect(application_name="telemetry") as session:
        try:
            session.execute("create schema telemetry")
            columns = sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(name)) for name in _COLUMNS)
            session.execute(sql.SQL("create table telemetry.readings (id integer primary key, {})").format(columns))
            for name in _COLUMNS:
                session.execute(sql.SQL("create index on telemetry.readings ({}, id)").format(sql.Identifier(name)))
            session.execute(
                "insert into telemetry.readings select i, i, i, i, i, i, i, i, i from generate_series(1, 20000) i"
            )
            session.execute("select pg_stat_force_next_flush()")  # counted later, the rows would seem not analyzed
            session.execute("analyze telemetry.readings; select pg_stat_force_next_flush()")
            yield Incident("table", "telemetry.readings", "info")
        finally:
            session.execute("drop schema if exists telemetry cascade")


drill = Drill(
    "over-indexed-table",
    symptom="The sensors deliver faster than the database takes their readings; nearly all the I/O is writing.",
    fault=fault,
)
