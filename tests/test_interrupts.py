"""Ctrl-C, as a terminal sends it to all processes of a command: exit 130, one line, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from conftest import silent_host
from pgrunbooks.sandbox import default_sandbox, wait_until

FAR = ["--target", "far"]
NEAR = ["--target", "sandbox"]
BOUND_S = 40
PROGRAM = ["-m", "pgrunbooks"]
STOPS_HALF_WAY = """
import time
from pgrunbooks import record
from pgrunbooks.__main__ import run

def half_way(*arguments, **options):
    print("half written", flush=True)
    time.sleep(60)

record.render_report = half_way  # a record's report is what it writes last
run()
"""


@pytest.fixture
def folder(tmp_path):
    """Return a folder whose targets file names a server that accepts connections and never says a word."""
    with silent_host() as port:
        dsn = f"host=127.0.0.1 port={port} user=u dbname=d"
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"far": {"dsn": dsn}}}))
        yield tmp_path


def marked(mark):
    """Return the processes that were started with this mark in their environment, whoever is their parent now."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in place.read_bytes():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def until(condition):
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def connects(process, mark, folder):
    links = Path(f"/proc/{process.pid}/fd")
    until(lambda: any("socket:" in os.path.realpath(link) for link in links.iterdir()))


def writes_a_record(process, mark, folder):
    assert process.stdout.readline() == "half written\n"
    (aside,) = folder.glob("records/sandbox/.*.partial")
    assert {path.name for path in aside.iterdir()} == {"notebook.ipynb", "findings.json"}


def is_in_the_incident(process, mark, folder):
    while "Somebody leaves a transaction open" not in process.stdout.readline():
        assert process.poll() is None
    with default_sandbox().connect() as watcher:
        wait_until(watcher, "select exists (select from pg_locks where not granted)")


def has_a_process_that_makes_the_fault(process, mark, folder):
    until(lambda: len(marked(mark)) > 1)


def sessions():
    """Return the sessions of the sandbox; a test before this one may have left some, as a page in JupyterLab does."""
    with default_sandbox().connect("postgres") as watcher:
        of_clients = "backend_type = 'client backend' and pid <> pg_backend_pid()"
        rows = watcher.execute(f"select pid, backend_start from pg_stat_activity where {of_clients}")
        return set(rows.fetchall())


@pytest.mark.parametrize(
    ("program", "arguments", "is_under_way"),
    [
        (PROGRAM, ["check", *FAR], connects),
        (PROGRAM, ["doctor", *FAR], connects),
        (PROGRAM, ["snapshot", *FAR], connects),
        (["-c", STOPS_HALF_WAY], ["run", "troubleshooting", *NEAR], writes_a_record),
        (PROGRAM, ["demo"], is_in_the_incident),
        (PROGRAM, ["drill", "start", "ddl-lock-queue"], has_a_process_that_makes_the_fault),
    ],
    ids=["check", "doctor", "snapshot", "run", "demo", "drill"],
)
def test_an_interrupt_ends_the_command_and_leaves_nothing(program, arguments, is_under_way, folder):
    before = sessions()
    mark = f"MARK={uuid.uuid4()}"
    command = [sys.executable, *program, *arguments]
    environment = {**os.environ, **dict([mark.split("=")]), "PGRUNBOOKS_HISTORY": str(folder / "history")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes) as process:
        is_under_way(process, mark, folder)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=BOUND_S)[1]
    assert (process.returncode, error.strip()) == (130, "pgrunbooks: interrupted")
    until(lambda: not marked(mark))
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / "targets.yml"]
    assert default_sandbox().drill() is None
    until(lambda: sessions() <= before)
