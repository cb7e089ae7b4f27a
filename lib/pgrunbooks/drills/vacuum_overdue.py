"""Every basket is written again at each click, and no vacuum has come by for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Leave 30,000 dead rows in a table of 30,000, where autovacuum is off so that it does not heal the fault."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("drop table if exists shop.baskets")
        stage.heal("drop table if exists shop.baskets")
        stage.watcher.execute(
            "create table shop.baskets with (autovacuum_enabled = false) as"
            " select i as id, 0 as clicks from generate_series(1, 30000) as i"
        )
        stage.watcher.execute("analyze shop.baskets")
        stage.watcher.execute("update shop.baskets set clicks = clicks + 1")
        stage.watcher.execute("select pg_stat_force_next_flush()")
        stage.wait_until("select pg_stat_get_dead_tuples('shop.baskets'::regclass) >= 30000")
        yield Incident("table", "shop.baskets", "warning")


drill = Drill(
    "vacuum-overdue",
    symptom="The basket opens more slowly from day to day, although there are no more of them than last month.",
    fault=fault,
)
