"""Thousands of orders a second reference the same few rows, and each of these locks is a multixact."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills._server import BILLION, moved_ahead
from pgrunbooks.sandbox import DATABASE, Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Move the server's next multixact id a thousand million ahead, which takes two restarts."""
    with moved_ahead(sandbox, multixacts=BILLION):
        yield Incident("database", DATABASE, "warning")


drill = Drill(
    "multixact-wraparound",
    symptom="Transaction ids are fine, says the monitoring. It has never looked at the other counter.",
    fault=fault,
)
