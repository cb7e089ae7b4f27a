"""What is shipped: the same runbooks from a checkout, from a wheel, and from a workspace of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.record import runbooks, shipped
from pgrunbooks.targets import load_history, load_schedule, load_target
from pgrunbooks.workspace import make_workspace

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(
    path.relative_to(ROOT) for folder in ("runbooks", "notebooks") for path in (ROOT / folder).glob("*.ipynb")
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
        "import json, pgrunbooks.record as r; print(json.dumps([str(r.shipped('runbooks')), r.__file__,"
        " sorted(f'{f}/{p.name}' for f in ('runbooks', 'notebooks') for p in r.shipped(f).glob('*.ipynb'))]))"
    )
    output = subprocess.run([installed, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    folder, module, names = json.loads(output)
    assert not Path(module).is_relative_to(ROOT)
    assert not Path(folder).is_relative_to(ROOT)
    assert names == sorted(map(str, SHIPPED))
    assert shipped("runbooks") == ROOT / "runbooks"


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
    assert sorted(written) == sorted([Path("targets.yml"), *SHIPPED])
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
    assert Path("targets.yml") not in written
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
