"""The schedule in each scheduler's own hands: a cron daemon, systemd's own verifier, the schema of Kubernetes."""

import ast
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml
from cronsim import CronSim

from pgrunbooks import schedule
from pgrunbooks.errors import ConfigurationError

COMMAND = [sys.executable, "-P", "-m", "pgrunbooks"]
WEEKLY = {"runbook": "growth_report", "targets": ["prod"], "cron": "0 6 * * 1"}
SECRET = "s3cret"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a writer of the targets file in force, with these entries as its schedule."""
    monkeypatch.chdir(tmp_path)

    def write(*entries, dsn="", **targets):
        content = {"targets": {"prod": {"dsn": dsn}, **targets}, "schedule": list(entries)}
        (tmp_path / "targets.yml").write_text(json.dumps(content))

    return write


def printed(name, folder):
    return schedule.FORMATS[name](schedule.lines(), schedule.here(folder / "records"))


def pgrunbooks(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90, check=False)


def records(folder):
    return [path.name for path in folder.glob("records/*/*") if not path.name.startswith(".")]


# ---- cron --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cron_daemon(crontab, folder):
    """Run Debian's cron with this crontab as the only one it sees; the rest of the machine's stay as they are."""
    cron = shutil.which("cron", path=f"{os.environ['PATH']}:/usr/sbin")
    if not cron:
        pytest.fail("no cron daemon: apt-get install cron")
    tables, empty = folder / "crontabs", folder / "empty"
    tables.mkdir()
    empty.mkdir()
    (folder / "crontab").write_text("")
    (tables / "root").write_text(crontab)
    (tables / "root").chmod(0o600)
    places = {"crontabs": "/var/spool/cron/crontabs", "crontab": "/etc/crontab", "empty": "/etc/cron.d"}
    mounts = [f"mount --bind '{folder / name}' {place}" for name, place in places.items()]
    script = " && ".join([*mounts, "mount -t tmpfs tmpfs /run", f"exec {cron} -f -L 15"])
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script]) as daemon:
        try:
            yield daemon
        finally:
            daemon.terminate()


@pytest.mark.skipif(os.geteuid() != 0, reason="a cron daemon is root's")
@pytest.mark.timeout(200)
def test_a_cron_daemon_runs_the_printed_line(write, tmp_path, newest, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "a history"))
    odd = "100% o'clock"
    write(
        {"runbook": "troubleshooting", "targets": ["prod", odd], "cron": "* * * * *"},
        dsn=newest.url().replace("//postgres@", "//${WATCHER}@"),
        **{odd: {"dsn": newest.url()}},
    )
    (tmp_path / "targets.env").write_text("WATCHER='postgres'\n")
    crontab = printed("cron", tmp_path)
    if "PYTHONPATH" in os.environ:
        crontab = f"PYTHONPATH={os.environ['PYTHONPATH']}\n{crontab}"
    deadline = time.monotonic() + 150
    with cron_daemon(crontab, tmp_path) as daemon:
        while len(list((tmp_path / "records").glob("*/[!.]*/report.html"))) < 2:
            assert time.monotonic() < deadline, "no record in two minutes"
            assert daemon.poll() is None
            time.sleep(0.5)
    found = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*/[!.]*/findings.json")]
    assert {(it["target"], it["runbook"], it["status"]) for it in found} == {
        ("prod", "troubleshooting", "ok"),
        (odd, "troubleshooting", "ok"),
    }


def test_a_line_that_notifies_keeps_its_verdict_to_itself(write, tmp_path):
    write(WEEKLY, {**WEEKLY, "runbook": "health_check", "notify": ["json://localhost"]})
    *_, verdict, _, _, quiet = printed("cron", tmp_path).splitlines()
    assert verdict.startswith("0 6 * * 1 ")
    assert verdict.endswith("--scheduled")
    assert quiet.endswith("--scheduled >/dev/null")


# ---- systemd -----------------------------------------------------------------------------------------------------


def units(text, folder):
    """Write the units as the printed text itself says, but into a folder of the test's."""
    script = next(line for line in text.splitlines() if "awk" in line).split("|", 1)[1]
    assert "/etc/systemd/system/" in text
    folder.mkdir()
    script = script.replace(".etc.systemd.system.", ".units.")
    text = text.replace("/etc/systemd/system/", "/units/")
    script = script.replace("{file = $2}", f'{{file = "{folder}" substr($2, 7)}}')
    subprocess.run(["bash", "-c", script], input=text, text=True, check=True)
    return sorted(folder.iterdir())


