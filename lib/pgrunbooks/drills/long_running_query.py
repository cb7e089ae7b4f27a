"""Somebody runs a report over all orders on the primary."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Keep one statement running for longer than the drill's warning limit."""
    with Actors(sandbox) as stage:
        report = stage.enter("monthly-report")
        report.pgconn.send_query(b"select o.id, pg_sleep(600) from shop.orders as o order by o.id limit 1")
        stage.wait_until(
            "select clock_timestamp() - query_start > '1 s' and state = 'active' from pg_stat_activity where pid = %s",
            report.info.backend_pid,
        )
        yield Incident("pid", pid(report), "warning")


drill = Drill(
    "long-running-query",
    symptom="The first of the month. Everything is a bit slow, and nobody knows why.",
    fault=fault,
    thresholds={"long-running-query": {"warning": "1s", "critical": "1h"}},
)
