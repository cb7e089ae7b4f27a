"""An import sets a savepoint for each row, so that one bad row does not spoil the rest."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox

ROWS = 70  # a backend announces 64 subtransactions: PGPROC_MAX_CACHED_SUBXIDS


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Write under more savepoints than a backend can announce, and leave the transaction open."""
    with Actors(sandbox) as stage:
        row = "update shop.products set title = title where id = (select min(id) from shop.products)"
        load = stage.enter("catalogue-import", "begin")
        for number in range(ROWS):
            load.execute(f"savepoint row_{number}; {row}")
        yield Incident("pid", pid(load), "warning")


drill = Drill(
    "subtransaction-overflow",
    symptom="While the catalogue is imported every page of the shop takes twice as long. No lock is waited for.",
    fault=fault,
)
