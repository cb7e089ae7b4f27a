"""A migration has locked a table and computes; everybody who wants to read it waits."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

WAITERS = 4


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Lock a table in a transaction that then does something else, and let four readers wait for a second."""
    with Actors(sandbox) as stage:
        stage.enter("migration", "begin", "lock table shop.audit_log in access exclusive mode")
        readers = [stage.block("audit-page", "select count(*) from shop.audit_log") for _ in range(WAITERS)]
        for reader in readers:
            stage.waited(reader, 1)
        yield Incident("wait_event", "relation", "warning")


drill = Drill(
    "wait-event-hotspot",
    symptom="The server's load is low, its disk idle, its sessions all active, and the audit pages never load.",
    fault=fault,
)
