"""A standby was away for longer than the server may keep WAL for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.drills.inactive_replication_slot import write
from pgrunbooks.sandbox import Sandbox

SLOT = "drill_replica_3"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Limit what slots may keep to one segment, and write past it behind a slot that nobody reads."""
    with Actors(sandbox) as stage:
        drop = f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{SLOT}'"
        stage.heal(drop, "alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
        stage.watcher.execute(drop)
        stage.watcher.execute("alter system set max_slot_wal_keep_size = '16MB'")
        stage.watcher.execute("select pg_reload_conf()")
        stage.wait_until("select current_setting('max_slot_wal_keep_size') = '16MB'")
        stage.watcher.execute(f"select pg_create_physical_replication_slot('{SLOT}', true)")
        for _ in range(3):  # the checkpointer may read the setting a moment later than this session
            write(stage, 3)
            stage.watcher.execute("checkpoint")
            if _is_lost(stage):
                break
        stage.wait_until(f"select wal_status = 'lost' from pg_replication_slots where slot_name = '{SLOT}'")
        yield Incident("slot", SLOT, "critical")


def _is_lost(stage: Actors) -> bool:
    slot = stage.watcher.execute("select wal_status from pg_replication_slots where slot_name = %s", [SLOT]).fetchone()
    return slot is not None and slot[0] == "lost"


drill = Drill(
    "replication-slot-lost",
    symptom="Replica 3 is back from its repair. It starts, and it shows the orders of last week for ever.",
    fault=fault,
)
