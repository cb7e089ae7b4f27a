"""How good is the advice? Ours beside a brute-force greedy search over plain btrees and beside postgres-mcp's DTA.

    python benchmarks/index_advice/quality.py --rows 1000000 --scale 0.1 --mcp FOLDER_OF_ITS_VENV

PostgreSQL 15 with HypoPG, an OLTP mix and TPC-H. Every set of indexes is built for real; 'estimated' is the planner's
cost of the workload after / before, 'executed' the same in measured time. It writes benchmarks/results/index_advice.md.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import mix
import psycopg
import tpch

from pgrunbooks.advice import advise, scopes
from pgrunbooks.advice.accesses import Access
from pgrunbooks.advice.catalog import read_catalog
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import Workload, read_workload

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SETTINGS = {
    "autovacuum": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",  # two cores that others use too: workers would time the others
    "shared_preload_libraries": "pg_stat_statements, pg_qualstats",
    "pg_qualstats.enabled": "off",  # but where the workload is observed: it would slow down what is timed
    "pg_qualstats.sample_rate": "1",
}
OURS = ("pgrunbooks", "pgrunbooks, pg_qualstats")
RESULTS = Path(__file__).parents[1] / "results" / "index_advice.md"
BUDGETS = (0.05, 0.1, 0.2, None)  # of the size of the tables
RUNS = 7
CALLS = 2  # of each statement of the mix, with other values
# Without an index they take minutes: Q20 alone is 98 % of the estimated cost of all.
LEFT_OUT = ("q02", "q17", "q20")
PAGE = """# Index advice: how good it is

    {command}

{day}, PostgreSQL {version} with HypoPG {hypopg}, {cores} cores that others use too (load {load}), everything cached.
Every set was built for real. 'estimated' is the workload's time after / before as the planner sees it: the time of each
statement, times its cost after / before. 'executed' is the same in measured time: the best of {runs} runs with the
indexes and of as many without them, in turns. Lower is better. 'slower' are statements that took more than 20 %
and 1 ms longer. 'MB' is what the indexes take; 'budget' is what the advisor was told, and 'told' how its own estimate
of the size relates to the truth. No parallel workers: two cores that others use too would time the others.

- **pgrunbooks**: `advise(session, gain={gain})` on the texts of pg_stat_statements, whose constants are gone.
- **pgrunbooks, pg_qualstats**: the same on a server that has this extension, which keeps one real call of each: the
  others below are told every call.
- **greedy**: every plain btree of up to three columns that a statement names, by HypoPG, on the statements with their
  constants; the better of 'saves most' and 'saves most by byte'. It knows the true sizes and optimises 'estimated'
  itself; the time to learn the sizes is not counted.
- **greedy, repeating**: the same, and it may repeat an index that is there or its first columns, such as those of a
  primary key. No advice of ours does that: `redundant-index` would want it dropped again.
- **postgres-mcp**: its DTA ({mcp}, hash seed 0), on the SELECTs with their constants that it can read.

Where another took more than its budget, or had none, further rows show what pgrunbooks does with that many MB.

{workloads}
Limits: one machine, one run; both workloads were visible while the advisor was written. A sandbox sorts text by bytes,
so no prefix needs another operator class. No writes run beside the statements. Where an advisor proposes
nothing, its 'executed' is the noise of the measurement.
"""


@dataclass(frozen=True)
class Measured:
    """A workload on a server: name -> the texts of its calls, and how often an hour it is called."""

    title: str
    sandbox: Sandbox
    connection: psycopg.Connection
    calls: Mapping[str, Sequence[str]]
    weights: Mapping[str, int]
    schema: str
    known: dict[tuple[str, frozenset[str]], float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def hour(self) -> float:
        """Return the seconds that an hour of the workload takes without any index more."""
        return sum(self.weights[it] * self.seconds[it] for it in self.calls)

    def estimated(self, after: Mapping[str, float]) -> float:
        """Return the workload's time after / before as the planner sees it: each statement's time by its cost."""
        return sum(self.weights[it] * self.seconds[it] * after[it] / self.costs[it] for it in self.calls) / self.hour

    def executed(self, after: Mapping[str, float], before: Mapping[str, float]) -> float:
        """Return the workload's measured time, after / before."""
        return sum(self.weights[it] * after[it] for it in self.calls) / sum(
            self.weights[it] * before[it] for it in self.calls
        )

    @property
    def target(self) -> Target:
        """Return where it is."""
        return Target.model_validate({"name": "measured", "dsn": self.sandbox.url(self.connection.info.dbname)})


