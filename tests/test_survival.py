"""What a bad night brings: hundreds of sessions, texts from hell, a server that lets nobody in; and what is no incident."""

import contextlib
import datetime
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import matplotlib
import nbformat
import psycopg
import pytest
from bs4 import BeautifulSoup

from conftest import diagnose
from pgrunbooks import plots
from pgrunbooks.drills import Actors, pid
from pgrunbooks.errors import RunbookError
from pgrunbooks.record import findings_schema, leave
from pgrunbooks.sandbox import temporary_sandbox, wait_until
from pgrunbooks.workspace import runbook_files

DEADLINE_S = 100
AT_ONCE = {"warning": "0", "critical": "0"}
QUEUE = {"blocking-lock": {"warning": "1s"}, "idle-in-transaction": {"blocking": "1s"}}


@pytest.fixture
def pgrunbooks(tmp_path, monkeypatch):
    """Return a runner of commands on a target; it returns the result and prints how long that took."""
    monkeypatch.chdir(tmp_path)

    def run(sandbox, *arguments, user="postgres", database="shop", thresholds=None):
        target = {"dsn": sandbox.url(database, user) + "&connect_timeout=5", "thresholds": thresholds or {}}
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"prod": target}}))
        command = [sys.executable, "-m", "pgrunbooks", *arguments, "--target", "prod"]
        began = time.monotonic()
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        print(f"{' '.join(arguments)}: {time.monotonic() - began:.1f} s")
        assert "Traceback" not in result.stderr
        return result

    return run


def judged(result):
    document = json.loads(result.stdout)
    jsonschema.validate(document, findings_schema())
    return document


def the_record():
    (findings,) = Path().glob("records/prod/*/findings.json")
    document = json.loads(findings.read_text())
    jsonschema.validate(document, findings_schema())
    return findings.parent, document


def outcomes(document, *kinds):
    return {it["code"]: it["reason"] for it in document["checks"] if it["outcome"] in kinds}


# ---- many sessions, many locks -----------------------------------------------------------------------------------


@contextlib.contextmanager
def lock_queue(sandbox, *, waiters, idle):
    """Hold a table and let sessions queue behind; yields the pid of the root."""
    with contextlib.ExitStack() as sessions:

        def enter(application):
            session = sandbox.connect(application_name=application)
            sessions.callback(session.close)
            return session

        for _ in range(idle):
            enter("pool")
        queue = [enter("checkout") for _ in range(waiters)]
        root = enter("migration")
        root.execute("begin; lock table shop.orders in access exclusive mode")
        for waiter in queue:
            waiter.pgconn.send_query(b"select count(*) from shop.orders")
        with sandbox.connect() as watcher:
            waiting = "select count(*) = %s from pg_locks where not granted and clock_timestamp() - waitstart > '1s'"
            wait_until(watcher, waiting, [waiters])
        yield pid(root)


def test_five_hundred_sessions_and_a_queue_of_two_hundred(pgrunbooks):
    matplotlib.use("agg")
    with (
        temporary_sandbox({"max_connections": "700"}) as crowded,
        lock_queue(crowded, waiters=200, idle=299) as root,
    ):
        document = judged(pgrunbooks(crowded, "check", "--json", thresholds=QUEUE))
        picture = plots.lock_tree(diagnose(crowded, "locks").rows["blocking-lock"])
    first, second = document["findings"][:2]
    assert (first["code"], first["object"]["name"]) == ("idle-in-transaction", root)
    assert (second["code"], second["object"]["name"], second["evidence_total"]) == ("blocking-lock", root, 201)
    assert outcomes(document, "failed") == {}
    assert picture.get_title(loc="left") == "200 sessions wait behind one session"


