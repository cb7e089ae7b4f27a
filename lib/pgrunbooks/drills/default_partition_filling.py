"""A till with a wrong clock books visits for a year that has no partition yet."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

TABLE = "shop.events_default"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Insert events of a time that only the default partition takes, and take them out again."""
    with Actors(sandbox) as stage:
        stage.heal(f"truncate {TABLE}", "select pg_stat_force_next_flush()")
        stage.watcher.execute(
            "insert into shop.events (session_id, kind, url_path, occurred_at)"
            " select pg_catalog.gen_random_uuid(), 'page_view', '/', now() + interval '30 years'"
            " from pg_catalog.generate_series(1, 500)"
        )
        stage.watcher.execute("select pg_stat_force_next_flush()")
        stage.wait_until(f"select pg_stat_get_live_tuples('{TABLE}'::regclass) > 0")
        yield Incident("partition", TABLE, "warning")


drill = Drill(
    "default-partition-filling",
    symptom="A migration that makes next year's partition has failed in production and nowhere else.",
    fault=fault,
)
