"""The demo: one real incident in the sandbox, the runbook run inside it, and the page that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgrunbooks.archive import write_overview
from pgrunbooks.check import catalogue
from pgrunbooks.drills import drills
from pgrunbooks.record import execute
from pgrunbooks.sample_data import workload
from pgrunbooks.sandbox import default_sandbox, wait_until


def play(out: Path, say: Callable[[str], object]) -> Path:
    """Play the incident 'a migration waits for a forgotten transaction' and return the overview page's path."""
    say("Starting the embedded PostgreSQL and filling the shop ...")
    sandbox = default_sandbox().start()
    with workload(sandbox.url()):
        say("A shop is at work. Somebody leaves a transaction open, then a migration comes ...")
        with drills()["ddl-lock-queue"].fault(sandbox), sandbox.connect() as watcher:
            warning = catalogue()["ddl-lock-queue"].limits()["warning"]
            wait_until(
                watcher,
                "select min(clock_timestamp() - waitstart) > make_interval(secs => %s) from pg_locks"
                " where not granted and locktype = 'relation'",
                [warning],
            )
            say("The pager rings. Running the runbook 'troubleshooting' ...")
            record = execute("troubleshooting", "sandbox", given={}, out=out)
    findings = record.document["findings"]
    say(f"\n{record.document['status'].upper()}: {findings[0]['title'] if findings else record.document['reason']}")
    page = write_overview(out)
    say(f"\nThe report:   {record.page.resolve()}\nThe overview: {page.resolve()}")
    return page
