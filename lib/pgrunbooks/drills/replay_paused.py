"""Somebody paused a standby to look at a row as it was, and went home."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.drills.inactive_replication_slot import write
from pgrunbooks.sandbox import Sandbox, temporary_standby, wait_until


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Start a streaming standby and pause its replay; it is the standby that has to be asked."""
    with temporary_standby(sandbox) as standby, paused(sandbox, standby) as name:
        yield Incident("standby", name, "warning", settings={"dsn": standby.url()})


@contextmanager
def paused(sandbox: Sandbox, standby: Sandbox, segments: int = 1) -> Iterator[str]:
    """Pause the replay of a standby while its primary writes, and yield the standby's name; replay goes on after."""
    with standby.connect() as dba:
        wait_until(dba, "select exists (select from pg_stat_wal_receiver where status = 'streaming')")
        dba.execute("select pg_wal_replay_pause()")
        try:
            with Actors(sandbox) as stage:
                write(stage, segments)
                (written,) = stage.watcher.execute("select pg_current_wal_lsn()").fetchall()
            wait_until(dba, "select pg_get_wal_replay_pause_state() = 'paused'")
            wait_until(dba, "select pg_last_wal_receive_lsn() >= %s::pg_lsn", written)
            yield "walreceiver"  # what a standby is called that was not given a name
        finally:
            dba.execute("select pg_wal_replay_resume()")
            wait_until(dba, "select pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()")


drill = Drill(
    "replay-paused",
    symptom="The report that reads from the replica shows the same numbers since noon. The replica answers at once.",
    fault=fault,
)
