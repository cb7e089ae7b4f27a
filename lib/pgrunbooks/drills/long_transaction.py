"""A nightly job prices one product after the other, all of them in one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Keep a transaction open past the drill's warning limit, at work on its second statement."""
    with Actors(sandbox) as stage:
        job = stage.enter(
            "pricing-job",
            "begin",
            "update shop.products set title = title where id = (select min(id) from shop.products)",
        )
        stage.wait_until(
            "select clock_timestamp() - xact_start > '1.1 s' from pg_stat_activity where pid = %s",
            job.info.backend_pid,
        )
        job.pgconn.send_query(b"select pg_sleep(600)")
        stage.wait_until("select state = 'active' from pg_stat_activity where pid = %s", job.info.backend_pid)
        yield Incident("pid", pid(job), "warning")


drill = Drill(
    "long-transaction",
    symptom="The pricing job should be done by four. It is six, it still works, and the disk fills a little faster.",
    fault=fault,
    thresholds={"long-transaction": {"warning": "1s", "critical": "1h"}},
)