def main() -> None:
    """Fill a server, ask each advisor at each budget, measure, write the page."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--scale", type=float, default=0.1)
    arguments.add_argument("--mcp", type=Path, help="the folder of a venv that has postgres-mcp")
    arguments.add_argument("--gain", type=float, default=0.0005)
    arguments.add_argument("--estimate", action="store_true", help="do not execute: for a machine that others use")
    arguments.add_argument("--only", choices=("mix", "tpch"), help="try one workload, and write nothing")
    options = arguments.parse_args()
    texts = []
    with temporary_sandbox(SETTINGS, sample=False, programs=PROGRAMS) as sandbox:
        for name, load in (("tpch", tpch_of), ("mix", mixed)):
            if options.only not in (None, name):
                continue
            with sandbox.connect("postgres") as connection:
                connection.execute(f"create database {name}")
            with sandbox.connect(name) as connection:
                connection.execute("create extension hypopg; create extension pg_stat_statements")
                for text in report(load(sandbox, connection, options), options):
                    texts.append(text)
                    if not options.only:
                        write(connection, options, "".join(texts))


def write(connection: psycopg.Connection, options: argparse.Namespace, texts: str) -> None:
    """Write the page with what is measured so far."""
    facts = connection.execute(
        "select current_setting('server_version'), extversion from pg_extension where extname = 'hypopg'"
    ).fetchone()
    RESULTS.write_text(
        PAGE.format(
            command=f"python benchmarks/index_advice/quality.py --rows {options.rows} --scale {options.scale:g}"
            + (" --mcp FOLDER_OF_A_VENV_WITH_POSTGRES_MCP" if options.mcp else "")
            + (" --estimate" if options.estimate else ""),
            day=datetime.date.today(),
            version=facts[0],
            hypopg=facts[1],
            cores=os.cpu_count(),
            load=f"{os.getloadavg()[2]:.1f}",
            gain=options.gain,
            runs=RUNS,
            mcp=_version(options.mcp) if options.mcp else "not asked",
            workloads=texts,
        ),
        encoding="utf-8",
    )


def mixed(sandbox: Sandbox, connection: psycopg.Connection, options: argparse.Namespace) -> Measured:
    """Fill a database with the OLTP mix."""
    connection.execute(mix.SCHEMA)
    connection.execute("alter database mix set search_path to mix, public; set search_path to mix, public")
    for statement in mix.fill(options.rows):
        connection.execute(statement)
    names = {f"m{number:02}": it for number, it in enumerate(mix.MIX)}
    return Measured(
        f"An OLTP mix of {len(names)} weighted statements over {options.rows:,} rows",
        sandbox,
        connection,
        {name: [mix.drawn(it, call, options.rows) for call in range(CALLS)] for name, it in names.items()},
        {name: it.weight for name, it in names.items()},
        "mix",
    )


def tpch_of(sandbox: Sandbox, connection: psycopg.Connection, options: argparse.Namespace) -> Measured:
    """Fill a database with TPC-H."""
    folder = tpch.generated(options.scale)
    connection.execute(tpch.SCHEMA)
    for path in sorted(folder.glob("*.csv")):
        with connection.cursor().copy(f"copy {path.stem} from stdin (format csv)") as copy:
            copy.write(path.read_bytes())
    connection.execute("vacuum analyze")
    queries = {name: text for name, text in tpch.queries(folder).items() if name not in LEFT_OUT}
    return Measured(
        f"TPC-H at scale {options.scale:g}, {len(queries)} queries (without {', '.join(LEFT_OUT)}), one call each",
        sandbox,
        connection,
        {name: [text] for name, text in queries.items()},
        dict.fromkeys(queries, 1),
        "public",
    )


def report(it: Measured, options: argparse.Namespace) -> Iterator[str]:
    """Ask and measure; yield the text of a workload's section, which is printed too."""
    it.costs.update(costs(it))
    it.seconds.update(seconds(it))
    workload = _workload(it)
    row = it.connection.execute(
        "select sum(pg_table_size(oid)) from pg_class where relkind = 'r' and relnamespace = %s::regnamespace",
        [it.schema],
    ).fetchone()
    tables = float(row[0])
    yield _said(f"## {it.title}\n\n{tables / 2**20:.0f} MB of tables; an hour of it takes {it.hour:.1f} s.\n\n")
    yield _said("| advisor | budget | indexes | MB | told | estimated | executed | slower | seconds |\n")
    yield _said("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n")
    references = {"greedy": Greedy(it), "greedy, repeating": Greedy(it, repeating=True)}
    advisors = (*OURS, *references, *["postgres-mcp"] * bool(options.mcp))
    sets, stopping = {}, set()
    for share in BUDGETS:
        budget = tables * share if share else float("inf")
        asked = [(advisor, budget) for advisor in advisors]
        while asked:
            advisor, limit = asked.pop(0)
            if advisor in OURS:
                found, told, took = ours(it, workload, limit, options.gain, with_calls=advisor != OURS[0])
            elif advisor in references:
                found, told, took = references[advisor].search(limit)
            else:
                found, told, took, without = theirs(it, options.mcp, stopping, limit)
                stopping |= without
            with built(it, found) as (names, size):
                after = costs(it)
                now, before = ({}, {}) if options.estimate else in_turns(it, names)
            slower = [name for name, was in before.items() if now[name] > max(1.2 * was, was + 1e-3)]
            name = f"{limit / 2**20:.1f} MB" if limit != float("inf") else "none"
            yield _said(
                f"| {advisor} | {name} | {len(found)} | {size / 2**20:.1f} | {f'{told / size:.2f}' if told else ''} | "
                f"{it.estimated(after):.4f} | {f'{it.executed(now, before):.4f}' if now else ''} | "
                f"{len(slower) if now else ''}{f' ({chr(44).join(slower)})' if slower else ''} | {took:.1f} |\n"
            )
            if (advisor not in OURS and size > 1.03 * limit) or (not share and advisor == "greedy"):
                asked += [(one, float(size)) for one in OURS]
            if not share and advisor not in sets:
                sets[advisor] = found
    if stopping:
        yield _said(f"\nAsked without {', '.join(sorted(stopping))}: each of them alone stops postgres-mcp.\n")
    yield "\nWhat each proposed without a budget:\n"
    for advisor, found in sets.items():
        yield f"\n**{advisor}**\n\n```sql\n" + "".join(f"{line}\n" for line in found) + "```\n"


