"""What Tab offers: in a real bash, through the line that the README gives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
# What bash does when somebody presses Tab: it fills these variables and calls the function that was registered.
PRESS_TAB = """
{line}
press() {{
    COMP_LINE="$*"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    "$(complete -p pgrunbooks | sed -E 's/.*-F ([^ ]+) .*/\\1/')" pgrunbooks
    echo "${{COMPREPLY[*]}}"
}}
"""


@pytest.fixture
def press(tmp_path):
    """Return what types words in a bash that knows of completion, the last of them half, and presses Tab."""
    (tmp_path / "targets.yml").write_text("targets: {prod: {dsn: ''}, prod-replica: {dsn: ''}, spare: {dsn: ''}}")
    (tmp_path / "other.yml").write_text("targets: {elsewhere: {dsn: ''}}")
    (line,) = re.findall(r"`(eval .*bash_source pgrunbooks\)\")`", README)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def press(*typed):
        script = PRESS_TAB.format(line=line) + "\n".join(f"press pgrunbooks {words}" for words in typed)
        command = ["bash", "--norc", "-c", script]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")
        return [line.split() for line in result.stdout.splitlines()]

    return press


def test_the_names_of_what_there_is_are_offered(press):
    targets, runbooks, areas, codes, drills, commands = press(
        "check --target pr", "run lock", "check lo", "check blocking", "drill start ddl", "sn"
    )
    assert targets == ["prod", "prod-replica"]
    assert runbooks == ["lock_analysis"]
    assert areas == ["locks", "long-transaction", "long-running-query", "lock-table-exhaustion"]
    assert codes == ["blocking-lock"]
    assert drills == ["ddl-lock-queue"]
    assert commands == ["snapshot"]


def test_a_targets_file_that_is_named_counts_and_a_broken_one_is_silent(press, tmp_path):
    (tmp_path / "broken.yml").write_text("targets: [")
    named, broken = press("--targets other.yml check --target e", "--targets broken.yml check --target s")
    assert (named, broken) == (["elsewhere"], [])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_line_too(shell):
    environment = {**os.environ, "_PGRUNBOOKS_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-m", "pgrunbooks"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"_PGRUNBOOKS_COMPLETE={shell}_complete" in result.stdout
