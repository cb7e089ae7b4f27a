"""A migration waits for one forgotten transaction, and the whole application waits for the migration."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox

READERS = 6
_SECONDS = {"warning": "1s", "critical": "1h"}


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Leave a transaction open, queue ALTER TABLE behind it, and reads of the same table behind that."""
    with Actors(sandbox) as stage:
        # who ends the transaction lets the migration through
        stage.heal("alter table shop.orders drop column if exists delivery_note")
        stage.enter(
            "invoice-worker",
            "begin",
            "update shop.orders set status = status where id = (select min(id) from shop.orders)",
        )
        migration = stage.block("migration", "alter table shop.orders add column if not exists delivery_note text")
        for _ in range(READERS - 1):
            stage.block("shop-api", "select count(*) from shop.orders where customer_id = 4711 and status = 'open'")
        last = stage.block("shop-api", "select id from shop.orders where customer_id = 4711")
        stage.waited(last, 1)
        yield Incident("pid", pid(migration), "critical")


drill = Drill(
    "ddl-lock-queue",
    symptom="The migration of the release hangs, and since a minute the shop shows no orders to anybody.",
    fault=fault,
    thresholds={"ddl-lock-queue": _SECONDS, "blocking-lock": _SECONDS, "idle-in-transaction": {"blocking": "1s"}},
)
