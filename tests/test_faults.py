"""Whatever happens to the server or to us during a run: the run ends, says no more than it knows, leaves nothing half."""

import contextlib
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import jsonschema
import psycopg
import pytest

from pgrunbooks.archive import prune, records, write_overview
from pgrunbooks.record import findings_schema
from pgrunbooks.sandbox import temporary_sandbox, wait_until
from pgrunbooks.verdict import EXIT_STATUS, checks_for

SEED = 20261122
# How many of each fault hit a check and a run of a runbook; a frozen server comes last, since it takes the longest.
INJECTIONS = {
    "our backend is terminated": (12, 2),
    "our statement is cancelled": (12, 2),
    "our backend is killed": (10, 1),
    "the server is stopped fast": (10, 1),
    "the server is stopped at once": (10, 1),
    "the postmaster is killed": (8, 1),
    "we are interrupted": (12, 3),
    "we are terminated": (12, 3),
    "we are hung up": (4, 1),
    "we are killed": (8, 2),
    "the server is frozen": (6, 2),
}
COMMANDS = {
    "check": (["check", "--json"], checks_for()),
    "run": (["run", "troubleshooting", "--out", "records"], checks_for("troubleshooting")),
}
SIGNALS = {
    "we are interrupted": signal.SIGINT,
    "we are terminated": signal.SIGTERM,
    "we are hung up": signal.SIGHUP,
    "we are killed": signal.SIGKILL,
}
ON_BACKEND = [fault for fault in INJECTIONS if fault.startswith("our")]
BOUND_S = 45
OURS = "from pg_stat_activity where application_name = 'pgrunbooks'"


def plan():
    """Draw the moments, as shares of an undisturbed run: each fault is spread over the whole of it."""
    moments = random.Random(SEED)
    batches = {}
    for fault, numbers in INJECTIONS.items():
        for command, number in zip(COMMANDS, numbers, strict=True):
            batches[command, fault] = [(slot + moments.random()) / number for slot in range(number)]
    return batches


class Workshop:
    """A server of its own, a folder with a targets file that names it, and the faults that can be done to a run."""

    def __init__(self, sandbox, folder):
        self.sandbox = sandbox
        self.folder = folder
        self.numbers = count(1)
        settings = {"dsn": sandbox.url() + "&connect_timeout=2", "statement_timeout": "2s"}
        (folder / "targets.yml").write_text(json.dumps({"targets": {"prod": settings}}))
        self.measure("check")  # the first run warms the server's caches
        self.lasts = {command: self.measure(command) for command in COMMANDS}

    def measure(self, command):
        """Return how long an undisturbed run takes from its first line on, and how long its session lasts."""
        with self.watcher() as watcher, self.begin(command, self.folder) as process:
            began, seen = time.monotonic(), []
            while process.poll() is None:
                if self.backend(watcher):
                    seen.append(time.monotonic())
                time.sleep(0.002)
            out, error = process.communicate()
            assert (process.returncode, error) == (0, ""), out + error
            return time.monotonic() - began, seen[-1] - seen[0] if seen else 0.0

    @contextlib.contextmanager
    def begin(self, command, folder):
        """Start a run; yield its process once our first line has run, since before that it is Python's."""
        arguments = [sys.executable, "-m", "pgrunbooks", *COMMANDS[command][0], "--target", "prod"]
        environment = {**os.environ, "PGRUNBOOKS_TARGETS": str(self.folder / "targets.yml")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(arguments, cwd=folder, env=environment, **pipes) as process:
            try:
                deadline = time.monotonic() + BOUND_S
                while not handles_sigterm(process.pid):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.002)
                yield process
            finally:
                process.kill()

    def watcher(self):
        return self.sandbox.connect("postgres", application_name="watcher")

    def backend(self, watcher, condition="true"):
        row = watcher.execute(f"select pid {OURS} and {condition}").fetchone()
        return row and row[0]

    def await_backend(self, watcher, process, condition="true"):
        """Return the pid of our backend once it is there; None where the run ended before."""
        while process.poll() is None:
            if pid := self.backend(watcher, condition):
                return pid
            time.sleep(0.002)
        return None

    def endure(self, command, fault, moment):
        """Do one fault to one run and assert that it survived; return whether the fault came before its end."""
        folder = self.folder / f"{next(self.numbers)}"
        folder.mkdir()
        whole_s, session_s = self.lasts[command]
        with self.begin(command, folder) as process, contextlib.ExitStack() as healing:
            if fault in ON_BACKEND:
                hit = self.strike_backend(process, fault, moment * session_s)
            else:
                time.sleep(moment * whole_s)
                hit = process.poll() is None
                self.strike(process, fault, healing)
            try:
                out, error = process.communicate(timeout=BOUND_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the run has not ended within {BOUND_S} s") from None
        self.start()
        assert_survived(command, SIGNALS.get(fault), process.returncode, out, error)
        if command == "run":
            assert_records(folder / "records", SIGNALS.get(fault), process.returncode)
        with self.watcher() as watcher:
            wait_until(watcher, f"select count(*) = 0 {OURS}", seconds=10)
        return hit

    def strike_backend(self, process, fault, after_s):
        with self.watcher() as watcher:
            pid = self.await_backend(watcher, process)
            time.sleep(after_s)
            if fault == "our backend is terminated":
                return bool(watcher.execute(f"select pg_terminate_backend(pid) {OURS}").fetchall())
            if fault == "our statement is cancelled":
                pid = self.await_backend(watcher, process, "state = 'active'")
                return bool(pid) and watcher.execute("select pg_cancel_backend(%s)", [pid]).fetchone()[0]
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGKILL)
                while Path(f"/proc/{pid}").exists():  # until then the postmaster does not know, and lets others in
                    time.sleep(0.002)
                return True
            return False

    def strike(self, process, fault, healing):
        if fault in SIGNALS:
            process.send_signal(SIGNALS[fault])
        elif fault == "the postmaster is killed":
            os.kill(self.postmaster(), signal.SIGKILL)
        elif fault == "the server is frozen":
            postmaster = self.postmaster()
            os.kill(postmaster, signal.SIGSTOP)
            frozen = [postmaster, *children(postmaster)]
            healing.callback(send, frozen, signal.SIGCONT)
            send(frozen, signal.SIGSTOP)
        else:
            mode = "fast" if fault.endswith("fast") else "immediate"
            self.sandbox.run("pg_ctl", "stop", "-m", mode, "-D", str(self.sandbox.data))

    def postmaster(self):
        return int((self.sandbox.data / "postmaster.pid").read_text().splitlines()[0])

    def start(self):
        """Bring the server back, whatever happened to it; orphans of a killed postmaster have to go first."""
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.watcher():
                    return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
            time.sleep(0.05)
            if not self.sandbox.running():
                log = str(self.sandbox.data / "startup.log")
                self.sandbox.run("pg_ctl", "start", "-w", "-D", str(self.sandbox.data), "-l", log, check=False)


