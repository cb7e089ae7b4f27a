"""Every command of the README runs, and its tables are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from pages import ROOT, commands, expected_status, run, snippets, write_targets
from pgrunbooks import schedule
from pgrunbooks.record import runbooks
from pgrunbooks.targets import load_target

PAGE = ROOT / "README.md"
README = PAGE.read_text()
COMMANDS = commands(PAGE)
MAKE = [command for command in COMMANDS if command.startswith("make ")]


def test_the_table_of_runbooks_is_that_of_the_folder():
    table = re.search(r"## The runbooks\n\n(.*?)\n\n", README, re.DOTALL)[1].splitlines()[2:]
    assert table == [f"| `{it.name}` | {it.question} |" for it in runbooks().values()]


def test_it_is_short():
    assert len(README.splitlines()) <= 160


def test_the_example_of_a_targets_file_is_valid(tmp_path, monkeypatch):
    (tmp_path / "targets.yml").write_text(snippets(PAGE, "yaml")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPASSWORD", "x")
    assert load_target("prod").limits("idle-in-transaction")["warning"] == 600
    assert [line.title for line in schedule.lines()] == ["growth_report on prod"]


def test_every_command_runs_in_the_order_of_the_page(tmp_path, newest):
    write_targets(tmp_path, newest)
    lines = [command for command in COMMANDS if command not in MAKE]
    assert len(lines) > 8
    for line in lines:
        result = run(line, tmp_path)
        assert result.returncode == expected_status(line), (line, result.stdout, result.stderr)


def test_make_demo_ends_with_the_page_to_open(tmp_path):
    assert "$(BIN)/pgrunbooks demo" in (ROOT / "Makefile").read_text()
    command = [sys.executable, "-m", "pgrunbooks", "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.splitlines()[-1].split(":", 1)[1].strip())
    assert page == tmp_path / "records" / "index.html"
    assert "idle in a transaction" in page.read_text()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in MAKE:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command


def test_the_environment_file_is_in_step_with_the_project():
    import tomllib

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["lab"], f"python{project['requires-python']}"}
    conda = [it for it in environment["dependencies"] if isinstance(it, str) and it != "pip"]
    assert set(conda) <= wanted
    assert {"pip": ["-e .[lab]"]} in environment["dependencies"]
