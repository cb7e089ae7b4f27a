"""A report locks a row for update and computes; other sessions want the same row."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident, pid
from pgrunbooks.sandbox import Sandbox

_ROW = "select id from shop.products where id = (select min(id) from shop.products) for update"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Hold a row lock inside a running statement while two sessions wait for it, one behind the other."""
    with Actors(sandbox) as stage:
        report = stage.enter("stock-report", "begin", _ROW)
        report.pgconn.send_query(b"select pg_sleep(600)")
        waiter = stage.block("checkout", _ROW)
        stage.block("checkout", _ROW)
        stage.waited(waiter, 1)
        yield Incident("pid", pid(report), "warning")


drill = Drill(
    "blocking-lock",
    symptom="One product cannot be put into the basket; everything else in the shop works.",
    fault=fault,
    thresholds={"blocking-lock": {"warning": "1s", "critical": "1h"}},
)