def _said(text: str) -> str:
    print(text, end="", flush=True)
    return text


def _version(folder: Path) -> str:
    asked = "import importlib.metadata as it; print(it.version('postgres-mcp'))"
    return subprocess.run([folder / "bin" / "python", "-c", asked], capture_output=True, text=True).stdout.strip()


def _workload(it: Measured) -> Workload:
    """Return what pg_stat_statements would have after an hour: each statement is called a few times and multiplied."""
    it.connection.execute("select pg_stat_statements_reset(); set pg_qualstats.enabled = on")
    for name, texts in it.calls.items():
        for text in texts:
            _rolled_back(it.connection, f"{_first(text)} /*{name}*/ {text[len(_first(text)) :]}")
    it.connection.execute("reset pg_qualstats.enabled")
    with open_session(it.target) as session:
        read = read_workload(session)
    found = []
    for statement in read.statements:
        name = next((name for name in it.calls if f"/*{name}*/" in statement.text), None)
        if name:
            calls = round(it.weights[name] * statement.calls / len(it.calls[name]))
            rows = round(statement.rows / statement.calls * calls)
            found.append(replace(statement, calls=calls, total_ms=it.seconds[name] * calls * 1000, rows=rows))
    found.sort(key=lambda statement: -statement.total_ms)
    return Workload(tuple(found), window_s=3600.0)


