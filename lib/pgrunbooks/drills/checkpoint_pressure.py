"""Somebody made max_wal_size as small as it goes, to save room, and the nightly import came."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.drills.inactive_replication_slot import write
from pgrunbooks.sandbox import Sandbox

CHECKPOINTS = 10
_SETTINGS = {"max_wal_size": "32MB", "min_wal_size": "32MB", "checkpoint_completion_target": "0"}


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Have WAL volume force ten checkpoints; what heals the counters of the server is to reset them."""
    with Actors(sandbox) as stage:
        view, count, counters = ("pg_stat_checkpointer", "num_requested", "checkpointer")
        if stage.watcher.info.server_version < 170000:
            view, count, counters = ("pg_stat_bgwriter", "checkpoints_req", "bgwriter")
        empty = f"select pg_stat_reset_shared('{counters}')"
        reset = [f"alter system reset {name}" for name in _SETTINGS]
        stage.heal(*reset, "select pg_reload_conf()", "checkpoint", empty)
        stage.watcher.execute(empty)
        for name, value in _SETTINGS.items():
            stage.watcher.execute(f"alter system set {name} = '{value}'")
        stage.watcher.execute("select pg_reload_conf()")
        for requested in range(1, CHECKPOINTS + 1):
            write(stage, 3)
            stage.wait_until(f"select {count} >= {requested} from {view}")
        yield Incident("cluster", "cluster", "info")


drill = Drill(
    "checkpoint-pressure",
    symptom="Since the move to the small disk the nightly import takes twice as long, and the disk never rests.",
    fault=fault,
)
