"""A table of events that nobody cleans up grows by the same each day, and the disk has room for five more of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills._history import database, live
from pgrunbooks.sandbox import Sandbox

DATABASE = "drill_events"
_DAILY = 2000
TAKEN = """
select (
    (select sum(pg_tablespace_size(oid)) from pg_tablespace) + (select sum(size) from pg_ls_waldir())
)::int8
"""


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Let a database grow for twelve days, with a snapshot each, and name a disk that is nearly full."""
    with database(sandbox, DATABASE) as connection:
        live(sandbox, connection, [_DAILY] * 12)
        (taken,) = connection.execute(TAKEN).fetchone() or (0,)
        disk_bytes = f"{taken + 5 * _DAILY * 1100}B"
        yield Incident("target", "sandbox", "critical", {"dsn": sandbox.url(DATABASE), "disk_bytes": disk_bytes})


drill = Drill(
    "disk-full-forecast",
    symptom="Nothing hurts yet. Somebody asks whether the volume lasts until the new one is delivered, in two weeks.",
    fault=fault,
)
