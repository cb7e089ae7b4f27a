"""The shop has run for years, somebody told autovacuum not to freeze, and half of the transaction ids are used up."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills._server import BILLION, moved_ahead
from pgrunbooks.sandbox import DATABASE, Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Move the server's next transaction id a thousand million ahead, which takes two restarts."""
    with moved_ahead(sandbox, transactions=BILLION):
        yield Incident("database", DATABASE, "warning")


drill = Drill(
    "xid-wraparound",
    symptom="Nothing hurts yet. A colleague read of a company whose database took no more writes one Sunday.",
    fault=fault,
)
