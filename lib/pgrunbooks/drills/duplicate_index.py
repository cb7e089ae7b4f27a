"""Two teams each add the same index, under different names."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Create a copy of an index of the orders that is there already."""
    with sandbox.connect(application_name="migration") as session:
        try:
            session.execute("create index orders_by_customer_idx on shop.orders (customer_id, placed_at)")
            yield Incident("index", "shop.orders_by_customer_idx", "warning")
        finally:
            session.execute("drop index if exists shop.orders_by_customer_idx")


drill = Drill(
    "duplicate-index",
    symptom="Placing an order has become a little slower with every release, and the database a little larger.",
    fault=fault,
)
