"""What does a year of history cost, and how fast does it answer? Real snapshots of a real database that grows.

Run it with ``python benchmarks/history.py``; it takes some minutes and writes benchmarks/results/history.md. The time
of the snapshots is accelerated, nothing else: every row was measured. ``--hourly 365`` takes a snapshot every hour of
the year, all 8,760; fewer days are the last of the year, with one snapshot a day before them, which is what
``history.keep`` leaves of a year of hourly ones.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from pgrunbooks import filing, growth, history, months, snapshot_file
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import Keep, Target

RESULTS = Path(__file__).parent / "results" / "history.md"
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)
DAYS = 365
ENDED = datetime.datetime.now(datetime.UTC).replace(minute=0, second=0, microsecond=0) - HOUR

# a file a snapshot | a file a month, each hourly with 2,000 relations / daily with 20,000
TRIAL = {
    "bytes a row": "17.8 / 16.7 | 4.6 / 6.7",
    "top 20 growers, ms": "940 / 124 | 87 / 44",
    "one table over all snapshots, ms": "973 / 231 | 18 / 18",
}

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
                number, number, greatest(1, (20 + 2000 / number) * %(hours)s / 24)
            );
        end if;
    end loop;
end $$
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=600, help="how long to make history at most")
    parser.add_argument("--hourly", type=int, default=30, help="the last days of the year with a snapshot every hour")
    parser.add_argument("--large", type=int, default=100_000, help="relations of the large catalog")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        one_snapshot(arguments.inside)
        return
    load = os.getloadavg()[0]
    with temporary_sandbox(settings={"max_locks_per_transaction": "4096"}, sample=False) as sandbox:
        lines = [
            *a_year(sandbox, arguments.tables, arguments.seconds, arguments.hourly),
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


def a_year(sandbox: Sandbox, tables: int, seconds: float, hourly: int) -> list[str]:
    """Make a year of history as far as the time allows, and ask it before and after its months are made."""
    tidy, months.tidy = months.tidy, lambda *_: None  # first as single files, to compare
    with (
        tempfile.TemporaryDirectory() as folder,
        make(sandbox, "grows", tables) as session,
        sandbox.connect("grows") as owner,
    ):
        whose = history.ids(session)
        place = filing.place(Path(folder), whose)
        assert isinstance(place, Path)
        append, planned, deadline = [], times(hourly), time.monotonic() + seconds
        for count, (at, hours) in enumerate(planned):
            if time.monotonic() > deadline:
                break
            owner.execute(GROW % {"tables": tables, "step": count, "hours": hours})
            append.append(timed(lambda at=at: history.record_snapshot(session, at=at, folder=Path(folder)))[0])
        count = len(append)
        taken = history.snapshots(session, folder=Path(folder))[0]
        rows = sum(len(snapshot_file.read(it.path, "relation", ["oid"])) for it in taken[::50])
        rows = rows * count // len(taken[::50])
        single = answers(session, Path(folder), place, rows)
        later = taken[-1].at.replace(day=28) + 10 * DAY  # so that the last month is over too
        compact_s, _ = timed(lambda: tidy(place, whose, later))
        sweep_s, _ = timed(lambda: tidy(place, whose, later + 2 * HOUR))
        compacted = answers(session, Path(folder), place, rows)
        files = len(list(place.glob("*.parquet")))
        reported = report(sandbox.url("grows"), Path(folder))
        keep = Keep(hourly="1h", daily="365d", weekly="730d")
        thin_s, _ = timed(lambda: tidy(place, whose, later + 3 * HOUR, keep))
        tidy(place, whose, later + 5 * HOUR, keep)
        left = len(history.snapshots(session, folder=Path(folder))[0])
    stopped = "" if count == len(planned) else f" (of {len(planned)}: the {seconds:.0f} s were over)"
    return [
        f"{count} snapshots{stopped} of a database with {tables} tables, each with an index, over"
        f" {(taken[-1].at - taken[0].at) / DAY:.0f} days by their own time: one an hour in the last {hourly} days of"
        f" the year, one a day before. A tenth of the tables grew before each. About {rows} rows of tables.",
        "",
        f"A snapshot took {median(append) * 1000:.0f} ms ({min(append) * 1000:.0f} to {max(append) * 1000:.0f}),"
        f" measuring included. The {files} months were made in {compact_s:.1f} s; the {count} files that they replace"
        f" were removed in {sweep_s:.1f} s, with the months read through before. To thin them to one snapshot a day"
        f" took {thin_s:.1f} s and left {left}.",
        "",
        "The trial is what the store was chosen by: Parquet with made-up rows and other code,"
        " 2,000 relations an hour / 20,000 a day.",
        "",
        "| | a file a snapshot | a file a month | the trial: a file a snapshot | the trial: a file a month |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {name} | {single[name]} | {compacted[name]} | {TRIAL.get(name, '- | -')} |" for name in single),
        "",
        f"On the months, `pgrunbooks run growth_report` took {reported['run']}, and `pgrunbooks check growth`"
        f" {reported['check']}.",
    ]


def times(hourly: int) -> list[tuple[datetime.datetime, int]]:
    """Return when the snapshots of the year are taken, and how many hours passed since the one before."""
    daily = [(ENDED - day * DAY, 24) for day in range(DAYS, hourly, -1)]
    return daily + [(ENDED - hour * HOUR, 1) for hour in range(hourly * 24, -1, -1)]


def report(dsn: str, folder: Path) -> dict[str, str]:
    """Return how long the growth report and its checks take on a history, each in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        targets = Path(out) / "targets.yml"
        targets.write_text(f"targets: {{measured: {{dsn: '{dsn}', disk_bytes: 100GB}}}}\n", encoding="utf-8")
        environment = {**os.environ, "PGRUNBOOKS_TARGETS": str(targets), "PGRUNBOOKS_HISTORY": str(folder)}

        def took(*arguments: str) -> str:
            command = [sys.executable, "-m", "pgrunbooks", *arguments, "--target", "measured"]
            seconds, done = timed(
                lambda: subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            )
            assert done.returncode in (0, 1, 2), done.stderr
            return f"{seconds:.1f} s"

        return {"run": took("run", "growth_report", "--out", out), "check": took("check", "growth")}


def answers(session: Session, folder: Path, place: Path, rows: int) -> dict[str, str]:
    """Return what the history weighs and how long it takes to answer, each the median of three."""

    def ms(ask: Callable[[], Any]) -> str:
        return f"{median(timed(ask)[0] for _ in range(3)) * 1000:.0f}"

    taken, left_aside = history.snapshots(session, folder=folder)
    assert not left_aside
    now = taken[-1].at + HOUR
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
        before = peak()
        seconds, path = timed(lambda: history.record_snapshot(session, folder=Path(folder)))
        rows = len(snapshot_file.read(path, "relation", ["oid"]))
        weight = Path(path).stat().st_size / rows
    print(
        f"{seconds:.1f} s, {peak():.0f} MB of memory at most ({before:.0f} MB before it), {rows} rows of tables,"
        f" {weight:.1f} bytes a row"
    )


def peak() -> float:
    """Return the most memory that this process ever held, in MB; getrusage counts that of its parent too."""
    (line,) = (it for it in Path("/proc/self/status").read_text().splitlines() if it.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds something took, and what came back."""
    start = time.perf_counter()
    back = do()
    return time.perf_counter() - start, back


if __name__ == "__main__":
    main()
