"""The demo: one real incident in the sandbox, the runbooks inside it and after it, and the page that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgrunbooks.archive import Record, write_overview
from pgrunbooks.check import catalogue
from pgrunbooks.drills import drills
from pgrunbooks.errors import RunbookError
from pgrunbooks.record import execute
from pgrunbooks.sample_data import workload
from pgrunbooks.sandbox import default_sandbox, wait_until

_QUIET = ("index_analysis", "growth_report")


def play(out: Path, say: Callable[[str], object]) -> Path:
    """Play the incident 'a migration waits for a forgotten transaction' and return the overview page's path.

    Raises RunbookError where a runbook could not judge the sandbox.
    """
    say("Starting the embedded PostgreSQL and filling the shop ...")
    sandbox = default_sandbox().start()
    with workload(sandbox.url()):
        say("A shop is at work. Somebody leaves a transaction open, then a migration comes ...")
        with drills()["ddl-lock-queue"].fault(sandbox), sandbox.connect() as watcher:
            wait_until(
                watcher,
                "select min(clock_timestamp() - waitstart) > make_interval(secs => %s) from pg_locks"
                " where not granted and locktype = 'relation'",
                [catalogue()["ddl-lock-queue"].limits()["warning"]],
            )
            say("The pager rings: running 'troubleshooting' ...")
            report = _run("troubleshooting", out)
        say(f"\n{report.document['status'].upper()}: {report.document['findings'][0]['title']}.\n")
        for name in _QUIET:
            say(f"The incident is over: running '{name}' ...")
            _run(name, out)
    page = write_overview(out)
    say(f"\nThe report:   {report.page.resolve()}\nThe overview: {page.resolve()}")
    return page


def _run(name: str, out: Path) -> Record:
    record = execute(name, "sandbox", given={}, out=out)
    if record.document["status"] == "unknown":
        raise RunbookError(f"{name} could not judge the sandbox: {record.document['reason']}")
    return record
