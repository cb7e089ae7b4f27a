"""A supplier's list was imported in the night, and the first report that joins it never ends."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Fill a table that autovacuum, switched off for it, does not analyze."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("drop table if exists shop.supplier_prices")
        stage.heal("drop table if exists shop.supplier_prices")
        stage.watcher.execute(
            "create table shop.supplier_prices with (autovacuum_enabled = false) as"
            " select i as product_id, 1.0 as price from generate_series(1, 20000) as i"
        )
        stage.watcher.execute("select pg_stat_force_next_flush()")
        stage.wait_until("select pg_stat_get_live_tuples('shop.supplier_prices'::regclass) >= 20000")
        yield Incident("table", "shop.supplier_prices", "warning")


drill = Drill(
    "stale-statistics",
    symptom="Since last night's import the margin report runs for minutes; on yesterday's data it took a second.",
    fault=fault,
)
