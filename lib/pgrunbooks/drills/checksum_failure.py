"""A disk returned something else than was written to it, in one page of the ledger."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

LEDGER = "drill_ledger"  # a database of its own: its counter goes with it
_ORIGINAL = "drill_ledger_original"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Overwrite part of a page and let a query read it; a database made by copying files has no page in the cache."""
    with Actors(sandbox) as stage:
        for name in (LEDGER, _ORIGINAL):
            stage.watcher.execute(f"drop database if exists {name} with (force)")
            stage.heal(f"drop database if exists {name} with (force)")
        stage.watcher.execute(f"create database {_ORIGINAL}")
        with sandbox.connect(_ORIGINAL) as session:
            session.execute(
                "create table entries as select i as id, i * 0.01 as amount from generate_series(1, 5000) i"
            )
            row = session.execute(
                "select pg_relation_filenode('entries'), current_setting('block_size')::int"
            ).fetchone()
        assert row is not None
        stage.watcher.execute(f"create database {LEDGER} template {_ORIGINAL} strategy file_copy")
        oid = stage.watcher.execute("select oid from pg_database where datname = %s", [LEDGER]).fetchone()
        assert oid is not None
        with (sandbox.data / "base" / str(oid[0]) / str(row[0])).open("r+b") as file:
            file.seek(row[1] * 3 // 2)
            file.write(b"a cosmic ray")
        with Actors(sandbox) as readers, contextlib.suppress(errors.DataCorrupted):
            readers.enter("balance", "select sum(amount) from entries", database=LEDGER)
        stage.wait_until("select checksum_failures > 0 from pg_stat_database where datname = %s", LEDGER)
        yield Incident("database", LEDGER, "critical")


drill = Drill(
    "checksum-failure",
    symptom="The balance of the ledger ends with 'invalid page in block 1'. Yesterday it worked.",
    fault=fault,
)
