"""Since last night an import runs again and again, and a quiet table grows like never before."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills._history import database, live
from pgrunbooks.sandbox import Sandbox

DATABASE = "drill_imports"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Let a table grow for two weeks with a snapshot each day, and by as much again on the last of them."""
    with database(sandbox, DATABASE) as connection:
        live(sandbox, connection, [300 + 20 * (day % 3) for day in range(14)] + [4000])
        yield Incident("table", "public.events", "warning", {"dsn": sandbox.url(DATABASE)})


drill = Drill(
    "growth-anomaly",
    symptom="The nightly backup takes twice as long as it did all month, and nobody has released anything.",
    fault=fault,
    thresholds={"growth-anomaly": {"min_bytes": "1MB"}},
)
