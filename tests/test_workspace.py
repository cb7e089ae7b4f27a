"""What is shipped: the same runbooks from a checkout, from a wheel, and from a workspace of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.record import runbooks
from pgrunbooks.targets import load_history, load_schedule, load_target
from pgrunbooks.workspace import make_workspace, new_check, new_runbook, shipped

ROOT = Path(__file__).parents[1]
OWN = [
    Path(".github", "workflows", "runbooks.yml"),
    Path("checks", "table_without_key.py"),
    Path("tests", "conftest.py"),
    Path("tests", "test_table_without_key.py"),
]
SHIPPED = sorted(
    path.relative_to(ROOT) for folder in ("runbooks", "notebooks") for path in (ROOT / folder).glob("[!.]*.*")
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the python of an environment that holds the wheel and, through a path file, what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, capture_output=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    dependencies = Path(next(path for path in sys.path if path.endswith("site-packages")))
    # A .pth file adds what pgrunbooks depends on; the editable install's own .pth files are not read from there.
    (Path(site) / "dependencies.pth").write_text(f"{dependencies}\n")
    return python


def run(python, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # data files, which no .pth file reaches
    command = [str(python), "-m", "pgrunbooks", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False, env=environment)


def test_a_checkout_and_a_wheel_ship_the_same_notebooks(installed, tmp_path):
    code = (
        "import json, pgrunbooks.workspace as r; print(json.dumps([str(r.shipped('runbooks')), r.__file__,"
        " sorted(f'{f}/{p.name}' for f in ('runbooks', 'notebooks') for p in r.shipped(f).glob('[!.]*.*'))]))"
    )
    output = subprocess.run([installed, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    folder, module, names = json.loads(output)
    assert not Path(module).is_relative_to(ROOT)
    assert not Path(folder).is_relative_to(ROOT)
    assert names == sorted(map(str, SHIPPED))
    assert shipped("runbooks") == ROOT / "runbooks"


def test_a_wheel_ships_what_jupyterlab_loads(installed, tmp_path):
    code = "import pgrunbooks.jupyterlab as it; print(it.__file__)"
    output = subprocess.run([installed, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    own = ROOT / "lib" / "pgrunbooks" / "jupyterlab"
    files = {path.relative_to(own) for path in own.rglob("*.*") if path.suffix != ".pyc"}
    assert len(files) > 5
    assert [path for path in files if not (Path(output.strip()).parent / path).exists()] == []


def test_an_installed_package_makes_a_workspace_and_runs_in_it(installed, tmp_path, newest):
    made = run(installed, "init", "mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    targets = tmp_path / "mine" / "targets.yml"
    targets.write_text(json.dumps({"targets": {"prod": {"dsn": newest.url()}}}))
    result = run(installed, "run", "troubleshooting", "--target", "prod", cwd=tmp_path / "mine")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "mine" / "records" / "prod").glob("*-troubleshooting/report.html"))) == 1


def test_a_workspace_holds_every_notebook_and_a_targets_file_that_is_valid(tmp_path, monkeypatch):
    written, kept = make_workspace(tmp_path / "mine")
    assert sorted(written) == sorted([Path("targets.yml"), *OWN, *SHIPPED])
    assert kept == []
    monkeypatch.chdir(tmp_path / "mine")
    assert load_target("sandbox").name == "sandbox"
    example = (tmp_path / "mine" / "targets.yml").read_text()
    uncommented = example.replace("targets: {}", "targets:\n  prod-replica: {dsn: ''}").replace("\n#  ", "\n  ")
    uncommented = uncommented.replace("schedule: []", "schedule:").replace("history: {}", "history:")
    (tmp_path / "mine" / "targets.yml").write_text(uncommented)
    assert load_target("prod").limits("long-running-query")["warning"] == 600
    assert load_schedule()[0].runbook == "growth_report"
    assert load_history().url == "s3://bucket/prefix"


def test_what_is_there_already_is_kept(tmp_path):
    (tmp_path / "targets.yml").write_text("targets: {mine: {dsn: ''}}")
    written, kept = make_workspace(tmp_path)
    assert kept == [Path("targets.yml")]
    assert not {Path("targets.yml"), Path("checks", "table_without_key.py")} & set(written)
    assert "mine" in (tmp_path / "targets.yml").read_text()


def test_a_workspace_s_own_runbook_wins_over_the_shipped_one(tmp_path, monkeypatch):
    make_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    changed = (
        (tmp_path / "runbooks" / "troubleshooting.ipynb").read_text().replace("What is wrong", "What on earth is wrong")
    )
    (tmp_path / "runbooks" / "troubleshooting.ipynb").write_text(changed)
    assert runbooks()["troubleshooting"].question.startswith("What on earth")


def test_a_notebook_that_is_no_runbook_is_named(tmp_path, monkeypatch):
    make_workspace(tmp_path)
    (tmp_path / "runbooks" / "mine.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"mine\.ipynb: is no runbook"):
        runbooks()


def pgrunbooks(*arguments, cwd):
    command = [sys.executable, "-m", "pgrunbooks", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


def test_the_tests_of_a_workspace_pass_with_a_check_and_a_runbook_of_one_s_own(tmp_path):
    """The example of init, a new check and a new runbook: each works before anybody has filled it in."""
    make_workspace(tmp_path)
    check = pgrunbooks("new", "check", "acme.slow-refund", cwd=tmp_path)
    runbook = pgrunbooks("new", "runbook", "slow_refunds", cwd=tmp_path)
    assert (check.returncode, runbook.returncode) == (0, 0), check.stderr + runbook.stderr
    assert check.stdout.splitlines() == [
        "wrote checks/slow_refund.py",
        "wrote tests/test_slow_refund.py",
        "",
        "Next: put your question into checks/slow_refund.py. It works already:",
        "  pgrunbooks check acme.slow-refund --target sandbox",
        "  pytest tests/test_slow_refund.py",
    ]
    assert (
        "  pgrunbooks run slow_refunds --target sandbox\n  pytest tests/test_slow_refunds_runbook.py" in runbook.stdout
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert (result.returncode, "3 passed" in result.stdout) == (0, True), result.stdout


def test_a_new_check_and_a_new_runbook_are_found_at_once(tmp_path):
    (tmp_path / "targets.yml").write_text("targets: {}\n")
    assert pgrunbooks("new", "check", "slow-refund", cwd=tmp_path).returncode == 0
    assert pgrunbooks("new", "runbook", "slow_refunds", cwd=tmp_path).returncode == 0
    assert "my.slow-refund " in pgrunbooks("list", "--checks", cwd=tmp_path).stdout
    assert "slow_refunds " in pgrunbooks("list", cwd=tmp_path).stdout
    for names in (["my"], ["my.slow-refund"], []):
        result = pgrunbooks("check", *names, "--target", "sandbox", "--json", cwd=tmp_path)
        outcomes = {it["code"]: it["outcome"] for it in json.loads(result.stdout)["checks"]}
        assert outcomes["my.slow-refund"] == "ok", names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "Slow_Refund"], "'Slow_Refund' cannot name a check: needs lower-case words joined by '-'"),
        (["check", "slow.refund.again"], "cannot name a check"),
        (["check", "../refund"], "cannot name a check"),
        (["check", "blocking-lock"], "'blocking-lock' is the name of a shipped check"),
        (["check", "my.blocking-lock"], "'my.blocking-lock' is the name of a shipped check"),
        (["check", "taken"], "taken.py exists already"),
        (["runbook", "slow-refunds"], "cannot name a runbook: needs lower-case words joined by '_'"),
        (["runbook", "troubleshooting"], "'troubleshooting' is the name of a shipped runbook"),
        (["runbook", "taken"], "taken.ipynb exists already"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_written(arguments, words, tmp_path):
    (tmp_path / "targets.yml").write_text("checks: checks\n")
    for name in ("checks/taken.py", "runbooks/taken.ipynb"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    result = pgrunbooks("new", *arguments, cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (64, 1)
    assert words in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", [new_check, new_runbook])
def test_without_a_targets_file_there_is_no_workspace_to_add_to(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no targets\.yml .*'pgrunbooks init DIR' makes one"):
        make("mine")


@pytest.mark.parametrize(
    "text",
    [
        "targets: {}\n",
        "# mine\ntargets:\n  prod: {dsn: ''}  # the shop",
        '{"targets": {"prod": {"dsn": ""}}}',
        "targets: {}\nchecks:\n",
    ],
)
def test_a_targets_file_keeps_what_it_says_when_it_is_told_of_the_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets.yml").write_text(text)
    if text.endswith("checks:\n"):
        with pytest.raises(ConfigurationError, match="add the key to it: checks: checks"):
            new_check("mine")
        assert (tmp_path / "targets.yml").read_text() == text
        return
    new_check("mine")
    changed = (tmp_path / "targets.yml").read_text()
    assert yaml.safe_load(changed) == {**yaml.safe_load(text), "checks": "checks"}
    assert ("# the shop" in changed) == ("# the shop" in text)


def test_the_workflow_is_one_that_github_reads(tmp_path):
    make_workspace(tmp_path)
    workflow = tmp_path / OWN[0]
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow)]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    workflow.write_text(workflow.read_text().replace("runs-on", "runs-off"))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
