"""Every command of the README runs, and its tables are those of the code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pgrunbooks import schedule
from pgrunbooks.record import runbooks
from pgrunbooks.refresh import checks_page
from pgrunbooks.targets import load_target

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
MAKE = [command for command in COMMANDS if command.startswith("make ")]


def test_the_table_of_runbooks_is_that_of_the_folder():
    table = re.search(r"## The runbooks\n\n(.*?)\n\n", README, re.DOTALL)[1].splitlines()[2:]
    assert table == [f"| `{it.name}` | {it.question} |" for it in runbooks().values()]


def test_the_page_of_checks_is_that_of_the_code():
    assert (ROOT / "docs" / "checks.md").read_text() == checks_page(), "run: make refresh"


def test_it_is_short():
    assert len(README.splitlines()) <= 200


def test_the_example_of_a_targets_file_is_valid(tmp_path, monkeypatch):
    (tmp_path / "targets.yml").write_text(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPASSWORD", "x")
    assert load_target("prod").limits("idle-in-transaction")["warning"] == 600
    assert [line.title for line in schedule.lines()] == ["growth_report on prod"]


def test_every_command_runs_in_the_order_of_the_page(tmp_path, newest):
    weekly = {"runbook": "growth_report", "targets": ["prod"], "cron": "0 6 * * 1"}
    content = {"targets": {"prod": {"dsn": newest.url()}}, "schedule": [weekly]}
    (tmp_path / "targets.yml").write_text(json.dumps(content))
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = [command for command in COMMANDS if command not in MAKE]
    assert len(commands) > 10
    for command in commands:
        result = subprocess.run(
            shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False, env=environment
        )
        expected = 2 if command == "pgrunbooks check --target sandbox" else 0  # the drill is critical
        expected = 1 if "doctor" in command else expected  # a superuser is more than pgrunbooks should be
        assert result.returncode == expected, (command, result.stdout, result.stderr)


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


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_environment_file_is_in_step_with_the_project():
    import tomllib

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["lab"], f"python{project['requires-python']}"}
    conda = [it for it in environment["dependencies"] if isinstance(it, str) and it != "pip"]
    assert set(conda) <= wanted
    assert {"pip": ["-e .[lab]"]} in environment["dependencies"]
