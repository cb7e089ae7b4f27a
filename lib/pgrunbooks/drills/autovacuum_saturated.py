"""Somebody told vacuum to be gentle with three large tables, and now it is busy with them for ever."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

_TABLES = 8  # three to be busy with, and more than three that wait
_ROWS = 60_000


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Empty eight tables; autovacuum comes every second, pauses after every page, and has a worker for three."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("set deadlock_timeout = '10ms'")  # after which a worker gives way to what heals
        stage.watcher.execute("drop schema if exists sensors cascade")
        stage.heal(
            "drop schema if exists sensors cascade",
            "alter system reset autovacuum_naptime",
            "select pg_reload_conf()",
        )
        stage.watcher.execute("create schema sensors")
        for number in range(1, _TABLES + 1):
            table = f"sensors.readings_{number}"
            stage.watcher.execute(
                f"create table {table} with (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,"
                f" autovacuum_analyze_threshold = 1000000) as select i as id from generate_series(1, {_ROWS}) as i"
            )
            stage.watcher.execute(f"delete from {table}")
        stage.watcher.execute("alter system set autovacuum_naptime = '1s'")
        stage.watcher.execute("select pg_reload_conf(), pg_stat_force_next_flush()")
        stage.wait_until(
            "select count(*) >= current_setting('autovacuum_max_workers')::int"
            " from pg_stat_progress_vacuum as p join pg_class as c on c.oid = p.relid"
            " where c.relnamespace = 'sensors'::regnamespace"
        )
        yield Incident("cluster", "cluster", "warning")


drill = Drill(
    "autovacuum-saturated",
    symptom="Autovacuum is on and at work day and night. The tables that need it most were last seen by it on Monday.",
    fault=fault,
)
