"""A reporting tool opens a connection a chart, and its role may have four."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

ROLE, LIMIT = "drill_reporting", 4


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Use up the connection limit of a role that exists for this drill only."""
    with Actors(sandbox) as stage:
        stage.watcher.execute(f"drop role if exists {ROLE}")
        stage.heal(f"drop role {ROLE}")
        stage.watcher.execute(f"create role {ROLE} login connection limit {LIMIT}")
        for _ in range(LIMIT):
            stage.enter("dashboard", user=ROLE)
        yield Incident("role", ROLE, "critical")


drill = Drill(
    "role-connection-limit",
    symptom="The fifth chart of the dashboard says 'connection refused'; the shop works, and so does everything else.",
    fault=fault,
)
