"""Most of the old clicks were deleted, and the table is as large on disk as it was before."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Delete three rows of four from a table of 16 MB and vacuum it: the holes stay."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("drop table if exists shop.clicks")
        stage.heal("drop table if exists shop.clicks")
        stage.watcher.execute(
            "create table shop.clicks as"
            " select i as id, repeat('x', 100) as url, now() as at from generate_series(1, 100000) as i"
        )
        stage.watcher.execute("delete from shop.clicks where id % 4 <> 0")
        stage.watcher.execute("vacuum (analyze) shop.clicks")
        yield Incident("table", "shop.clicks", "warning")


drill = Drill(
    "table-bloat",
    symptom="Old clicks are deleted every month. The disk does not notice, nor does a count of the rest.",
    fault=fault,
    thresholds={"table-bloat": {"min_bytes": "5MB"}},
)