def test_every_table_locked_and_wanted(pgrunbooks, server):
    with Actors(server) as stage:
        found = stage.watcher.execute(
            "select string_agg(oid::regclass::text, ', ' order by oid) from pg_class"
            " where relnamespace = 'shop'::regnamespace and relkind in ('r', 'p') and not relispartition"
        )
        tables = found.fetchone()[0].split(", ")
        root = pid(stage.enter("migration", "begin", f"lock table {', '.join(tables)} in exclusive mode"))
        waiters = [stage.block("ddl", f"begin; lock table {table} in access exclusive mode") for table in tables]
        for waiter in waiters:
            stage.waited(waiter, 1)
        check = pgrunbooks(server, "check", "--json", thresholds=QUEUE)
        run = pgrunbooks(server, "run", "troubleshooting", thresholds=QUEUE)
    assert (check.returncode, run.returncode) == (2, 2), run.stderr
    for document in (judged(check), the_record()[1]):
        assert document["findings"][0]["object"]["name"] == root
        assert outcomes(document, "failed") == {}


def test_a_locked_catalog_is_told_once_and_soon(pgrunbooks, newest):
    with newest.connect() as root:
        root.execute("begin; lock table pg_constraint in access exclusive mode")
        result = pgrunbooks(newest, "check", "--json")
        doctor = pgrunbooks(newest, "doctor")
    document = judged(result)
    assert len(outcomes(document, "failed")) > 10
    assert document["reason"].count("lock time-out") == 1
    assert sum(it["duration_ms"] for it in document["checks"]) < 10_000
    assert (result.returncode, doctor.returncode) == (3, 3)


def test_a_cell_that_loses_the_server_says_so_in_one_line_and_the_findings_stay(pgrunbooks, newest, tmp_path):
    runbook = nbformat.read(runbook_files()["lock_analysis"], as_version=4)
    first = next(cell for cell in runbook.cells if cell.source.startswith("%%sql"))
    first.source = "%%sql\nselect pg_terminate_backend(pg_backend_pid())"
    (tmp_path / "runbooks").mkdir()
    nbformat.write(runbook, tmp_path / "runbooks" / "lock_analysis.ipynb")
    with Actors(newest) as stage:
        root = pid(stage.enter("migration", "begin", "lock table shop.orders"))
        stage.waited(stage.block("checkout", "select count(*) from shop.orders"), 1)
        limits = {"blocking-lock": {"warning": "1s", "critical": "1h"}, "idle-in-transaction": {"blocking": "1h"}}
        result = pgrunbooks(newest, "run", "lock_analysis", thresholds=limits)
    line = "the server went away: terminating connection due to administrator command"
    assert (result.returncode, result.stderr) == (3, f"pgrunbooks: {line}\n")
    document = the_record()[1]
    assert (document["status"], document["reason"]) == ("unknown", line)
    assert document["findings"][0]["object"]["name"] == root


# ---- texts -------------------------------------------------------------------------------------------------------

CONTROLS = "".join(map(chr, [*range(1, 32), 127, 0x85, 0x9B, 0x200B, 0x202E, 0x2028, 0xFEFF, 0xE0041]))
NASTY = (
    f"<hell onload='x()'>\"\"</td>&lt;{{{{ x }}}} \x1b[31m\x1b]0;owned\x07 \r{CONTROLS} \u4f60\u597d \U0001f600 ' %s"
)
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2028\ufeff\U000e0041]")
MEGABYTE = 1 << 20


