"""Somebody tidied up the indexes of the orders, and every customer's page reads all orders since."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox

_CALLS = 40


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Drop the index that the orders of a customer are found by, and look at some customers; it is built again."""
    with sandbox.connect(application_name="shop") as session:
        session.execute("drop index shop.orders_customer_id_placed_at_idx")
        try:
            for customer in range(_CALLS):
                session.execute(
                    "select id, status, total, placed_at from shop.orders"
                    " where customer_id = %s::bigint order by placed_at desc limit 5",
                    [1000 + customer],
                )
            yield Incident("table", "shop.orders", "warning")
        finally:
            session.execute("create index orders_customer_id_placed_at_idx on shop.orders (customer_id, placed_at)")


drill = Drill(
    "missing-index",
    symptom="The list of a customer's orders takes ten times as long since last night's release.",
    fault=fault,
)
