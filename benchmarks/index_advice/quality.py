"""How good is the advice? Ours beside a brute-force greedy search over plain btrees and beside postgres-mcp's DTA.

    python benchmarks/index_advice/quality.py --rows 500000 --mcp FOLDER_OF_ITS_VENV

PostgreSQL 15 with HypoPG. Every set of indexes is built for real; 'estimated' is the planner's cost of the workload
after / before, 'executed' the same in measured time (the median of three runs of two calls of each statement).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
from mix import MIX, SCHEMA, drawn, fill

from pgrunbooks.advice import advise, scopes
from pgrunbooks.advice.accesses import Access
from pgrunbooks.advice.catalog import read_catalog
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import Workload, read_workload

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
BUDGETS_MB = (0.05, 0.1, 0.2, None)  # of the size of the tables
RUNS = 3
CALLS = 2


def main() -> None:
    """Fill a server, ask each advisor at each budget, measure, print a table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=2_500_000)
    arguments.add_argument("--mcp", type=Path, help="the folder of a venv that has postgres-mcp")
    arguments.add_argument("--gain", type=float, default=0.0005)
    options = arguments.parse_args()
    with temporary_sandbox({"autovacuum": "off", "jit": "off"}, sample=False, programs=PROGRAMS) as sandbox:
        with sandbox.connect("postgres") as connection:
            connection.execute("create database shop")
        with sandbox.connect() as connection:
            connection.execute("create extension hypopg; create extension pg_stat_statements")
            connection.execute(SCHEMA)
            connection.execute("alter database shop set search_path to mix, public; set search_path to mix, public")
            for statement in fill(options.rows):
                connection.execute(statement)
            report(sandbox, connection, options)