def long_text(start, shift=0):
    """Return a statement of more than a megabyte: nasty names, literals and comments, and characters of 4 bytes."""
    quoted, literal = f'"{NASTY}"', "'" + NASTY.replace("'", "''") + "'"
    head = f"{start} as {quoted}, {literal} as {quoted} /* {'x' * shift}"
    body = f"{NASTY}\U0001f600" * (MEGABYTE // len(NASTY)) + "\U0001f600" * 1000
    return f"{head}{body} */"


def send(session, statement):
    session.pgconn.nonblocking = 0
    session.pgconn.send_query(statement)


@contextlib.contextmanager
def texts_from_hell(sandbox):
    """Let a session block others, all with such texts, cut at four offsets, one in bytes that are no UTF-8."""
    with sandbox.connect("postgres") as owner:
        owner.execute("drop database if exists bytes")
        owner.execute("create database bytes encoding 'SQL_ASCII' template template0")
    with Actors(sandbox) as stage:
        root = stage.enter(NASTY.encode("ascii", "ignore").decode(), "begin", "lock table shop.orders")
        send(root, long_text("select pg_sleep(300)").encode())
        waiters = [stage.enter("checkout") for _ in range(4)]
        for shift, waiter in enumerate(waiters):
            send(waiter, long_text("select (select count(*) from shop.orders)", shift).encode())
        other = stage.enter("legacy", database="bytes", client_encoding="sql_ascii")
        other.execute(b'create table "caf\xe9" as select 1 as "\xff"')
        other.execute(b'create index "\xff1" on "caf\xe9" ("\xff"); create index "\xff2" on "caf\xe9" ("\xff")')
        send(other, b'select pg_sleep(300) as "caf\xe9 \xff\xfe \xf0\x9f" -- \xf0\x9f\x98')
        for waiter in waiters:
            stage.waited(waiter, 1)
        stage.wait_until("select count(*) = 2 from pg_stat_activity where wait_event = 'PgSleep'")
        yield pid(root)
    with sandbox.connect("postgres") as owner:
        owner.execute("drop database bytes with (force)")


@pytest.fixture(scope="module")
def hell():
    settings = {"track_activity_query_size": "1MB", "max_connections": "30"}
    with temporary_sandbox(settings) as sandbox, texts_from_hell(sandbox) as root:
        yield sandbox, root


HELL = {
    **QUEUE,
    "blocking-lock": {"warning": "1s", "critical": "1s"},
    "long-running-query": AT_ONCE,
    "long-transaction": AT_ONCE,
    "xmin-horizon-held": AT_ONCE,
}


def test_no_text_reaches_a_terminal_raw(pgrunbooks, hell):
    sandbox, root = hell
    result = pgrunbooks(sandbox, "check", thresholds=HELL)
    assert (result.returncode, result.stderr) == (2, "")
    assert root in result.stdout
    assert RAW.findall(result.stdout) == []


def test_a_locale_without_our_characters_is_no_reason_to_fail(pgrunbooks, hell, monkeypatch):
    sandbox, root = hell
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert root in pgrunbooks(sandbox, "check", "locks", thresholds=HELL).stdout
    document = judged(pgrunbooks(sandbox, "check", "locks", "--json", thresholds=HELL))
    assert root in {it["object"]["name"] for it in document["findings"]}


def test_a_reader_that_has_seen_enough_does_not_change_the_status(pgrunbooks, hell):
    assert pgrunbooks(hell[0], "check", "locks", thresholds=HELL).returncode == 2
    command = f"{sys.executable} -m pgrunbooks check locks --target prod --json | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], timeout=DEADLINE_S, check=False).returncode == 2


def test_any_text_makes_a_valid_bounded_document(pgrunbooks, hell):
    sandbox, root = hell
    result = pgrunbooks(sandbox, "check", "--json", thresholds=HELL)
    document = judged(result)
    assert outcomes(document, "failed") == {}
    assert document["findings"][0]["object"]["name"] == root
    assert len(result.stdout) < MEGABYTE


def test_names_that_are_no_text_are_written_out(pgrunbooks, hell):
    sandbox, _ = hell
    document = judged(pgrunbooks(sandbox, "check", "--json", database="bytes", thresholds=HELL))
    assert outcomes(document, "failed") == {}
    assert r'public."\xff2"' in [it["object"]["name"] for it in document["findings"]]
    assert pgrunbooks(sandbox, "doctor", database="bytes").returncode in (0, 1)


@pytest.mark.parametrize("runbook", ["troubleshooting", "lock_analysis"])
def test_no_text_reaches_a_page_as_markup(runbook, pgrunbooks, hell):
    sandbox, root = hell
    result = pgrunbooks(sandbox, "run", runbook, "-p", "show_literals", "true", thresholds=HELL)
    assert result.returncode == 2, result.stderr
    folder, document = the_record()
    assert outcomes(document, "failed") == {}
    assert root in {it["object"]["name"] for it in document["findings"]}
    page = BeautifulSoup((folder / "report.html").read_text(), "html.parser")
    assert "<hell" in page.get_text()
    assert page.find("hell") is None
    assert not [tag for tag in page.find_all() if "onload" in tag.attrs]
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    print(sizes)
    assert max(sizes.values()) < 4 * MEGABYTE, sizes


# ---- work that takes its time and is no incident -------------------------------------------------------------------

AGES = dict.fromkeys(("long-running-query", "long-transaction", "idle-in-transaction", "xmin-horizon-held"), AT_ONCE)


def assert_no_incident(server, *seen):
    """Ask everything with limits of age that anything exceeds: nothing grave, though these codes say something."""
    verdict = diagnose(server, thresholds=AGES)
    assert [it.title for it in verdict.findings if it.severity != "info"] == []
    assert verdict.status == "ok"
    assert set(seen) <= {it.code for it in verdict.findings}


@contextlib.contextmanager
def dump(server, tmp_path, *options):
    """Hold a real pg_dump in the middle of a table, as a slow disk would."""
    command = [str(server.programs / "pg_dump"), "-t", "shop.order_items", *options, server.url()]
    with (
        server.connect() as watcher,
        subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process,
    ):
        try:
            copying = "select exists (select from pg_stat_activity where application_name = 'pg_dump'"
            wait_until(watcher, copying + " and state = 'active' and query ilike 'copy%')")
            os.killpg(process.pid, signal.SIGSTOP)
            wait_until(watcher, copying + " and wait_event = 'ClientWrite')")
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    with server.connect() as watcher:
        wait_until(watcher, "select not exists (select from pg_stat_activity where application_name = 'pg_dump')")


def test_a_running_dump_is_no_incident(server, tmp_path):
    with dump(server, tmp_path):
        assert_no_incident(server, "long-running-query")


def test_the_idle_leader_of_a_parallel_dump_is_no_incident(server, tmp_path):
    with dump(server, tmp_path, "-Fd", "-Z0", "-j2", "-f", str(tmp_path / "dump")):
        assert_no_incident(server, "long-running-query", "idle-in-transaction")


def test_an_index_that_is_built_concurrently_is_no_incident(server):
    with Actors(server) as stage:
        stage.heal("drop schema lab cascade")
        for statement in (
            "create schema lab",
            "create function lab.slow_cmp(int, int) returns int language plpgsql immutable as"
            " 'begin perform pg_sleep(0.001); return btint4cmp($1, $2); end'",
            "create operator class lab.slow_ops for type int4 using btree as operator 1 <, operator 2 <=,"
            " operator 3 =, operator 4 >=, operator 5 >, function 1 lab.slow_cmp(int, int)",
            "create table lab.t as select (i * 7919) % 20011 as id from generate_series(1, 20000) as i",
            "analyze lab.t",
        ):
            stage.watcher.execute(statement)
        builder = stage.enter("migration")
        builder.pgconn.send_query(b"create index concurrently on lab.t (id lab.slow_ops)")
        stage.wait_until(
            "select exists (select from pg_stat_progress_create_index where pid = %s and phase like 'building%%')",
            builder.info.backend_pid,
        )
        assert_no_incident(server, "long-running-query")


def test_an_index_that_waits_for_a_dump_is_no_incident_yet(server, tmp_path):
    with dump(server, tmp_path), Actors(server) as stage:
        stage.heal("drop table public.built")
        stage.watcher.execute("create table public.built (id int primary key, a int)")
        builder = stage.enter("migration")
        builder.pgconn.send_query(b"create index concurrently on public.built (a)")
        stage.wait_until(
            "select exists (select from pg_stat_progress_create_index where pid = %s and phase like 'waiting for old%%')",
            builder.info.backend_pid,
        )
        assert_no_incident(server, "long-running-query")
        builder.cancel_safe()


def test_a_long_vacuum_is_no_incident(server):
    with Actors(server) as stage:
        vacuum = stage.enter("maintenance", "set vacuum_cost_delay = 100", "set vacuum_cost_limit = 1")
        vacuum.pgconn.send_query(b"vacuum (freeze) shop.order_items")
        stage.wait_until(
            "select exists (select from pg_stat_progress_vacuum where pid = %s and phase = 'scanning heap')",
            vacuum.info.backend_pid,
        )
        assert_no_incident(server, "long-running-query")


# ---- a server that lets nobody in --------------------------------------------------------------------------------


def assert_refused(pgrunbooks, sandbox, words, **who):
    result = pgrunbooks(sandbox, "check", "--json", **who)
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1), result.stderr
    document = judged(result)
    assert (document["status"], document["checks"]) == ("unknown", [])
    assert words in document["reason"]


