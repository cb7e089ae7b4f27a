"""A worker begins a transaction, updates an order, and goes away to call a slow service."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Leave one transaction open for longer than the drill's warning limit."""
    with Actors(sandbox) as stage:
        worker = stage.enter(
            "invoice-worker",
            "begin",
            "update shop.orders set status = status where id = (select min(id) from shop.orders)",
        )
        stage.wait_until(
            "select clock_timestamp() - state_change > '1 s' and state = 'idle in transaction'"
            " from pg_stat_activity where pid = %s",
            worker.info.backend_pid,
        )
        yield Incident("pid", pid(worker), "warning")


drill = Drill(
    "idle-in-transaction",
    symptom="Nothing is broken yet, but the dashboard says that a transaction has been open for quite a while.",
    fault=fault,
    thresholds={"idle-in-transaction": {"warning": "1s", "critical": "1h"}},
)
