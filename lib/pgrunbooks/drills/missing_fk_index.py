"""A table of returned parcels references the reasons, and nobody thought of an index on the referencing column."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox

_RETURNS = """
create schema returns;
create table returns.reasons (id integer primary key, label text not null);
create table returns.parcels (
    id integer primary key,
    reason_id integer not null constraint parcels_reason_fkey references returns.reasons
);
insert into returns.reasons select i, 'reason ' || i from generate_series(1, 200) as i;
insert into returns.parcels select i, 1 + i % 100 from generate_series(1, 20000) as i;
analyze returns.reasons, returns.parcels;
delete from returns.reasons where id > 190;
select pg_stat_force_next_flush();
"""


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Fill a table whose foreign key has no index, and delete rows that it could reference."""
    with sandbox.connect(application_name="returns") as session:
        try:
            session.execute(_RETURNS)
            yield Incident("constraint", "returns.parcels parcels_reason_fkey", "warning")
        finally:
            session.execute("drop schema if exists returns cascade")


drill = Drill(
    "missing-fk-index",
    symptom="Deleting a single reason for returns takes longer each week, and returns cannot be booked meanwhile.",
    fault=fault,
)
