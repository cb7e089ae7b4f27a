"""Somebody wanted a clean slate for a measurement and reset the statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import DATABASE, Sandbox

MIN_AGE_S = 3


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Reset the counters of the shop; only time heals that, so that the end waits for the drill's limit to pass."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("select pg_stat_reset()")
        try:
            yield Incident("database", DATABASE, "info")
        finally:
            stage.wait_until(
                "select clock_timestamp() - stats_reset > make_interval(secs => %s)"
                " from pg_stat_database where datname = current_database()",
                MIN_AGE_S,
            )


drill = Drill(
    "statistics-reset-recent",
    symptom="The list of unused indexes was long yesterday, and today it is empty.",
    fault=fault,
    thresholds={"statistics-reset-recent": {"min_age": f"{MIN_AGE_S}s"}},
)
