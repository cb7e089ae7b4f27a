"""Somebody adds the index that an advisor asked for; a wider one has served those queries all along."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Create an index on the first column of an index that is there already."""
    with sandbox.connect(application_name="migration") as session:
        try:
            session.execute("create index orders_customer_id_idx on shop.orders (customer_id)")
            yield Incident("index", "shop.orders_customer_id_idx", "warning")
        finally:
            session.execute("drop index if exists shop.orders_customer_id_idx")


drill = Drill(
    "redundant-index",
    symptom="An index was added to speed up the customers' page. Nothing got faster, and writes got slower.",
    fault=fault,
)
