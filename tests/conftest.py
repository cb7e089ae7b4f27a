"""Real servers for the tests: the embedded PostgreSQL 18 and the oldest supported one, with a shop in each."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgrunbooks.check import Context, Remedy, registry
from pgrunbooks.drills import drills
from pgrunbooks.history import record_snapshot, snapshots
from pgrunbooks.months import Snapshot
from pgrunbooks.sandbox import Sandbox, temporary_sandbox, wait_until
from pgrunbooks.session import Server, Session, open_session
from pgrunbooks.suggestions import suggestions
from pgrunbooks.targets import Target
from pgrunbooks.verdict import Verdict, ask, checks_for

OLDEST = Path(os.environ.get("PGRUNBOOKS_TEST_PG15_BIN", "/usr/lib/postgresql/15/bin"))
NUMBERS = count(1)


@pytest.fixture(scope="session", autouse=True)
def _own_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the sandbox and the targets file of whoever runs them."""
    with temporary_sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRUNBOOKS_SANDBOX", str(sandbox.directory))
        patch.delenv("PGRUNBOOKS_TARGETS", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def newest() -> Iterator[Sandbox]:
    with temporary_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def oldest() -> Iterator[Sandbox]:
    if not (OLDEST / "initdb").exists():
        pytest.fail(f"no PostgreSQL 15 in {OLDEST}: apt-get install postgresql-15, or set PGRUNBOOKS_TEST_PG15_BIN")
    with temporary_sandbox(programs=OLDEST) as sandbox:
        yield sandbox


@pytest.fixture(params=["newest", "oldest"])
def server(request: pytest.FixtureRequest) -> Sandbox:
    """Return a running server of each supported end of the range, with the shop in it."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_empty_database(newest: Sandbox) -> Iterator[Callable[[], str]]:
    names: list[str] = []

    def make() -> str:
        names.append(f"empty_{next(NUMBERS)}")
        with newest.connect("postgres") as connection:
            connection.execute(f"create database {names[-1]}")
        return newest.url(names[-1])

    yield make
    with newest.connect("postgres") as connection:
        for name in names:
            connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def empty_database(make_empty_database: Callable[[], str]) -> str:
    return make_empty_database()


def session_on(url: str, **settings: Any) -> Session:
    """Open a session on a database, as a target with these settings has it."""
    return open_session(Target.model_validate({"name": "tested", "dsn": url, **settings}))


@pytest.fixture
def session(server: Sandbox) -> Iterator[Session]:
    with session_on(server.url()) as session:
        yield session


def diagnose(sandbox: Sandbox, *names: str, thresholds: Mapping[str, Any] | None = None, **settings: Any) -> Verdict:
    """Ask a sandbox the checks of the names (areas, codes, a runbook), as a target with these thresholds would.

    The counters of a sandbox are young, which is no news: statistics-reset-recent is told to take any age.
    """
    limits = {"statistics-reset-recent": {"min_age": "0"}, **(thresholds or {})}
    with session_on(sandbox.url(), thresholds=limits, **settings) as session:
        return ask(session, checks_for(*names), runbook="check")


def not_in_the_reference(code: str, verdict: Verdict) -> list[Remedy]:
    """Return the remedies of a check's findings that its page does not tell of."""
    told = suggestions(registry()[code])
    remedies = [remedy for finding in verdict.about(code) for remedy in finding.remedies]
    return [remedy for remedy in remedies if not any(it.stands_for(remedy) for it in told)]


@pytest.fixture
def prove(server: Sandbox) -> Callable[[str], None]:
    """Return the proof of a check: silent while healthy, found inside its drill, silent once it is healed."""

    def prove(code: str) -> None:
        drill = drills()[code]
        thresholds = {name: dict(limits) for name, limits in drill.thresholds.items()}

        def found() -> list[tuple[str, str, str]]:
            verdict = diagnose(server, code, thresholds=thresholds)
            assert verdict.checks[0].outcome in ("ok", "found"), verdict.checks[0].reason
            assert not_in_the_reference(code, verdict) == []
            return [(it.kind, it.name, it.severity) for it in verdict.findings]

        assert found() == []
        with drill.fault(server) as incident:
            assert (incident.kind, incident.name, incident.severity) in found()
        assert found() == []

    return prove


@pytest.fixture
def remember(server: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what files a snapshot of now as one of some hours ago, in a history of the test's own."""
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "history"))

    def remember(hours_ago: float = 2, url: str | None = None) -> Path:
        at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours_ago)
        with open_session(Target(name="tested", dsn=url or server.url())) as session:
            return record_snapshot(session, at=at)

    return remember


