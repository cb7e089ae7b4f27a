"""Times 'pgrunbooks check' beside other tools, on a clean server and inside an incident.

The incident: a transaction that wrote and sits idle, an ALTER TABLE that waits behind it, three SELECTs queued behind
the ALTER, and an uncommitted ACCESS EXCLUSIVE lock on another table. The tools take turns, so that all of them meet
the same noise of the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from measure import LIMIT_S, Page, Run, figure, run, table
from peers import Tool
from peers import tools as peers
from pgrunbooks.drills import Actors, pid
from pgrunbooks.sandbox import Sandbox, temporary_sandbox

QUEUED_S = 6  # the queue has stood that long before anybody looks
SLOW_S = 30  # a tool that takes longer is run once
FLOOR = "floor: one catalog join through psql"
FLOOR_SQL = """
select n.nspname, c.relname, count(*)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = c.oid
group by 1, 2
"""
_BACKENDS = "select pid from pg_catalog.pg_stat_activity where backend_type = 'client backend'"
_BATCH = 500  # tables in one transaction; each takes a lock


@dataclass
class Measured:
    """What came of one tool: its runs by the state of the server, and the backends that it left when it was killed."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: {"clean": [], "incident": []})
    left: int = 0

    def hung(self, state: str) -> bool:
        """Tell whether the tool had to be killed in that state."""
        return any(it.status is None for it in self.runs[state])

    def seconds(self, state: str) -> list[float]:
        """Return the times of all runs in that state."""
        return [it.seconds for it in self.runs[state]]


def main() -> None:
    """Measure, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each tool in each state (default: 5)")
    parser.add_argument("--tables", type=int, default=0, help="how many more tables the database has (default: none)")
    given = parser.parse_args()
    with temporary_sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        add_tables(sandbox, given.tables)
        scratch = Path(folder)
        others, versions = peers(sandbox.url(), sandbox.socket, "shop", scratch)
        tools = [*own_tools(sandbox, scratch), *others]
        with sandbox.connect() as connection:
            server = connection.execute("show server_version").fetchone()
        page = Page("Inside an incident", {"PostgreSQL": server[0] if server else "", **own_version(), **versions})
        measured = {tool.name: Measured() for tool in tools if not tool.absent}
        take_turns(tools, sandbox, measured, "clean", given.runs)
        with incident(sandbox) as pids:
            take_turns(tools, sandbox, measured, "incident", given.runs)
    rows = [row(tool, measured, pids) for tool in tools]
    size = f"The shop of the sandbox and {given.tables:,} tables more." if given.tables else "The shop of the sandbox."
    page.write(f"incident-{given.tables}-tables" if given.tables else "incident", size, table(rows), legend(given.runs))


def own_tools(sandbox: Sandbox, scratch: Path) -> list[Tool]:
    """Return the floor and what is ours, with a target like any user's."""
    targets = scratch / "targets.yml"
    targets.write_text(f"targets: {{shop: {{dsn: '{sandbox.url()}'}}}}\n", encoding="utf-8")
    check = (sys.executable, "-m", "pgrunbooks", "--targets", targets, "check")
    return [
        Tool(FLOOR, ((sandbox.programs / "psql", "-X", "-A", "-t", "-c", FLOOR_SQL, sandbox.url()),)),
        Tool("pgrunbooks check locks", ((*check, "locks", "--target", "shop"),)),
        Tool("pgrunbooks check troubleshooting", ((*check, "troubleshooting", "--target", "shop"),)),
        Tool("pgrunbooks check", ((*check, "--target", "shop"),)),
    ]


def own_version() -> dict[str, str]:
    """Return the version of what is measured here."""
    return {"pgrunbooks": metadata.version("pgrunbooks")}


def add_tables(sandbox: Sandbox, count: int) -> None:
    """Make that many small tables with a primary key, as one schema a customer would."""
    with sandbox.connect() as connection:
        connection.execute("create schema tenants")
        for first in range(0, count, _BATCH):
            names = [f"tenants.orders_{number}" for number in range(first, min(first + _BATCH, count))]
            connection.execute(
                ";".join(f"create table {name} (id bigint primary key, note text)" for name in names).encode()
            )
        connection.execute("vacuum analyze")


@contextmanager
def incident(sandbox: Sandbox) -> Iterator[Mapping[str, str]]:
    """Make the incident; yield who is who: pid -> what that session is."""
    with Actors(sandbox) as actors:
        root = actors.enter("billing", "begin", "update shop.customers set email = email where id = 1")
        ddl = actors.block("migration", "alter table shop.customers add column nickname text")
        readers = [actors.block("web", "select count(*) from shop.customers") for _ in range(3)]
        actors.waited(readers[-1], QUEUED_S)  # so that the root is older by whole seconds than the next transaction
        actors.enter("import", "begin", "lock table shop.products in access exclusive mode")
        yield {pid(root): "the root", pid(ddl): "the waiting ALTER", **{pid(it): "a waiting SELECT" for it in readers}}


