"""A wide index that was built for one investigation, long ago."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Build an index of more than ten megabytes that no query can want."""
    with sandbox.connect(application_name="investigation") as session:
        try:
            session.execute("create index order_items_price_idx on shop.order_items (unit_price, quantity, order_id)")
            yield Incident("index", "shop.order_items_price_idx", "warning")
        finally:
            session.execute("drop index if exists shop.order_items_price_idx")


drill = Drill(
    "unused-index",
    symptom="Placing an order writes far more to the disk than the size of its rows explains.",
    fault=fault,
    thresholds={"unused-index": {"min_age": "0"}},
)
