"""A change-data-capture tool was removed, and left a replication slot behind a busy database."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.drills.inactive_replication_slot import write
from pgrunbooks.sandbox import Sandbox

SLOT = "drill_cdc"
_MB = 32  # the least that the server takes


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Make pg_wal small by its settings, then let a slot hold four times as much."""
    with Actors(sandbox) as stage:
        drop = f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{SLOT}'"
        reset = [f"alter system reset {name}" for name in ("max_wal_size", "min_wal_size")]
        stage.heal(drop, *reset, "select pg_reload_conf()", "checkpoint")
        stage.watcher.execute(drop)
        for name in ("max_wal_size", "min_wal_size"):
            stage.watcher.execute(f"alter system set {name} = '{_MB}MB'")
        stage.watcher.execute("select pg_reload_conf()")
        stage.wait_until(f"select current_setting('max_wal_size') = '{_MB}MB'")
        stage.watcher.execute("checkpoint")  # what is too much already goes, so that the slot is what holds the rest
        stage.watcher.execute(f"select pg_create_physical_replication_slot('{SLOT}', true)")
        while not _holds_the_most(stage):
            write(stage, 4 * _MB // 16)  # segments that were made ahead stay until they are written
        yield Incident("cluster", "cluster", "warning")


def _holds_the_most(stage: Actors) -> bool:
    share = stage.watcher.execute(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) / (select sum(size) from pg_ls_waldir())"
        " from pg_replication_slots where slot_name = %s",
        [SLOT],
    ).fetchone()
    return share is not None and share[0] > 0.6


drill = Drill(
    "wal-directory-growth",
    symptom="The alarm says 85% of the disk are used, 80% were an hour ago. The sizes of all tables did not change.",
    fault=fault,
    thresholds={
        "wal-directory-growth": {"warning": "2", "critical": "100"},
        "inactive-replication-slot": {"warning_bytes": "32MB"},
    },
)