def take_turns(
    tools: Sequence[Tool], sandbox: Sandbox, measured: Mapping[str, Measured], state: str, runs: int
) -> None:
    """Run every tool in turn, that many times; a slow one only once."""
    for _ in range(runs):
        for tool in tools:
            if tool.absent or max(measured[tool.name].seconds(state), default=0) > SLOW_S:
                continue
            before = backends(sandbox)
            measured[tool.name].runs[state].append(run_tool(tool, sandbox))
            if measured[tool.name].hung(state):
                measured[tool.name].left = end_leftovers(sandbox, before)


def run_tool(tool: Tool, sandbox: Sandbox) -> Run:
    """Run a tool's commands one after the other within one limit; what it writes to files counts as output."""
    seconds, output, status = 0.0, "", 0
    path = f"{sandbox.programs}{os.pathsep}{os.environ['PATH']}"
    for command in tool.commands:
        done = run(command, env={"PATH": path}, cwd=tool.cwd, limit_s=LIMIT_S - seconds)
        seconds, output = seconds + done.seconds, output + done.output
        if done.status is None:
            return Run(seconds, output, None)
        status = max(status, done.status)
    return Run(seconds, output + "".join(it.read_text(encoding="utf-8") for it in tool.files if it.exists()), status)


def backends(sandbox: Sandbox) -> set[int]:
    """Return the pids of all client backends but the one that is asked."""
    with sandbox.connect("postgres") as connection:
        return {row[0] for row in connection.execute(f"{_BACKENDS} and pid <> pg_catalog.pg_backend_pid()")}


def end_leftovers(sandbox: Sandbox, before: set[int]) -> int:
    """Count the backends that a killed tool left behind for two seconds, and end them."""
    time.sleep(2)
    left = backends(sandbox) - before
    with sandbox.connect("postgres") as connection:
        connection.execute("select pg_catalog.pg_terminate_backend(it) from unnest(%s::int[]) as it", [list(left)])
    return len(left)


def row(tool: Tool, measured: Mapping[str, Measured], pids: Mapping[str, str]) -> dict[str, str]:
    """Return the line of one tool."""
    if tool.absent:
        return {"tool": tool.name, "clean, s": f"absent: {tool.absent}", **dict.fromkeys(_COLUMNS, "")}
    it = measured[tool.name]
    cells = {"tool": tool.name}
    for state in ("clean", "incident"):
        cells[f"{state}, s"] = f"not done, killed at {LIMIT_S:.0f} s" if it.hung(state) else figure(it.seconds(state))
        ratios = [mine / floor for mine, floor in zip(it.seconds(state), measured[FLOOR].seconds(state), strict=False)]
        cells[f"x floor, {state}"] = "-" if it.hung(state) else figure(ratios, 0)
    output = it.runs["incident"][-1].output
    cells["root pid in its output"] = "-" if tool.name == FLOOR else "yes" if mentions(output, pids) else "no"
    cells["says to cancel or terminate"] = ", then ".join(advised(output, pids)) or "-"
    cells["backends left behind"] = str(it.left) if it.hung("clean") or it.hung("incident") else "-"
    return cells


_COLUMNS = (
    "x floor, clean",
    "incident, s",
    "x floor, incident",
    "root pid in its output",
    "says to cancel or terminate",
    "backends left behind",
)


def mentions(output: str, pids: Mapping[str, str]) -> bool:
    """Tell whether the root's pid stands anywhere in an output."""
    root = next(iter(pids))
    return re.search(rf"\b{root}\b", output) is not None


def advised(output: str, pids: Mapping[str, str]) -> list[str]:
    """Return whom an output would cancel or terminate, each once."""
    named = re.findall(r"pg_(?:cancel|terminate)_backend\((?:pid\)[^;]*? pid = )?(\d+)", output)
    return list(dict.fromkeys(pids.get(it, "somebody else") for it in named))


def legend(runs: int) -> str:
    """Return what the columns mean."""
    return (
        f"Medians of {runs} runs (lowest to highest) of the whole process. The ratios are taken run by run against the "
        f"floor of the same turn. A tool that took more than {SLOW_S} s was run once; one that had not ended after "
        f"{LIMIT_S:.0f} s was killed, and the backends that it left were counted two seconds later. 'Root pid in its "
        "output' says only that the number stands somewhere in it; whom the tool says to cancel or terminate is read "
        "from the statements that it prints."
    )


if __name__ == "__main__":
    main()