def test_systemd_finds_no_fault_in_the_units(write, tmp_path):
    odd = """50% "o'clock" $HOME \\"""
    write(
        {**WEEKLY, "targets": ["prod", odd], "cron": "*/20 6-8 1,15 jan-mar mon"},
        dsn="password=${PW}", **{odd: {"dsn": ""}},
    )  # fmt: skip
    files = units(printed("systemd", tmp_path), tmp_path / "units")
    assert len(files) == 4
    command = ["systemd-analyze", "verify", "--man=no", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sum("EnvironmentFile=" in path.read_text() for path in files) == 1
    assert all("Persistent=true" in path.read_text() for path in files if path.suffix == ".timer")


def test_systemd_refuses_a_unit_that_is_wrong(write, tmp_path):
    write(WEEKLY)
    service, timer = units(printed("systemd", tmp_path), tmp_path / "units")
    service.write_text(service.read_text().replace(sys.executable, "/no/such/python"))
    timer.write_text(timer.read_text().replace("OnCalendar=Mon", "OnCalendar=Moonday"))
    command = ["systemd-analyze", "verify", "--man=no", str(service), str(timer)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "/no/such/python" in result.stderr
    assert "Moonday" in result.stderr


@pytest.mark.parametrize(
    "expression",
    [
        "0 6 * * 1", "*/5 * * * *", "17 4-20/4 * * *", "0 0 1 * *", "30 2 1,15 * *", "0 12 * jan-mar,dec *", "5 0 * * sun",
        "0 9 * * mon-fri", "0 9 * * 5-7", "0 0 13 * 5", "*/20 6-8 1,15 2 tue,thu", "0 0 29 2 *", "0 0 */10 * *",
    ],
)  # fmt: skip
def test_a_calendar_event_comes_when_cron_would_come(expression):
    begin = datetime.datetime(2026, 1, 30, 7, 3)
    sim = CronSim(expression, begin)
    wanted = [next(sim) for _ in range(20)]
    found = set()
    for event in schedule.on_calendar(expression):
        command = ["systemd-analyze", "calendar", "--iterations=20", f"--base-time={begin}", event]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "TZ": "UTC"}
        )
        lines = [line.split(": ")[1] for line in answer.stdout.splitlines() if "Next elapse" in line or "Iter." in line]
        found |= {datetime.datetime.strptime(line, "%a %Y-%m-%d %H:%M:%S UTC") for line in lines}
    assert sorted(found)[:20] == wanted


