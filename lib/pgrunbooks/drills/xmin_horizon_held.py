"""An analyst keeps one snapshot for the whole morning, so that all numbers of the report fit together."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Hold a snapshot past the drill's warning limit while rows die that it still sees."""
    with Actors(sandbox) as stage:
        report = stage.enter(
            "report", "begin isolation level repeatable read read only", "select count(*) from shop.customers"
        )
        stage.enter("shop", "update shop.products set title = title where id <= 100")
        stage.wait_until(
            "select clock_timestamp() - xact_start > '1.1 s' from pg_stat_activity where pid = %s",
            report.info.backend_pid,
        )
        yield Incident("pid", pid(report), "warning")


drill = Drill(
    "xmin-horizon-held",
    symptom="Vacuum runs, says that it is done, and removes nothing. The tables grow all morning.",
    fault=fault,
    thresholds={"xmin-horizon-held": {"warning": "1s", "critical": "1h"}},
)
