"""The job that makes the partitions of the clicks has failed for two days."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Make a table with a partition a day, of which the last one ended yesterday."""
    with sandbox.connect(application_name="partition-job") as session:
        try:
            session.execute("create table shop.clicks (at timestamptz not null, url text) partition by range (at)")
            session.execute(
                """
                do $$
                declare
                    first timestamptz;
                begin
                    for ahead in -6..-2 loop
                        first := date_trunc('day', now()) + make_interval(days => ahead);
                        execute format('create table shop.%I partition of shop.clicks for values from (%L) to (%L)',
                            to_char(first, '"clicks_"YYYY_MM_DD'), first, first + interval '1 day');
                    end loop;
                end $$
                """
            )
            yield Incident("table", "shop.clicks", "critical")
        finally:
            session.execute("drop table if exists shop.clicks")


drill = Drill(
    "partition-missing-ahead",
    symptom="The pages load, but since yesterday nobody has clicked on anything, if one believes the chart.",
    fault=fault,
)
