"""Plays every drill on the newest and the oldest server, with pgbench as noise, and asks what is wrong.

'pgrunbooks check' is asked as a user would: all that the runbook 'troubleshooting' asks and the area of the drill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
import yaml

from measure import Page, figure, run, table
from pgrunbooks.check import registry
from pgrunbooks.drills import Drill, Incident, drills
from pgrunbooks.errors import RunbookError
from pgrunbooks.sandbox import Sandbox, server_programs, temporary_sandbox, wait_until

OLDEST = Path(os.environ.get("PGRUNBOOKS_TEST_PG15_BIN", "/usr/lib/postgresql/15/bin"))
CLIENTS, RATE = 8, 300  # of pgbench: as many as block each other on one branch, and as slow as leaves room to measure
TARGET = "drill"
HEAL_BY_THEMSELVES = {"statistics-reset-recent"}  # within seconds: asked once
NOT_HERE = "cannot be asked on this server"
ROOT_FIRST = {"cause", "sibling", "like", "load"}  # what may stand before the drill's own finding
_SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True)
class Answer:
    """What one call of the command line said, and after how many seconds."""

    seconds: float
    findings: Sequence[Mapping[str, Any]]
    outcomes: Mapping[str, str]

    def rank(self, code: str, incident: Incident) -> int | None:
        """Return the place of the drill's root among the findings, 1 for the first; None where it is missing."""
        wanted = f"{code}:{incident.kind}:{TARGET if incident.kind == 'target' else incident.name}"
        return next((place for place, it in enumerate(self.findings, 1) if it["id"] == wanted), None)

    def before(self, place: int, loads: Collection[str]) -> Sequence[tuple[str, str]]:
        """Return each finding that stands before a place: what it is to the one there, and its name.

        'cause' leads to it, 'sibling' has a cause in common with it, 'like' is the same answer about another object,
        which names order, and 'load' is one of ``loads``, ids that are found with no fault; anything else is 'other'.
        """
        ahead, mine = self.findings[: place - 1], self.findings[place - 1]
        causes = self._causes(mine)

        def is_a(it: Mapping[str, Any]) -> str:
            if it["id"] in causes:
                return "cause"
            if (it["code"], it["severity"]) == (mine["code"], mine["severity"]):
                return "like"
            if causes & self._causes(it):
                return "sibling"
            return "load" if it["id"] in loads else "other"

        return [(is_a(it), named([it])) for it in ahead]

    def _causes(self, finding: Mapping[str, Any]) -> set[str]:
        """Return the ids of what led to a finding, near and far."""
        causes: set[str] = set()
        queue = list(finding["caused_by"])
        while queue:
            causes.add(cause := queue.pop())
            queue += [it for found in self.findings if found["id"] == cause for it in found["caused_by"]]
        return causes


def main() -> None:
    """Play the drills, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of the check inside each incident (default: 3)")
    parser.add_argument("--only", nargs="*", metavar="CODE", help="these drills alone; writes no page")
    given = parser.parse_args()
    chosen = [it for it in drills().values() if not given.only or it.code in given.only]
    page = Page("Every drill, under load", {"pgrunbooks": metadata.version("pgrunbooks")})
    parts: list[str] = []
    for programs in (server_programs(), OLDEST):
        with temporary_sandbox(programs=programs) as sandbox, noise(sandbox) as keep_busy:
            os.environ["PGRUNBOOKS_HISTORY"] = str(sandbox.directory / "history")  # where drills of growth write theirs
            parts += on_server(sandbox, chosen, given.runs, keep_busy)
    if given.only:
        print("\n\n".join(parts))
    else:
        page.write("drills", explanation(given.runs), *parts)


def on_server(
    sandbox: Sandbox, chosen: Sequence[Drill], runs: int, keep_busy: Callable[[], None]
) -> tuple[str, str, str]:
    """Play drills on one server; return what this server's part of the page says."""
    with sandbox.connect() as connection:
        version = connection.execute("show server_version").fetchone()
    quiet = ask(sandbox, "troubleshooting")
    rows: list[dict[str, str]] = []
    for drill in chosen:
        try:
            rows.append(play(sandbox, drill, runs, quiet, keep_busy))
        except (RunbookError, psycopg.Error, TimeoutError) as error:
            rows.append(cells(drill, result=f"not played: {type(error).__name__}: {error}".splitlines()[0]))
            sandbox.start(sample=False)
            keep_busy()
        print(" | ".join(rows[-1].values()), file=sys.stderr)
    played = [row for row in rows if row["rank"] and row["result"] != NOT_HERE]
    first = sum(row["rank"] == "1" for row in played)
    roots = sum(row["root first"] == "yes" for row in played)
    return (
        f"## PostgreSQL {version[0] if version else ''}",
        f"The root came first in {roots} of {len(played)} drills; in {first} of them it is the drill's own finding. "
        f"Before the first drill, under load alone: {named(quiet.findings) or 'no finding'}, in {quiet.seconds:.2f} s.",
        table(rows),
    )


