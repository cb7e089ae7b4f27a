"""The new monitoring role was created, and its grants were forgotten."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import DATABASE, Sandbox

ROLE = "drill_watcher"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Create a role that may connect and nothing else; the target has to connect as that role to see it."""
    with sandbox.connect(application_name="dba") as session:
        try:
            session.execute(f"create role {ROLE} login")
            yield Incident("role", ROLE, "info", settings={"dsn": sandbox.url(DATABASE, ROLE)})
        finally:
            session.execute(f"drop owned by {ROLE}")
            session.execute(f"drop role {ROLE}")


drill = Drill(
    "privilege-missing",
    symptom="The new dashboard is green all over, and so it was during the last incident.",
    fault=fault,
)
