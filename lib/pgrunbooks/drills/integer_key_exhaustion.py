"""Parcels carry the number that the carrier gave them, in a column that was made an integer."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Make a table whose key, filled by the application, is close to the largest integer."""
    with sandbox.connect(application_name="carrier") as session:
        try:
            session.execute("create table shop.parcels (id integer primary key, order_id bigint not null)")
            session.execute(
                "insert into shop.parcels select 2040000000 + i, i from pg_catalog.generate_series(1, 100) as i"
            )
            yield Incident("column", "shop.parcels (id)", "critical")
        finally:
            session.execute("drop table if exists shop.parcels")


drill = Drill(
    "integer-key-exhaustion",
    symptom="The carrier writes that its parcel numbers will go beyond 2,147,483,647 by the end of next month.",
    fault=fault,
)
