"""Two jobs of the warehouse book the same two items, in opposite order."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

WAREHOUSE = "drill_warehouse"  # a database of its own: what heals a counter is to reset it, and the shop keeps its own


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Let two sessions run into one real deadlock; the counter of their database stands until it is dropped."""
    with Actors(sandbox) as stage:
        drop = f"drop database if exists {WAREHOUSE} with (force)"
        stage.watcher.execute(drop)
        stage.heal(drop)
        stage.watcher.execute(f"create database {WAREHOUSE}")
        with Actors(sandbox) as jobs:
            _deadlock(jobs)
        stage.wait_until("select deadlocks > 0 from pg_stat_database where datname = %s", WAREHOUSE)
        yield Incident("database", WAREHOUSE, "warning")


def _deadlock(jobs: Actors) -> None:
    jobs.enter(
        "warehouse",
        "create table stock as select item, 100 as pieces from generate_series(1, 2) as item",
        "select pg_stat_reset()",  # now is when this database's counters begin, however old the sandbox is
        database=WAREHOUSE,
    )
    booking = "update stock set pieces = pieces - 1 where item = {}"
    impatient = "set deadlock_timeout = '10ms'"
    picking, packing = (
        jobs.enter(name, impatient, "begin", booking.format(item), database=WAREHOUSE)
        for name, item in (("picking", 1), ("packing", 2))
    )
    picking.pgconn.send_query(booking.format(2).encode())
    jobs.wait_until("select exists (select from pg_locks where pid = %s and not granted)", picking.info.backend_pid)
    with contextlib.suppress(psycopg.errors.DeadlockDetected):  # one of the two loses; which one is the server's choice
        packing.execute(booking.format(1))


drill = Drill(
    "deadlocks",
    symptom="The warehouse reports that a booking fails now and then; done again, it works.",
    fault=fault,
)
