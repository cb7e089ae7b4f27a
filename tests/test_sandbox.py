import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pgrunbooks.errors import SandboxError
from pgrunbooks.sandbox import server_programs, temporary_sandbox

SCRIPT = """
import sys, time
from pgrunbooks.sandbox import temporary_sandbox
with temporary_sandbox(sample=False) as sandbox:
    print(sandbox.directory, sandbox.socket, (sandbox.data / "postmaster.pid").read_text().split()[0], flush=True)
    time.sleep(600)
"""


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_left_behind_after_a_kill():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    with process:
        directory, socket, postmaster = process.stdout.readline().split()
        assert Path(directory).exists()
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path(directory).exists() and not Path(socket).exists())
    wait_for(lambda: not Path(f"/proc/{postmaster}").exists())


def test_nothing_is_left_behind_after_a_kill_while_the_folder_is_made():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user has to get in
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, "TMPDIR": name})
        with process:
            wait_for(lambda: list(folder.glob("pgrunbooks-sandbox-*/pg18/PG_VERSION")))
            process.send_signal(signal.SIGKILL)
        wait_for(lambda: not list(folder.iterdir()))


def test_several_run_side_by_side(newest, oldest):
    with newest.connect() as one, oldest.connect() as other:
        assert [it.info.server_version // 10000 for it in (one, other)] == [18, 15]


def test_the_server_is_what_the_design_promises(server):
    with server.connect() as connection:
        row = connection.execute(
            "select current_setting('data_checksums'), current_setting('log_destination'),"
            " current_setting('shared_preload_libraries'), current_setting('listen_addresses')"
        ).fetchone()
    assert row == ("on", "jsonlog", "pg_stat_statements", "")


def test_nobody_else_reaches_the_socket(server):
    assert server.socket.stat().st_mode & 0o077 == 0


def test_a_stopped_sandbox_starts_again_with_its_data():
    with temporary_sandbox(sample=False) as sandbox:
        with sandbox.connect("postgres") as connection:
            connection.execute("create table kept (a int)")
        sandbox.stop()
        assert not sandbox.running()
        sandbox.start(sample=False)
        with sandbox.connect("postgres") as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)


def test_a_folder_without_a_server_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PGRUNBOOKS_PG_BIN", str(tmp_path))
    server_programs.cache_clear()
    try:
        with pytest.raises(SandboxError, match="holds no initdb"):
            server_programs()
    finally:
        server_programs.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to run the server as")
def test_root_runs_the_server_as_somebody_else(newest):
    postmaster = (newest.data / "postmaster.pid").read_text().split()[0]
    assert Path(f"/proc/{postmaster}").stat().st_uid != 0
