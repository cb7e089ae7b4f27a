"""The bucket for the backups was renamed, and every copy of a WAL segment fails since."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox, wait_until

_SETTINGS = {"archive_mode": "on", "archive_command": "false"}


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Archive with a command that fails; archive_mode takes two restarts of the sandbox, there and back."""
    keep = (sandbox.directory / "keep").exists()  # stopping forgets it
    try:
        with sandbox.connect() as dba:
            for name, value in _SETTINGS.items():
                dba.execute(f"alter system set {name} = '{value}'")
        _restart(sandbox, keep)
        with sandbox.connect() as writer:
            writer.execute("select pg_logical_emit_message(false, 'drill', 'an order')")
            writer.execute("select pg_switch_wal()")
            wait_until(writer, "select last_failed_time is not null from pg_stat_archiver")
        yield Incident("cluster", "cluster", "critical")
    finally:
        sandbox.start(keep=keep, sample=False)  # wherever it stopped
        with sandbox.connect() as dba:
            for name in _SETTINGS:
                dba.execute(f"alter system reset {name}")
        _restart(sandbox, keep)
        with sandbox.connect() as dba:
            dba.execute("select pg_stat_reset_shared('archiver')")


def _restart(sandbox: Sandbox, keep: bool) -> None:
    sandbox.stop()
    sandbox.start(keep=keep, sample=False)


drill = Drill(
    "wal-archiving-failing",
    symptom="The free space of the database's disk shrinks by the hour, and no table grows. The shop works.",
    fault=fault,
)
