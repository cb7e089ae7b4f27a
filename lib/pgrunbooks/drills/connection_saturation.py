"""A pool that was configured too large takes all connection slots but one."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Open idle connections until a single slot is left."""
    with Actors(sandbox) as stage:
        free = stage.watcher.execute(
            "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
            " - (select count(*) from pg_stat_activity where backend_type = 'client backend')"
        ).fetchone()
        for _ in range((free[0] if free else 0) - 1):
            stage.enter("checkout-pool")
        yield Incident("cluster", "cluster", "critical")


drill = Drill(
    "connection-saturation",
    symptom="Deploy went out an hour ago. Now some requests fail with 'sorry, too many clients already'.",
    fault=fault,
)
