"""A unique index is built concurrently, meets two customers of the same name, fails, and stays behind as a wreck."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Let CREATE UNIQUE INDEX CONCURRENTLY fail over duplicate values."""
    with sandbox.connect(application_name="migration") as session:
        try:
            with contextlib.suppress(errors.UniqueViolation):
                session.execute("create unique index concurrently customers_name_key on shop.customers (full_name)")
            yield Incident("index", "shop.customers_name_key", "warning")
        finally:
            session.execute("drop index concurrently if exists shop.customers_name_key")


drill = Drill(
    "invalid-index",
    symptom="A migration reported an error in the night, and the search for customers by name is as slow as ever.",
    fault=fault,
)
