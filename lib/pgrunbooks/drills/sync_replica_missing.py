"""The only synchronous standby was taken away, and nobody told the primary."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

# Commits until one of them was held up: the setting takes a moment to reach the server's processes.
_COMMITS = b"""
do $$
declare
    began timestamptz;
begin
    loop
        began := clock_timestamp();
        update shop.orders set status = status where id = (select min(id) from shop.orders);
        commit;
        exit when clock_timestamp() - began > interval '300 ms';
        perform pg_sleep(0.02);
    end loop;
end
$$
"""


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Ask for a synchronous standby that does not exist; one session hangs in its commit."""
    with Actors(sandbox) as stage:
        checkout = stage.enter("checkout")
        try:
            _set(stage.watcher, "alter system set synchronous_standby_names = 'replica_that_is_not_there'")
            checkout.pgconn.send_query(_COMMITS)
            stage.wait_until("select exists (select from pg_stat_activity where wait_event = 'SyncRep')")
            yield Incident("cluster", "cluster", "critical")
        finally:
            with sandbox.connect() as healer:
                _set(healer, "alter system reset synchronous_standby_names")
            stage.wait_until(
                "select current_setting('synchronous_standby_names') = ''"
                " and not exists (select from pg_stat_activity where wait_event = 'SyncRep')"
            )


def _set(connection: psycopg.Connection, statement: str) -> None:
    connection.execute(statement)  # ALTER SYSTEM writes a file and no WAL: it does not wait for a standby itself
    connection.execute("select pg_reload_conf()")


drill = Drill(
    "sync-replica-missing",
    symptom="Every write of the shop hangs. Reads work, no session waits for a lock, CPU and disk are idle.",
    fault=fault,
)
