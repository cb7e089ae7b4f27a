"""A standby receives everything and replays nothing, which only its primary's view tells in bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills.replay_paused import paused
from pgrunbooks.sandbox import Sandbox, temporary_standby, wait_until

BEHIND_MB = 16


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Start a streaming standby and let it fall some WAL segments behind the sandbox, its primary."""
    with temporary_standby(sandbox) as standby, paused(sandbox, standby, segments=3) as name:
        with sandbox.connect() as primary:
            wait_until(
                primary,
                "select exists (select from pg_stat_replication where application_name = %s"
                " and pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > %s)",
                [name, BEHIND_MB << 20],
            )
        yield Incident("standby", name, "warning")
    with sandbox.connect() as primary:
        wait_until(primary, "select not exists (select from pg_stat_replication where application_name = %s)", [name])


drill = Drill(
    "replication-lag",
    symptom="Customers who have just ordered do not find their order: that page reads from the replica.",
    fault=fault,
    thresholds={"replication-lag": {"warning_bytes": f"{BEHIND_MB}MB", "critical_bytes": "100GB"}},
)
