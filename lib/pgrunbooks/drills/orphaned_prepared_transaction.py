"""A payment service prepares its half of a transaction and dies before it commits."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

GID = "drill-payment-4711"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Leave a prepared transaction behind for longer than the drill's warning limit."""
    with Actors(sandbox) as stage:
        _forget(stage)
        try:
            with Actors(sandbox) as service:
                service.enter(
                    "payment-service",
                    "begin",
                    "update shop.orders set status = status where id = (select min(id) from shop.orders)",
                    f"prepare transaction '{GID}'",
                )
            stage.wait_until("select clock_timestamp() - prepared > '1 s' from pg_prepared_xacts where gid = %s", GID)
            yield Incident("prepared_transaction", GID, "warning")
        finally:
            _forget(stage)


def _forget(stage: Actors) -> None:
    if stage.watcher.execute("select from pg_prepared_xacts where gid = %s", [GID]).fetchone() is not None:
        stage.watcher.execute(f"rollback prepared '{GID}'")


drill = Drill(
    "orphaned-prepared-transaction",
    symptom="The payment service crashed and was restarted. One order cannot be changed since, by anybody.",
    fault=fault,
    thresholds={"orphaned-prepared-transaction": {"warning": "1s", "critical": "1h"}},
)
