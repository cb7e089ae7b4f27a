"""A dashboard without an index reads a table again and again that is too large for the cache."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

DASHBOARD = "drill_dashboard"  # a database of its own, with counters of its own, which are gone with it
SCANS = 4
_TABLE = "create table readings as select i, repeat('x', 1000) as payload from generate_series(1, 60000) as i"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Scan a table that is larger than what a scan may use of shared_buffers (a quarter: 32 MB), four times."""
    with Actors(sandbox) as stage:
        drop = f"drop database if exists {DASHBOARD} with (force)"
        stage.watcher.execute(drop)
        stage.heal(drop)
        stage.watcher.execute(f"create database {DASHBOARD}")
        scan = "select count(*) from readings where payload = 'y'"
        with Actors(sandbox) as clients:
            alone = "set max_parallel_workers_per_gather = 0"
            clients.enter("import", _TABLE, "vacuum readings", "select pg_stat_reset()", database=DASHBOARD)
            clients.enter("dashboard", alone, *[scan] * SCANS, database=DASHBOARD)
        stage.wait_until("select blks_read > 20000 from pg_stat_database where datname = %s", DASHBOARD)
        yield Incident("database", DASHBOARD, "warning")


drill = Drill(
    "cache-hit-low",
    symptom="The dashboard got slower with each day of readings. Its query was not changed.",
    fault=fault,
    thresholds={"cache-hit-low": {"min_requests": "20000"}},
)
