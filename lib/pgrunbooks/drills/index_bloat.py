"""Most of the old visits were deleted, and their index is as large as it was before."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Delete three rows of four, here and there, below an index of 6 MB: no page of it becomes empty."""
    with Actors(sandbox) as stage:
        stage.watcher.execute("drop table if exists shop.visits")
        stage.heal("drop table if exists shop.visits")
        stage.watcher.execute(
            "create table shop.visits as select md5(i::text) as visitor from generate_series(1, 100000) as i"
        )
        stage.watcher.execute("create index visits_visitor_idx on shop.visits (visitor)")
        stage.watcher.execute("delete from shop.visits where ascii(right(visitor, 1)) % 4 <> 0")
        stage.watcher.execute("vacuum (analyze) shop.visits")
        yield Incident("index", "shop.visits_visitor_idx", "warning")


drill = Drill(
    "index-bloat",
    symptom="Old visits are deleted every night. The backup, and the cache that the index takes, stay as they were.",
    fault=fault,
    thresholds={"index-bloat": {"min_bytes": "2MB"}},
)