def _first(text: str) -> str:
    return text.split(maxsplit=1)[0]


def ours(
    it: Measured, workload: Workload, budget: float, gain: float, *, with_calls: bool
) -> tuple[list[str], int, float]:
    """Return the advice of pgrunbooks, the bytes that it reckons with, and its seconds, the lab included.

    ``with_calls`` lets it see what pg_qualstats kept.
    """
    it.connection.execute(f"{'create extension if not' if with_calls else 'drop extension if'} exists pg_qualstats")
    start = time.monotonic()
    with open_session(it.target) as session:
        advice = advise(session, workload=workload, budget_bytes=budget, gain=gain, min_calls=1)
    took = time.monotonic() - start
    if advice.left_out or not advice.complete:
        print(f"<!-- left out: {', '.join(advice.left_out.values()) or 'nothing'}; complete: {advice.complete} -->")
    found = [proposal.index.statement(concurrently=False) for proposal in advice.proposals]
    return found, sum(proposal.size_bytes for proposal in advice.proposals), took


def theirs(it: Measured, venv: Path, stopping: set[str], budget: float) -> tuple[list[str], int, float, set[str]]:
    """Return the advice of postgres-mcp's DTA on the SELECTs, and who newly stopped it."""
    asked = [
        {"name": name, "text": texts[0], "weight": it.weights[name], "mean_ms": it.seconds[name] * 1000}
        for name, texts in it.calls.items()
        if _first(texts[0]).lower() in ("select", "with") and name not in stopping
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        program = Path(__file__).with_name("postgres_mcp_dta.py")
        megabytes = round(budget / 2**20) if budget != float("inf") else -1
        done = subprocess.run(
            [
                *(str(venv / "bin" / "python"), str(program), it.sandbox.url(it.connection.info.dbname)),
                *(file.name, str(megabytes)),
            ],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
            cwd="/",
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer["indexes"], 0, answer["seconds"], set(answer["without"])


class Greedy:
    """The reference: every plain btree of up to three columns that a statement names, HypoPG, best first."""

    def __init__(self, it: Measured, *, repeating: bool = False) -> None:
        self.it = it
        self.wanted: dict[str, set[str]] = {}
        with open_session(it.target) as session:
            catalog = read_catalog(session)
        for name, texts in it.calls.items():
            for access in scopes.parse(texts[0], catalog.find).accesses:
                there = catalog.tables[access.table].indexes
                for keys in _permutations(access):
                    if repeating or not any(index.keys[: len(keys)] == keys for index in there):
                        self.wanted.setdefault(f"create index on {access.table} ({', '.join(keys)})", set()).add(name)
        for index in self.wanted:
            if index not in it.sizes:
                with built(it, [index]) as (_, size):
                    it.sizes[index] = size

    def search(self, budget: float) -> tuple[list[str], int, float]:
        """Return the set that the better of two scores finds: what is saved, and what is saved by byte."""
        start = time.monotonic()
        found = [self._grow(budget, exponent) for exponent in (0.0, 1.0)]
        return min(found, key=self._total), 0, time.monotonic() - start

    def _grow(self, budget: float, exponent: float) -> list[str]:
        have: list[str] = []
        now = self._total(have)
        while True:
            left = budget - sum(self.it.sizes[each] for each in have)
            scored = [
                ((now - self._total([*have, each])) / self.it.sizes[each] ** exponent, each)
                for each in self.wanted
                if each not in have and self.it.sizes[each] <= left
            ]
            _, best = max(scored, default=(0.0, ""))
            if not best or now - self._total([*have, best]) < 1e-5 * self._total([]):
                return have
            have.append(best)
            now = self._total(have)

    def _total(self, indexes: Sequence[str]) -> float:
        return self.it.estimated({name: self._cost(name, indexes) for name in self.it.calls})

    def _cost(self, name: str, indexes: Sequence[str]) -> float:
        own = frozenset(each for each in indexes if name in self.wanted[each])
        if (name, own) not in self.it.known:
            connection = self.it.connection
            connection.execute("select hypopg_reset()")
            for index in sorted(own):
                connection.execute("select hypopg_create_index(%s)", [index])
            self.it.known[name, own] = statistics.fmean(_cost(connection, text) for text in self.it.calls[name])
            connection.execute("select hypopg_reset()")
        return self.it.known[name, own]


def _permutations(access: Access) -> Iterator[tuple[str, ...]]:
    named = {it.key.text for it in access.predicates if it.key.column}
    named |= {it.key.text for arm in access.alternatives for it in arm if it.key.column}
    named |= {it.key.text for it in access.order if it.key.column} | {it.text for it in access.groups if it.column}
    for width in (1, 2, 3):
        yield from itertools.permutations(sorted(named - {"payload", "settings"}), width)


@contextmanager
def built(it: Measured, indexes: Sequence[str]) -> Iterator[tuple[Sequence[str], int]]:
    """Build indexes for as long as the block lasts; gives their names and their size."""
    names = []
    for number, index in enumerate(indexes):
        names.append(f"{it.schema}.measured_{number}")
        it.connection.execute(_named(index, f"measured_{number}"))
    if any("(lower" in index for index in indexes):
        it.connection.execute("analyze")  # an expression's statistics
    sizes = "select sum(pg_relation_size(it::regclass)) from unnest(%s::text[]) as it"
    row = it.connection.execute(sizes, [names]).fetchone()
    try:
        yield names, int(row[0] or 0) if row else 0
    finally:
        for name in names:
            it.connection.execute(f"drop index {name}")


def _named(index: str, name: str) -> str:
    """Return a CREATE INDEX with our name, whatever name it had."""
    return f"create index {name} on {index.rstrip(';').partition(' ON ')[2] or index.rstrip(';').partition(' on ')[2]}"


def costs(it: Measured) -> dict[str, float]:
    """Return the planner's cost of each statement, the mean of its calls."""
    return {name: statistics.fmean(_cost(it.connection, text) for text in texts) for name, texts in it.calls.items()}


def _cost(connection: psycopg.Connection, text: str) -> float:
    row = connection.execute(f"explain (format json) {text}").fetchone()
    assert row
    cost: float = row[0][0]["Plan"]["Total Cost"]
    return cost


def seconds(it: Measured) -> dict[str, float]:
    """Return the time of each statement: the mean of its calls, each the best of some runs."""
    return _best([_run(it) for _ in range(RUNS)])


def in_turns(it: Measured, indexes: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the times with and without indexes; a run of one follows a run of the other.

    What else the machine does meanwhile falls on both.
    """
    runs = []
    for _ in range(RUNS):
        now = _run(it)
        with it.connection.transaction(force_rollback=True):
            for index in indexes:
                it.connection.execute(f"drop index {index}")
            runs.append((now, _run(it)))
    after, before = zip(*runs, strict=True)
    return _best(after), _best(before)


def _run(it: Measured) -> dict[str, list[float]]:
    costs(it)  # planned once, so that no statement waits for the catalog
    return {name: [_rolled_back(it.connection, text) for text in texts] for name, texts in it.calls.items()}


def _best(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    return {name: statistics.fmean(map(min, zip(*(run[name] for run in runs), strict=True))) for name in runs[0]}


def _rolled_back(connection: psycopg.Connection, text: str) -> float:
    with connection.transaction(force_rollback=True):
        start = time.perf_counter()
        connection.execute(text)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
