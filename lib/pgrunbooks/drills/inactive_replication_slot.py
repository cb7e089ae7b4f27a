"""A standby was taken out of service, and its replication slot was forgotten."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

SLOT = "drill_replica_2"
SEGMENTS = 3


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Create a physical slot that nobody reads and write three WAL segments behind it."""
    with Actors(sandbox) as stage:
        drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{}'"
        stage.watcher.execute(drop.format(SLOT))
        stage.heal(drop.format(SLOT))
        stage.watcher.execute(f"select pg_create_physical_replication_slot('{SLOT}', true)")
        write(stage, SEGMENTS)
        yield Incident("slot", SLOT, "warning")


def write(stage: Actors, segments: int) -> None:
    """Write into that many WAL segments, in next to no time: each is left after its first record."""
    for _ in range(segments):
        stage.watcher.execute("select pg_logical_emit_message(false, 'drill', 'an order')")
        stage.watcher.execute("select pg_switch_wal()")
    # what is switched to is written with its first record
    stage.watcher.execute("select pg_logical_emit_message(true, 'drill', 'an order')")


drill = Drill(
    "inactive-replication-slot",
    symptom="Replica 2 was switched off last week to save money. Since then the disk of the primary fills up.",
    fault=fault,
    thresholds={"inactive-replication-slot": {"warning_bytes": "32MB", "warning": "1h"}},
)