def handles_sigterm(pid):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def children(pid):
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in pids]


def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def assert_survived(command, own_signal, status, out, error):
    assert "Traceback" not in error, error
    deaths = (-own_signal, 128 + own_signal) if own_signal else ()
    assert status in (0, 1, 2, 3, *deaths), f"exit status {status}: {error}"
    assert len([line for line in error.splitlines() if line.strip()]) <= 1, error
    if command == "check" and (out or status not in deaths):
        assert_document(command, json.loads(out), status, deaths)


def assert_document(command, document, status, deaths):
    jsonschema.validate(document, findings_schema())
    assert status in (EXIT_STATUS[document["status"]], *deaths)
    outcomes = {it["outcome"] for it in document["checks"]}
    if document["status"] in ("ok", "warning"):
        assert [it["code"] for it in document["checks"]] == [it.code for it in COMMANDS[command][1]]
        assert outcomes <= {"ok", "found", "skipped"}
        assert document["reason"] is None
    if document["status"] == "unknown":
        assert document["reason"]


def assert_records(out, own_signal, status):
    """A record is whole or not there; what a kill leaves aside is no record to anybody, and is pruned."""
    left = list(out.glob("*/*"))
    aside = [path for path in left if path.name.startswith(".")]
    whole = [path for path in left if path not in aside]
    for record in whole:
        assert {path.name for path in record.iterdir()} == {"notebook.ipynb", "report.html", "findings.json"}
        assert json.loads((record / "notebook.ipynb").read_text())["cells"]
        assert (record / "report.html").read_text().rstrip().endswith("</html>")
        deaths = (-own_signal, 128 + own_signal) if own_signal else ()
        assert_document("run", json.loads((record / "findings.json").read_text()), status, deaths)
    assert len(whole) == 1 or (own_signal and not whole), left
    hidden = [*aside, *out.glob(".aside*")]
    if own_signal != signal.SIGKILL:
        assert hidden == []
    assert [it.folder for it in records(out)] == whole
    assert ".partial" not in write_overview(out).read_text()
    old = time.time() - 2 * 86400
    for path in hidden:
        os.utime(path, (old, old))
    assert prune(out, 86400, datetime.datetime.now(datetime.UTC)) == 0
    assert [path for path in out.rglob(".*") if path.name != ".incidents.lock"] == []
    assert [it.folder for it in records(out)] == whole


@pytest.fixture(scope="module")
def workshops(tmp_path_factory):
    with temporary_sandbox() as one, temporary_sandbox() as other:
        with ThreadPoolExecutor(2) as pool:
            folders = [tmp_path_factory.mktemp("workshop") for _ in range(2)]
            opened = list(pool.map(Workshop, (one, other), folders))
        yield opened


@pytest.mark.parametrize(("command", "fault"), plan())
def test_a_run_survives_when(command, fault, workshops):
    """Each moment is tried on a server of its own; a fault that came too late is repeated, earlier."""

    def strike_all(number):
        for moment in plan()[command, fault][number::2]:
            try:
                assert any(workshops[number].endure(command, fault, moment * share) for share in (1, 0.7, 0.4, 0.1, 0))
            except Exception as error:
                error.add_note(f"seed {SEED}: {fault} at {moment:.3f} of {command}")
                raise

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(strike_all, range(2)))


def test_at_least_a_hundred_faults_are_tried():
    numbers = {command: sum(len(it) for (name, _), it in plan().items() if name == command) for command in COMMANDS}
    assert sum(numbers.values()) >= 100
    assert numbers["run"] >= 12