# ---- Kubernetes and Airflow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_the_manifests_follow_the_schema_of_kubernetes(version, write, tmp_path):
    write({**WEEKLY, "cron": "0 6 * * 5-7", "notify": ["slack://${TOKEN}"]}, dsn="password=${PW}")
    claim, job = yaml.safe_load_all(printed("kubernetes", tmp_path))
    for document in (claim, job):
        kubernetes_validate.validate(document, version, strict=True)
    assert job["spec"]["schedule"] == "0 6 * * 0,5,6"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    secrets = [it["valueFrom"]["secretKeyRef"] for it in pod["containers"][0]["env"] if "valueFrom" in it]
    assert secrets == [{"name": "pgrunbooks", "key": "PW"}, {"name": "pgrunbooks", "key": "TOKEN"}]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_schema_refuses_a_manifest_that_is_wrong(write, tmp_path):
    write(WEEKLY)
    *_, job = yaml.safe_load_all(printed("kubernetes", tmp_path))
    del job["spec"]["schedule"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_a_container_s_arguments_are_those_of_the_command_line(write, tmp_path, newest):
    write({**WEEKLY, "runbook": "troubleshooting"}, dsn=newest.url())
    *_, job = yaml.safe_load_all(printed("kubernetes", tmp_path))
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    places = {"/etc/pgrunbooks/targets.yml": "targets.yml", "/var/lib/pgrunbooks/records": "records"}
    result = pgrunbooks(*[places.get(word, word) for word in container["args"]])
    assert (container["command"], result.returncode) == (["pgrunbooks"], 0), result.stderr
    assert len(records(tmp_path)) == 1


def test_the_dags_are_python_and_their_command_runs(write, tmp_path, newest):
    write({**WEEKLY, "runbook": "troubleshooting", "targets": ["prod", "sandbox"]}, dsn=newest.url())
    tree = ast.parse(printed("airflow", tmp_path))
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert imported == called == {"BashOperator", "DAG"}
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    assert [it.value.value for it in keywords if it.arg == "schedule"] == ["0 6 * * 1"] * 2
    command = next(it.value.value for it in keywords if it.arg == "bash_command")
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr
    assert len(records(tmp_path)) == 1


# ---- every format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", schedule.FORMATS)
def test_variables_are_named_and_their_values_are_not(name, write, tmp_path, monkeypatch):
    for variable in ("PW", "POOL", "TOKEN"):
        monkeypatch.setenv(variable, SECRET)
    target = {"dsn": "password=${PW}", "pooler": "password=${POOL}"}
    write({**WEEKLY, "targets": ["shop"], "notify": [f"json://u:{SECRET}@h", "slack://${TOKEN}"]}, shop=target)
    text = printed(name, tmp_path)
    assert all(variable in text for variable in ("PW", "POOL", "TOKEN"))
    assert SECRET not in text
    assert "slack" not in text


def test_the_command_prints_each_format(write, tmp_path):
    write(WEEKLY)
    assert pgrunbooks("schedule").stdout == printed("cron", tmp_path)
    for name in schedule.FORMATS:
        result = pgrunbooks("schedule", "--format", name)
        assert (result.returncode, result.stderr, result.stdout) == (0, "", printed(name, tmp_path))


def test_names_are_labels_and_differ_where_targets_do(write):
    write(
        {**WEEKLY, "targets": ["a b", "a-b", "x" * 80]},
        **{"a b": {"dsn": ""}, "a-b": {"dsn": ""}, "x" * 80: {"dsn": ""}},
    )
    names = [line.name for line in schedule.lines()]
    assert len(set(names)) == 3
    assert all(len(name) <= 52 and name.replace("-", "").isalnum() and name == name.lower() for name in names)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{**WEEKLY, "runbook": "no_such"}], "schedule.0.runbook: unknown runbook 'no_such'"),
        ([WEEKLY, {**WEEKLY, "targets": ["gone"]}], "schedule.1.targets: unknown target 'gone'"),
        ([WEEKLY, {**WEEKLY, "cron": "5 5 * * *"}], "schedule.1.targets: growth_report on prod is scheduled twice"),
        ([{**WEEKLY, "cron": "0 25 * * *"}], "schedule.0.cron: '0 25 * * *': Bad hour"),
        ([], "schedule: is empty"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_one_line_and_64(entries, words, write, tmp_path):
    write(*entries)
    result = pgrunbooks("schedule")
    assert (result.returncode, result.stdout) == (64, "")
    assert len(result.stderr.splitlines()) == 1
    assert f"{tmp_path / 'targets.yml'}: {words}" in result.stderr


# ---- one run at a time -------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from pgrunbooks import schedule
with schedule.alone(Path("records"), schedule.find("troubleshooting", "prod")) as since:
    print(since, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def run_under_way():
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"None\n"
        yield process
        process.stdin.close()


def test_a_second_scheduled_run_says_so_and_ends_cleanly(write, tmp_path, newest):
    write(
        {**WEEKLY, "runbook": "troubleshooting", "targets": ["prod", "other"]},
        dsn=newest.url(),
        other={"dsn": newest.url()},
    )
    run = ["run", "troubleshooting", "--no-html", "--target"]
    with run_under_way():
        second = pgrunbooks(*run, "prod", "--scheduled")
        assert records(tmp_path) == []
        by_hand = pgrunbooks(*run, "prod")
        elsewhere = pgrunbooks(*run, "other", "--scheduled")
    assert (second.returncode, second.stdout) == (0, "")
    assert f"troubleshooting on prod is under way since {datetime.datetime.now(datetime.UTC):%Y-%m-%d}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert (by_hand.returncode, elsewhere.returncode) == (0, 0)
    assert len(records(tmp_path)) == 2


def test_a_run_that_was_killed_leaves_no_lock_behind(write, tmp_path, newest):
    write({**WEEKLY, "runbook": "troubleshooting"}, dsn=newest.url())
    with run_under_way() as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    with schedule.alone(tmp_path / "records", schedule.find("troubleshooting", "prod")) as since:
        assert since is None


def test_a_run_that_the_schedule_does_not_have_is_refused(write):
    write(WEEKLY)
    with pytest.raises(ConfigurationError, match=r"targets\.yml: schedule: has no health_check on prod"):
        schedule.find("health_check", "prod")