@pytest.fixture
def own(empty_database):
    """Return a database of one's own with one table: a writer's connection and a session."""
    target = Target(name="tested", dsn=empty_database)
    with psycopg.connect(empty_database, autocommit=True) as owner, open_session(target) as session:
        owner.execute("create table visits (id bigint generated always as identity primary key, note text)")
        yield owner, session


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "history"


def visit(owner, rows):
    owner.execute("insert into visits (note) select repeat('x', 500) from generate_series(1, %s)", [rows])
    owner.execute("select pg_stat_force_next_flush()")


@contextlib.contextmanager
def pgbench(sandbox: Sandbox, seconds: int = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a server busy with 16 clients of pgbench on one small scale, which block each other all the time."""
    with sandbox.connect("postgres") as connection:
        connection.execute("drop database if exists bench")
        connection.execute("create database bench")
    program, url = str(sandbox.programs / "pgbench"), sandbox.url("bench")
    subprocess.run([program, "-i", "-q", "-s", "1", url], check=True, capture_output=True)
    load = [program, "-c", "16", "-T", str(seconds), "-n", url]
    with subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with sandbox.connect() as watcher:
                wait_until(watcher, "select count(*) >= 16 from pg_stat_activity where application_name = 'pgbench'")
            yield process
        finally:
            process.terminate()
    with sandbox.connect("postgres") as connection:
        connection.execute("drop database bench with (force)")


@pytest.fixture
def run_pgbench() -> Callable[..., Any]:
    return pgbench


SERVER = Server(
    version="18.0",
    version_num=180000,
    system_identifier="1",
    database="shop",
    role="watcher",
    quoted_role="watcher",
    in_recovery=False,
    stats_reset=None,
    counters_age_s=40 * 86400.0,
    sees_sessions=True,
    superuser=False,
    extensions={},
)


@pytest.fixture
def context() -> Context:
    """Return what a judge may know: a primary 18 and a target with default limits."""
    return Context(SERVER, Target(name="tested", dsn=""))


def session_row(name: str, *, blocked_by: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """Return a row of the sessions query: an idle session of the shop, or what the changes make of it."""
    row = {
        "kind": "pid",
        "name": name,
        "id": f"pid:{name}",
        "role": "shop",
        "quoted_role": "shop",
        "database": "shop",
        "application": "checkout",
        "client": None,
        "backend_type": "client backend",
        "state": "active",
        "wait_event_type": None,
        "wait_event": None,
        "backend_start": "2026-11-01T00:00:00+00:00",
        "has_written": True,
        "transaction_s": 1.0,
        "statement_after_s": 0.0,
        "statement_s": 1.0,
        "state_s": 1.0,
        "waits": bool(blocked_by),
        "waiting_s": None,
        "lock_type": None,
        "lock_mode": None,
        "lock_on": None,
        "blocked_by": [f"pid:{pid}" for pid in blocked_by],
        "query": "select ?",
    }
    return {**row, **changes}


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return unused_port()


@contextlib.contextmanager
def silent_host() -> Iterator[int]:
    """Listen on a port, and never say a word to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


YEAR_END = datetime.datetime(2026, 11, 16, 6, tzinfo=datetime.UTC)
_YEAR = """
create table orders (id int generated always as identity primary key, placed_at timestamptz, note text);
create index orders_placed on orders (placed_at);
create index orders_again on orders (placed_at);
create table tickets (id smallint primary key);
create table stock (id int primary key, amount int, note text) with (autovacuum_enabled = off);
insert into stock select i, 0, repeat('s', 100) from generate_series(1, 20000) as i;
analyze stock;
create table documents (id int, body text);
alter table documents alter body set storage external;
create table log (day date, note text) partition by range (day);
create table gone as select i, repeat('g', 100) as note from generate_series(1, 5000) as i;
"""
_DAYS_OF_IT = """
insert into orders (placed_at, note) select %(at)s, repeat('o', 60) from generate_series(1, 300 * %(days)s);
insert into tickets select coalesce((select max(id) from tickets), 0) + i from generate_series(1, 50 * %(days)s) as i;
insert into documents select i, repeat(md5(i::text), 150) from generate_series(1, 5 * %(days)s) as i;
insert into log select %(at)s::date, repeat('l', 100) from generate_series(1, 100 * %(days)s);
"""


@dataclass(frozen=True)
class Year:
    """A database that grew for a year, its history, and what each relation weighed at the last two snapshots."""

    url: str
    session: Session
    folder: Path
    taken: list[Snapshot]
    before: dict[str, int]
    after: dict[str, int]


@pytest.fixture(scope="session")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    """Return the past of a database with 15 snapshots, the last two a week apart; nobody may change it.

    It has a server of its own, since drills restart the shared ones.
    """
    folder = tmp_path_factory.mktemp("year")
    with temporary_sandbox(sample=False) as server:
        with server.connect("postgres") as dba:
            dba.execute("alter system set autovacuum = off")  # sizes are compared to the byte
            dba.execute("select pg_reload_conf()")
            dba.execute("create database a_year")
        target = Target(name="tested", dsn=server.url("a_year"))
        with server.connect("a_year") as owner, open_session(target) as session:
            yield _lived(owner, session, folder)


def _lived(owner: psycopg.Connection, session: Session, folder: Path) -> Year:
    owner.execute(_YEAR)
    ends = [*(YEAR_END - datetime.timedelta(days=28 * number) for number in range(13, 0, -1))]
    ends += [YEAR_END - datetime.timedelta(days=7), YEAR_END]
    sizes = [_relation_sizes(owner)]
    for number, end in enumerate(ends):
        at = end - datetime.timedelta(hours=1)
        days = (end - ends[number - 1]).days if number else 28
        owner.execute(
            f"create table log_{number} partition of log for values from ('{at - datetime.timedelta(days - 1):%Y-%m-%d}')"
            f" to ('{at + datetime.timedelta(1):%Y-%m-%d}')"
        )
        if end == YEAR_END:
            owner.execute("update stock set amount = amount + 1")
            owner.execute("drop table gone")
            owner.execute("drop table log_0")
            owner.execute("create table fresh as select i, repeat('f', 100) as note from generate_series(1, 8000) as i")
        for statement in _DAYS_OF_IT.strip().splitlines():
            owner.execute(statement, {"at": at, "days": days})
        owner.execute("select pg_stat_force_next_flush()")
        owner.execute("analyze orders")
        record_snapshot(session, at=end, folder=folder)
        sizes.append(_relation_sizes(owner))
    taken, _ = snapshots(session, folder=folder)
    return Year(session.target.dsn, session, folder, taken, sizes[-2], sizes[-1])


def _relation_sizes(owner: psycopg.Connection) -> dict[str, int]:
    sizes = dict(
        owner.execute(
            "select oid::regclass::text, pg_total_relation_size(oid) from pg_class"
            " where relkind = 'r' and relnamespace = 'public'::regnamespace"
        ).fetchall()
    )
    (whole,) = owner.execute("select pg_database_size(current_database())").fetchone()
    return {**sizes, "": whole}
