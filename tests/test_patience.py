"""What a person at a terminal sees of a command that takes its time; elsewhere nothing is said."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from conftest import silent_host


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return a command that waits four seconds for a server that never says a word."""
    monkeypatch.chdir(tmp_path)
    with silent_host() as port:
        dsn = f"host=127.0.0.1 port={port} user=u dbname=d connect_timeout=4"
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"far": {"dsn": dsn}}}))
        yield [sys.executable, "-m", "pgrunbooks", "snapshot", "--target", "far"]


def test_a_terminal_tells_what_is_under_way_and_since_when_and_is_clean_in_the_end(command):
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 1000)
            except OSError:  # that is how a terminal says that nobody writes to it any more
                break
    os.close(ours)
    assert process.returncode == 3
    silence, *told, last = seen.decode().split("\r\x1b[K")
    assert (silence, bool(told)) == ("", True)
    assert all(re.fullmatch(r"measuring far \.\.\. [2-9] s", line) for line in told)
    assert last.startswith("pgrunbooks: cannot connect to far: ")


def test_a_file_or_pipe_gets_the_outcome_alone(command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert re.fullmatch(r"pgrunbooks: cannot connect to far: .*\n", result.stderr)