def report(sandbox: Sandbox, connection: psycopg.Connection, options: argparse.Namespace) -> None:
    """Ask, measure and print."""
    calls = {number: [drawn(it, call, options.rows) for call in range(CALLS)] for number, it in enumerate(MIX)}
    workload = _workload(sandbox, connection, calls)
    (tables,) = connection.execute(
        "select sum(pg_table_size(oid)) from pg_class where relkind = 'r' and relnamespace = 'mix'::regnamespace"
    ).fetchone() or (0,)
    before = costs(connection, calls)
    times = seconds(connection, calls)
    print(f"{options.rows} rows, {int(tables) / 2**20:.0f} MB of tables, workload {sum(times.values()):.1f} s\n")
    print("| advisor | budget | indexes | MB | estimated | executed | slower | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for share in BUDGETS_MB:
        budget = float(tables) * share if share else float("inf")
        for advisor, (found, took) in {
            "pgrunbooks": ours(sandbox, workload, budget, options.gain),
            "greedy": Greedy(sandbox, connection, calls).search(budget),
            **({"postgres-mcp": theirs(sandbox, options.mcp, calls, times, budget)} if options.mcp else {}),
        }.items():
            with built(connection, found) as size:
                after, now = costs(connection, calls), seconds(connection, calls)
            slower = [it for it in now if now[it] > 1.2 * times[it] and now[it] - times[it] > 1e-3]
            name = f"{budget / 2**20:.0f} MB" if share else "none"
            print(
                f"| {advisor} | {name} | {len(found)} | {size / 2**20:.1f} | {_ratio(after, before):.4f} | "
                f"{_ratio(now, times):.4f} | {len(slower)} | {took:.1f} |",
                flush=True,
            )
            if not share:
                print("".join(f"<!-- {it} -->\n" for it in found), end="", flush=True)


def _ratio(after: Mapping[int, float], before: Mapping[int, float]) -> float:
    return sum(MIX[it].weight * after[it] for it in after) / sum(MIX[it].weight * before[it] for it in before)


def _workload(sandbox: Sandbox, connection: psycopg.Connection, calls: Mapping[int, Sequence[str]]) -> Workload:
    """Return what pg_stat_statements would have after an hour: each statement is called a few times and multiplied."""
    connection.execute("select pg_stat_statements_reset()")
    for number, texts in calls.items():
        for text in texts:
            _rolled_back(connection, text.replace(" ", f" /*{number}*/ ", 1))
    with open_session(Target.model_validate({"name": "mix", "dsn": sandbox.url()})) as session:
        read = read_workload(session)
    weights = {f"/*{number}*/": it.weight for number, it in enumerate(MIX)}
    found = []
    for statement in read.statements:
        mark = next((mark for mark in weights if mark in statement.text), None)
        if mark:
            times = weights[mark] / CALLS
            found.append(
                replace(
                    statement,
                    calls=weights[mark],
                    total_ms=statement.total_ms * times,
                    rows=round(statement.rows * times),
                )
            )
    found.sort(key=lambda it: -it.total_ms)
    return Workload(tuple(found), window_s=3600.0)


def ours(sandbox: Sandbox, workload: Workload, budget: float, gain: float) -> tuple[list[str], float]:
    """Return the advice of pgrunbooks and the seconds that it took, the lab included."""
    start = time.monotonic()
    with open_session(Target.model_validate({"name": "mix", "dsn": sandbox.url()})) as session:
        advice = advise(session, workload=workload, budget_bytes=budget, gain=gain, min_calls=1)
    return [it.index.statement(concurrently=False) for it in advice.proposals], time.monotonic() - start


def theirs(
    sandbox: Sandbox, venv: Path, calls: Mapping[int, Sequence[str]], times: Mapping[int, float], budget: float
) -> tuple[list[str], float]:
    """Return the advice of postgres-mcp's DTA on those statements that it can parse."""
    asked = [
        {"text": texts[0], "weight": MIX[number].weight, "mean_ms": times[number] * 1000}
        for number, texts in calls.items()
        if texts[0].startswith("select")
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        program = Path(__file__).with_name("postgres_mcp_dta.py")
        megabytes = round(budget / 2**20) if budget != float("inf") else -1
        done = subprocess.run(
            [str(venv / "bin" / "python"), str(program), sandbox.url(), file.name, str(megabytes)],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
            cwd="/",
            check=False,
        )
    if done.returncode:
        print(done.stderr[-2000:])
        return [], 0.0
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if answer["error"]:
        print(f"<!-- postgres-mcp: {answer['error'][:300]} -->")
    return answer["indexes"], answer["seconds"]


class Greedy:
    """The reference: every plain btree of up to three columns that a statement names, HypoPG, best first."""

    _known: dict[tuple[int, frozenset[str]], float] = {}  # noqa: RUF012 - kept from budget to budget
    _sizes: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, sandbox: Sandbox, connection: psycopg.Connection, calls: Mapping[int, Sequence[str]]) -> None:
        self.connection = connection
        self.calls = calls
        self.wanted: dict[str, set[int]] = {}
        with open_session(Target.model_validate({"name": "mix", "dsn": sandbox.url()})) as session:
            catalog = read_catalog(session)
        for number, texts in calls.items():
            for access in scopes.parse(texts[0], catalog.find).accesses:
                for keys in _permutations(access):
                    self.wanted.setdefault(f"create index on {access.table} ({', '.join(keys)})", set()).add(number)
        for index in self.wanted:
            if index not in self._sizes:
                with built(connection, [index]) as size:
                    self._sizes[index] = size

    def search(self, budget: float) -> tuple[list[str], float]:
        """Return the set that the better of two scores finds: what is saved, and what is saved by byte."""
        start = time.monotonic()
        found = [self._grow(budget, exponent) for exponent in (0.0, 1.0)]
        return min(found, key=self._total), time.monotonic() - start

    def _grow(self, budget: float, exponent: float) -> list[str]:
        have: list[str] = []
        now = self._total(have)
        while True:
            left = budget - sum(self._sizes[it] for it in have)
            scored = [
                ((now - self._total([*have, it])) / self._sizes[it] ** exponent, it)
                for it in self.wanted
                if it not in have and self._sizes[it] <= left
            ]
            _, best = max(scored, default=(0.0, ""))
            if not best or now - self._total([*have, best]) < 1e-5 * self._total([]):
                return have
            have.append(best)
            now = self._total(have)

    def _total(self, indexes: Sequence[str]) -> float:
        return sum(MIX[number].weight * self._cost(number, indexes) for number in self.calls)

    def _cost(self, number: int, indexes: Sequence[str]) -> float:
        own = frozenset(it for it in indexes if number in self.wanted[it])
        if (number, own) not in self._known:
            self.connection.execute("select hypopg_reset()")
            for index in sorted(own):
                self.connection.execute("select hypopg_create_index(%s)", [index])
            self._known[number, own] = statistics.fmean(_cost(self.connection, it) for it in self.calls[number])
            self.connection.execute("select hypopg_reset()")
        return self._known[number, own]


def _permutations(access: Access) -> Iterator[tuple[str, ...]]:
    named = {it.key.text for it in access.predicates if it.key.column}
    named |= {it.key.text for arm in access.alternatives for it in arm if it.key.column}
    named |= {it.key.text for it in access.order if it.key.column} | {it.text for it in access.groups if it.column}
    for width in (1, 2, 3):
        yield from itertools.permutations(sorted(named - {"payload", "settings"}), width)


@contextmanager
def built(connection: psycopg.Connection, indexes: Sequence[str]) -> Iterator[int]:
    """Build indexes for as long as the block lasts; gives their size."""
    names = []
    for number, index in enumerate(indexes):
        names.append(f"mix.measured_{number}")
        connection.execute(_named(index, f"measured_{number}"))
    connection.execute("analyze" if any("(lower" in it for it in indexes) else "select 1")  # an expression's statistics
    sizes = "select sum(pg_relation_size(it::regclass)) from unnest(%s::text[]) as it"
    row = connection.execute(sizes, [names]).fetchone()
    try:
        yield int(row[0] or 0) if row else 0
    finally:
        for name in names:
            connection.execute(f"drop index {name}")


def _named(index: str, name: str) -> str:
    """Return a CREATE INDEX with our name, whatever name it had."""
    return f"create index {name} on {index.rstrip(';').partition(' ON ')[2] or index.rstrip(';').partition(' on ')[2]}"


def costs(connection: psycopg.Connection, calls: Mapping[int, Sequence[str]]) -> dict[int, float]:
    """Return the planner's cost of each statement, the mean of its calls."""
    return {number: statistics.fmean(_cost(connection, it) for it in texts) for number, texts in calls.items()}


def _cost(connection: psycopg.Connection, text: str) -> float:
    row = connection.execute(f"explain (format json) {text}").fetchone()
    assert row
    cost: float = row[0][0]["Plan"]["Total Cost"]
    return cost


def seconds(connection: psycopg.Connection, calls: Mapping[int, Sequence[str]]) -> dict[int, float]:
    """Return the time of each statement: the mean of its calls, each the median of some runs."""
    return {
        number: statistics.fmean(
            statistics.median(_rolled_back(connection, text) for _ in range(RUNS)) for text in texts
        )
        for number, texts in calls.items()
    }


def _rolled_back(connection: psycopg.Connection, text: str) -> float:
    connection.execute("begin")
    start = time.perf_counter()
    connection.execute(text)
    took = time.perf_counter() - start
    connection.execute("rollback")
    return took


if __name__ == "__main__":
    main()
