"""A dispatcher takes an advisory lock for each job in its queue and gives none of them back."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

SHARE = 0.15  # of the table: enough under the drill's limit, and far from harming anybody else


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Fill a part of the shared lock table from one session."""
    with Actors(sandbox) as stage:
        capacity = stage.watcher.execute(
            "select current_setting('max_locks_per_transaction')::int"
            " * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"
        ).fetchone()
        locks = int((capacity[0] if capacity else 0) * SHARE)
        stage.enter(
            "job-dispatcher", f"select count(pg_advisory_lock(4711, job)) from generate_series(1, {locks}) as job"
        )
        yield Incident("cluster", "cluster", "warning")


drill = Drill(
    "lock-table-exhaustion",
    symptom="The nightly pg_dump failed with 'out of shared memory'. The host has gigabytes of it.",
    fault=fault,
    thresholds={"lock-table-exhaustion": {"warning": "10%", "critical": "90%"}},
)
