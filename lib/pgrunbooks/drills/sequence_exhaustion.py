"""A table of returns was made with an integer key, and an import has taken most of the numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox

USED = 2_040_000_000


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Make a table whose serial column has nine tenths and a half of the integers behind it."""
    with sandbox.connect(application_name="import") as session:
        try:
            session.execute("create table shop.returns (id serial primary key, order_id bigint not null)")
            session.execute("select setval('shop.returns_id_seq', %s)", [USED])
            session.execute("insert into shop.returns (order_id) values (1)")
            yield Incident("sequence", "shop.returns_id_seq", "critical")
        finally:
            session.execute("drop table if exists shop.returns")


drill = Drill(
    "sequence-exhaustion",
    symptom="All is well, says the shop. The warehouse wonders why the numbers of its returns have ten digits.",
    fault=fault,
)
