import subprocess
import sys

import pytest

from pgrunbooks import practice
from pgrunbooks.errors import ConfigurationError, SandboxError
from pgrunbooks.sandbox import default_sandbox


@pytest.fixture
def drill():
    """Return a drill that runs on the default sandbox of the tests; it is healed afterwards."""
    default_sandbox().start(keep=True)
    started = practice.start("ddl-lock-queue")
    yield started
    practice.stop()


def pgrunbooks(*arguments):
    return subprocess.run([sys.executable, "-m", "pgrunbooks", *arguments], capture_output=True, text=True, check=False)


def test_a_drill_is_found_revealed_and_healed(drill):
    sick = pgrunbooks("check", "locks", "--target", "sandbox", "--json")
    assert (sick.returncode, drill.name in sick.stdout) == (2, True)
    assert pgrunbooks("drill", "reveal").stdout == f"ddl-lock-queue: the pid {drill.name}\n"
    assert pgrunbooks("drill", "stop").stdout == "ddl-lock-queue is healed\n"
    assert pgrunbooks("check", "locks", "--target", "sandbox").returncode == 0
    assert pgrunbooks("drill", "reveal").returncode == 64


def test_one_drill_runs_at_a_time(drill):
    with pytest.raises(SandboxError, match="a drill runs already"):
        practice.start("blocking-lock")


def test_an_unknown_drill_is_refused():
    with pytest.raises(ConfigurationError, match="unknown drill 'x'"):
        practice.start("x")


def test_every_drill_tells_a_symptom_and_not_the_cause():
    lines = pgrunbooks("drill", "list").stdout.splitlines()
    assert len(lines) >= 19
    assert all(len(line) > 60 for line in lines)
