"""A table was loaded in bulk with autovacuum off for it, and nobody switched it on again."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Make a table of 20,000 rows that autovacuum leaves alone."""
    with sandbox.connect(application_name="bulk-load") as session:
        try:
            session.execute(
                "create table shop.price_history with (autovacuum_enabled = false) as"
                " select i as product_id, current_date as day, 1.0 as price from generate_series(1, 20000) as i"
            )
            session.execute("analyze shop.price_history")
            yield Incident("table", "shop.price_history", "warning")
        finally:
            session.execute("drop table if exists shop.price_history")


drill = Drill(
    "autovacuum-disabled",
    symptom="Prices were imported last winter. Since then the query for them gets a little slower every day.",
    fault=fault,
)
