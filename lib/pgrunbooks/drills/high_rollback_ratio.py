"""A release tries to insert before it looks, and most of its transactions fail."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

SIGNUPS = "drill_signups"  # a database of its own, with counters of its own, which are gone with it
FAILING, WORKING = 400, 700


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Run 1,100 transactions in a database of their own, of which 400 violate a unique constraint."""
    with Actors(sandbox) as stage:
        drop = f"drop database if exists {SIGNUPS} with (force)"
        stage.watcher.execute(drop)
        stage.heal(drop)
        stage.watcher.execute(f"create database {SIGNUPS}")
        with Actors(sandbox) as clients:
            client = clients.enter("signup", "create table signups (email text primary key)", database=SIGNUPS)
            for number in range(WORKING):
                client.execute("insert into signups values (%s)", [f"customer{number}@example.com"])
            for number in range(FAILING):
                with contextlib.suppress(psycopg.errors.UniqueViolation):
                    client.execute("insert into signups values (%s)", [f"customer{number}@example.com"])
        stage.wait_until("select xact_rollback >= %s from pg_stat_database where datname = %s", FAILING, SIGNUPS)
        yield Incident("database", SIGNUPS, "info")


drill = Drill(
    "high-rollback-ratio",
    symptom="Since the release the server does more work, and no more customers sign up than before.",
    fault=fault,
)