def play(sandbox: Sandbox, drill: Drill, runs: int, quiet: Answer, keep_busy: Callable[[], None]) -> dict[str, str]:
    """Make one fault, ask what is wrong, heal it and ask again; return the line of the table."""
    area = registry()[drill.code].rule.area
    ask_for = ("troubleshooting", drill.code if registry()[drill.code].opt_in else area)
    if drill.code in HEAL_BY_THEMSELVES:
        runs = 1
    with drill.fault(sandbox) as incident:
        keep_busy()  # a drill that restarts the server has ended it
        answers = [ask(sandbox, *ask_for, drill=drill, settings=incident.settings) for _ in range(runs)]
    keep_busy()
    healed = ask(sandbox, *ask_for, drill=drill)
    ranks = [answer.rank(drill.code, incident) for answer in answers]
    loads = {it["id"] for it in (*quiet.findings, *healed.findings) if it["code"] != drill.code}
    ahead = [
        answer.before(rank, loads) if rank else [("other", "missing")]
        for answer, rank in zip(answers, ranks, strict=True)
    ]
    roots = {kind for place in ahead for kind, _ in place} <= ROOT_FIRST
    last = answers[-1]
    beside = [len(answer.findings) - bool(rank) for answer, rank in zip(answers, ranks, strict=True)]
    again = [it for it in healed.findings if it["code"] == drill.code]
    outcome = healed.outcomes.get(drill.code, "not asked")
    return cells(
        drill,
        worst=min((it["severity"] for it in last.findings), key=_SEVERITIES.index, default="none"),
        rank=" / ".join(dict.fromkeys(str(rank or "missing") for rank in ranks)),
        beside=str(statistics.median_low(beside)),
        check_s=figure([answer.seconds for answer in answers]),
        healed_s=f"{healed.seconds:.2f}",
        silent="no: " + named(again) if again else "yes" if outcome == "ok" else outcome,
        before=", ".join(f"{kind}: {name}" for kind, name in ahead[-1]),
        **{"root first": "yes" if roots else "no"},
        result=NOT_HERE if {it.outcomes.get(drill.code) for it in answers} == {"skipped"} else "",
    )


def cells(drill: Drill, **known: str) -> dict[str, str]:
    """Return one line of the table; what is not known stays empty."""
    columns = ("worst", "rank", "root first", "beside", "check_s", "healed_s", "silent", "before", "result")
    return {"drill": drill.code, **{name: known.get(name, "") for name in columns}}


def ask(
    sandbox: Sandbox, *areas: str, drill: Drill | None = None, settings: Mapping[str, object] = MappingProxyType({})
) -> Answer:
    """Call the command line on a target that has these settings and the limits of a drill.

    The counters of a sandbox are young, which is no news: statistics-reset-recent is told to take any age.
    """
    thresholds = {code: dict(limits) for code, limits in drill.thresholds.items()} if drill else {}
    target = {
        "dsn": sandbox.url(),
        "thresholds": {"statistics-reset-recent": {"min_age": "0"}, **thresholds},
        **settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        targets = Path(folder) / "targets.yml"
        targets.write_text(yaml.safe_dump({"targets": {TARGET: target}}), encoding="utf-8")
        pgrunbooks = (sys.executable, "-m", "pgrunbooks", "--targets", str(targets))
        done = run(
            (*pgrunbooks, "check", *areas, "--target", TARGET, "--json"),
        )
    _, _, document = done.output.partition("{")  # a line about a server that does not answer comes before it
    if not document:
        sys.exit(f"pgrunbooks check: exit status {done.status}\n{done.output}")
    said = json.loads("{" + document)
    return Answer(done.seconds, said["findings"], {check["code"]: check["outcome"] for check in said["checks"]})


def named(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the codes and objects of findings in one line."""
    return ", ".join(f"{it['severity']} {it['code']} {it['object']['name']}" for it in findings)


@contextmanager
def noise(sandbox: Sandbox) -> Iterator[Callable[[], None]]:
    """Keep a server busy with pgbench for as long as the block lasts; yield what starts it again after a restart."""
    with sandbox.connect("postgres") as connection:
        connection.execute("create database bench")
    program, url = sandbox.programs / "pgbench", sandbox.url("bench")
    subprocess.run([program, "-i", "-q", "-s", "1", url], check=True, capture_output=True)
    with contextlib.ExitStack() as stage:
        running: list[subprocess.Popen[bytes]] = []

        def keep_busy() -> None:
            if running and running[-1].poll() is None:
                return
            load = [str(program), "-n", "-c", str(CLIENTS), "-R", str(RATE), "-T", "3600", url]
            process = stage.enter_context(subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stage.callback(process.terminate)
            running.append(process)
            with sandbox.connect("postgres") as watcher:
                there = "select count(*) >= %s from pg_stat_activity where application_name = 'pgbench'"
                wait_until(watcher, there, [CLIENTS])

        keep_busy()
        yield keep_busy


def explanation(runs: int) -> str:
    """Return what the columns mean."""
    return (
        f"Noise: `pgbench -c {CLIENTS} -R {RATE}` on scale 1 in another database of the server. Each drill is made "
        "with the limits that it names, asked about with `pgrunbooks check troubleshooting AREA` as a whole process "
        f"(`check_s`: median of {runs}, lowest to highest), healed, and asked about once more (`healed_s`). `rank` is "
        "the place of the drill's own finding among all findings, `beside` how many others there were. `before` names "
        "those that stood before it and says what they are to it: its *cause*, a *sibling* of the same cause, one "
        "*like* it about another object, which names order, or what the *load* itself makes, since it is found with no "
        "fault too; `root first` says that there was nothing else, each time. `silent` says whether its check found "
        "nothing once the fault was healed (`skipped`: what it asks, such as a pooler, is gone with the drill)."
    )


if __name__ == "__main__":
    main()
