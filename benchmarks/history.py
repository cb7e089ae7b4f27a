"""What does a year of history cost, and how fast does it answer? Real snapshots of a real database that grows.

Run it with ``python benchmarks/history.py``; it takes some minutes and writes benchmarks/results/history.md. The time
of the snapshots is accelerated, nothing else: every row was measured.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from pgrunbooks import filing, growth, history, months
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import Target

RESULTS = Path(__file__).parent / "results" / "history.md"
BEGAN = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
YEAR = datetime.timedelta(days=365)

# Each table has a primary key and so an index: relations are counted with these, rows of the history without.
MAKE = """
do $$
begin
    for number in %(first)s..%(last)s loop
        execute pg_catalog.format('create table t_%%s (id int8 primary key, n int8)', number);
        if number %% 1000 = 0 then commit; end if;
    end loop;
end $$
"""
# A tenth of the tables grows in each step, the lower numbers faster.
GROW = """
do $$
begin
    for number in 1..%(tables)s loop
        if (number + %(step)s) %% 10 = 0 then
            execute pg_catalog.format(
                'insert into t_%%s
                select coalesce((select max(id) from t_%%s), 0) + i, i from generate_series(1, %%s) as i',
                number, number, 20 + 2000 / number
            );
        end if;
    end loop;
end $$
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=180, help="how long to make history")
    parser.add_argument("--every", type=float, default=6, help="hours between two snapshots, of accelerated time")
    parser.add_argument("--large", type=int, default=100_000, help="relations of the large catalog")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        one_snapshot(arguments.inside)
        return
    load = os.getloadavg()[0]
    with temporary_sandbox(settings={"max_locks_per_transaction": "4096"}, sample=False) as sandbox:
        lines = [
            *a_year(sandbox, arguments.tables, arguments.seconds, arguments.every),
            "",
            *large(sandbox, arguments.large),
        ]
    command = " ".join(["python benchmarks/history.py", *sys.argv[1:]])
    head = [
        "# A year of history, and a large catalog",
        "",
        f"- `{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"- Python {platform.python_version()}, pgrunbooks {version('pgrunbooks')}, duckdb {version('duckdb')}, "
        f"pyarrow {version('pyarrow')}",
        f"- {os.cpu_count()} cores; load {load:.2f} when it began, {os.getloadavg()[0]:.2f} at its end",
        "",
    ]
    page = "\n".join([*head, *lines, ""])
    print(page)
    RESULTS.write_text(page, encoding="utf-8")


def make(sandbox: Sandbox, name: str, tables: int) -> Session:
    """Make a database with tables in it and return a session on it."""
    with sandbox.connect("postgres") as connection:
        connection.execute(f"create database {name}")
    with sandbox.connect(name) as owner:
        owner.execute(MAKE % {"first": 1, "last": tables})
    return open_session(Target(name="measured", dsn=sandbox.url(name)))


def a_year(sandbox: Sandbox, tables: int, seconds: float, every: float) -> list[str]:
    """Make a year of history as dense as the time allows, and ask it before and after its months are made."""
    tidy, months.tidy = months.tidy, lambda *_: None  # first as single files, to compare
    with (
        tempfile.TemporaryDirectory() as folder,
        make(sandbox, "grows", tables) as session,
        sandbox.connect("grows") as owner,
    ):
        place = filing.place(Path(folder), history.ids(session))
        assert isinstance(place, Path)
        append, count, deadline = [], 0, time.monotonic() + seconds
        while count * every * 3600 < YEAR.total_seconds() and time.monotonic() < deadline:
            owner.execute(GROW % {"tables": tables, "step": count})
            at = BEGAN + datetime.timedelta(hours=count * every)
            append.append(timed(lambda at=at: history.record_snapshot(session, at=at, folder=Path(folder)))[0])
            count += 1
        last = BEGAN + datetime.timedelta(hours=(count - 1) * every)
        rows = sum(
            len(history.read_rows(it, "relation")) for it in history.snapshots(session, folder=Path(folder))[0][::50]
        )
        rows = rows * count // len(range(0, count, 50))
        whose = history.ids(session)
        single = answers(session, Path(folder), place, rows)
        later = last.replace(day=28) + datetime.timedelta(days=10)
        compact_s, _ = timed(lambda: tidy(place, whose, later))
        sweep_s, _ = timed(lambda: tidy(place, whose, later + datetime.timedelta(hours=2)))
        compacted = answers(session, Path(folder), place, rows)
        files = len(list(place.glob("*.parquet")))
    return [
        f"{count} snapshots, {every:g} h apart by their own time, of a database with {tables} tables, each with an"
        f" index; a tenth of the tables grew before each. About {rows} rows of tables. A snapshot took"
        f" {median(append) * 1000:.0f} ms ({min(append) * 1000:.0f} to {max(append) * 1000:.0f}), measuring included."
        f" The {files} months were made in {compact_s:.1f} s; the {count} files that they replace were removed in"
        f" {sweep_s:.1f} s, with the months read through before.",
        "",
        "| | a file a snapshot | a file a month |",
        "| --- | --- | --- |",
        *(f"| {name} | {single[name]} | {compacted[name]} |" for name in single),
    ]


def answers(session: Session, folder: Path, place: Path, rows: int) -> dict[str, str]:
    """Return what the history weighs and how long it takes to answer, each the median of three."""

    def ms(ask: Callable[[], Any]) -> str:
        return f"{median(timed(ask)[0] for _ in range(3)) * 1000:.0f}"

    taken, left_aside = history.snapshots(session, folder=folder)
    assert not left_aside
    now = taken[-1].at + datetime.timedelta(hours=1)
    weight = sum(path.stat().st_size for path in place.glob("*.parquet"))
    return {
        "bytes a row": f"{weight / rows:.1f}",
        "list the snapshots, ms": ms(lambda: history.snapshots(session, folder=folder)),
        "top 20 growers, ms": ms(lambda: growth.growers(taken, 20)),
        "one table over all snapshots, ms": ms(lambda: growth.table_sizes(taken, "public.t_7")),
        "the database over all snapshots, ms": ms(lambda: growth.database_sizes(taken)),
        "what 'since' asks, ms": ms(lambda: history.since(session, now=now, folder=folder)),
    }


def large(sandbox: Sandbox, relations: int) -> list[str]:
    """Measure one snapshot of a large catalog, in a process of its own for its memory."""
    make(sandbox, "large", relations // 2).close()
    with sandbox.connect("large") as owner:
        (count,) = owner.execute("select count(*) from pg_class where relnamespace = 'public'::regnamespace").fetchone()
        owner.execute("analyze pg_catalog.pg_class, pg_catalog.pg_index, pg_catalog.pg_namespace")
    command = [sys.executable, __file__, "--inside", sandbox.url("large")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return [f"One snapshot of a catalog of {count} relations: {outcome}."]


def one_snapshot(dsn: str) -> None:
    """Take a snapshot and tell what it took."""
    with tempfile.TemporaryDirectory() as folder, open_session(Target(name="measured", dsn=dsn)) as session:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds, path = timed(lambda: history.record_snapshot(session, folder=Path(folder)))
        rows = len(history.snapshot_file.read(path, "relation", ["oid"]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        weight = Path(path).stat().st_size / rows
    print(
        f"{seconds:.1f} s, {peak:.0f} MB of memory at most ({before:.0f} MB before it), {rows} rows of tables,"
        f" {weight:.1f} bytes a row"
    )


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds something took, and what came back."""
    start = time.perf_counter()
    back = do()
    return time.perf_counter() - start, back


if __name__ == "__main__":
    main()