def test_without_a_free_slot_it_says_so_and_with_a_reserved_one_it_names_who_took_them(pgrunbooks, server):
    few = {"max_connections": "8", "superuser_reserved_connections": "2"}
    with (
        temporary_sandbox(few, sample=False, programs=server.programs) as full,
        contextlib.ExitStack() as sessions,
    ):
        with full.connect("postgres") as owner:
            owner.execute("create role shop login")
        for _ in range(6):
            sessions.enter_context(psycopg.connect(full.url("postgres", "shop"), application_name="pool"))
        assert_refused(pgrunbooks, full, "remaining connection slots", user="shop", database="postgres")
        result = pgrunbooks(full, "check", "--json", database="postgres")
        assert judged(result)["findings"][0]["code"] == "connection-saturation"
        assert "pool" in judged(result)["findings"][0]["impact"]
        for _ in range(2):
            sessions.enter_context(full.connect("postgres"))
        assert_refused(pgrunbooks, full, "too many clients already", database="postgres")


def test_a_server_in_recovery_that_takes_no_connections_is_unknown(pgrunbooks, server):
    with temporary_sandbox(sample=False, programs=server.programs) as restored:
        restored.run("pg_ctl", "stop", "-m", "fast", "-D", str(restored.data))
        with (restored.data / "postgresql.auto.conf").open("a") as configuration:
            configuration.write("restore_command = 'sleep 10; false'\n")
        (restored.data / "recovery.signal").touch()
        log = str(restored.data / "startup.log")
        restored.run("pg_ctl", "start", "-W", "-D", str(restored.data), "-l", log)
        deadline = time.monotonic() + 30
        while not list(restored.socket.glob(".s.PGSQL.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert_refused(pgrunbooks, restored, "the database system is starting up", database="postgres")
        restored.run("pg_ctl", "stop", "-m", "immediate", "-D", str(restored.data))


# ---- a disk that is full -----------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_with_the_status_and_leaves_no_half_record(tmp_path):
    notebook, full = nbformat.v4.new_notebook(), "\N{BLACK SQUARE}" * 100_000
    notebook.cells = [nbformat.v4.new_markdown_cell(full)]
    document = {"target": "prod", "status": "critical", "runbook": "own", "server": None, "findings": [], "checks": []}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(full), before[1]))
    try:
        with pytest.raises(RunbookError, match="cannot be written: File too large; the status is CRITICAL"):
            leave(notebook, document, tmp_path, owner=None, began=datetime.datetime.now(datetime.UTC))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("arguments", [["list"], ["records", "--out", "/proc/self"]])
def test_what_cannot_be_written_is_one_line(arguments):
    command = [sys.executable, "-m", "pgrunbooks", *arguments]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False
        )
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1), result.stderr
