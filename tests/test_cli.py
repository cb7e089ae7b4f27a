"""What a shell or a scheduler sees: one line, a record, the exit status."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import click
import jsonschema
import pytest

from conftest import silent_host
from pgrunbooks.cli import main
from pgrunbooks.drills import drills
from pgrunbooks.record import findings_schema
from pgrunbooks.sandbox import temporary_sandbox

DRILL = drills()["ddl-lock-queue"]


@pytest.fixture
def workspace(tmp_path, server, monkeypatch):
    """Return a writer of targets.yml in a folder of its own, with the server under test as 'prod'."""
    monkeypatch.chdir(tmp_path)

    def write(**targets):
        targets = {
            "prod": {"dsn": server.url(), "thresholds": {k: dict(v) for k, v in DRILL.thresholds.items()}},
            **targets,
        }
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": targets}))

    write()
    return write


def pgrunbooks(*arguments, timeout=90):
    return subprocess.run(
        [sys.executable, "-m", "pgrunbooks", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def records(folder):
    return sorted(path for path in folder.glob("records/*/*") if not path.name.startswith("."))


def assert_one_line(error, *words):
    assert len(error.strip().splitlines()) == 1, error
    assert "Traceback" not in error
    for word in words:
        assert word in error


def assert_whole(record, status):
    assert {path.name for path in record.iterdir()} == {"notebook.ipynb", "report.html", "findings.json"}
    document = json.loads((record / "findings.json").read_text())
    jsonschema.validate(document, findings_schema())
    assert document["status"] == status
    return document


def test_a_healthy_database_exits_0(workspace):
    result = pgrunbooks("check", "--target", "prod")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("OK  prod")


def test_an_incident_exits_2_in_terminal_and_record_alike(workspace, server, tmp_path):
    with DRILL.fault(server):
        check = pgrunbooks("check", "--target", "prod", "--json")
        run = pgrunbooks("run", "troubleshooting", "--target", "prod")
        lenient = pgrunbooks("run", "troubleshooting", "--target", "prod", "--exit-zero", "--no-html")
    assert (check.returncode, run.returncode, lenient.returncode) == (2, 2, 0)
    first, second = records(tmp_path)
    document = assert_whole(first, "critical")
    live = [it["id"] for it in json.loads(check.stdout)["findings"]]
    assert [it["id"] for it in document["findings"]] == live
    assert document["findings"][0]["code"] == "idle-in-transaction"
    assert {path.name for path in second.iterdir()} == {"notebook.ipynb", "findings.json"}
    assert str(first.relative_to(tmp_path) / "report.html") in run.stdout
    assert document["parameters"]["target"] == "prod"
    page = (tmp_path / "records" / "index.html").read_text()
    assert page.count("report.html") >= 1


def test_the_report_is_one_file_that_asks_nobody(workspace, server, tmp_path):
    with DRILL.fault(server):
        pgrunbooks("run", "troubleshooting", "--target", "prod")
    text = (records(tmp_path)[0] / "report.html").read_text()
    assert len(text) < 500_000
    assert "<script" not in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//(?!www\.postgresql\.org)""", text)
    assert "default-src 'none'" in text


def test_the_runner_gives_a_parameter_the_type_of_its_default(workspace, tmp_path):
    result = pgrunbooks("run", "troubleshooting", "--target", "prod", "-p", "show_literals", "true", "--no-html")
    assert result.returncode == 0
    document = json.loads((records(tmp_path)[0] / "findings.json").read_text())
    assert document["parameters"] == {"target": "prod", "database": "", "sample_s": 0.5, "show_literals": True}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "troubleshooting", "--target", "prod", "-p", "no_such", "1"], "unknown parameter 'no_such'"),
        (["run", "troubleshooting", "--target", "prod", "-p", "show_literals", "maybe"], "parameter show_literals"),
        (["run", "troubleshooting", "--target", "prod", "-p", "sample_s", "100"], "sample_s: needs seconds"),
        (["run", "lock_analysis", "--target", "prod", "-p", "pid", "inf"], "parameter pid: needs a value like 0"),
        (["check", "--target", "prod", "--watch", "nan"], "--watch: needs seconds"),
        (
            ["run", "lock_analysis", "--target", "prod", "--out", "/dev/null/x"],
            "--out: /dev/null/x/prod: no record can",
        ),
        (["run", "no_such", "--target", "prod"], "unknown runbook 'no_such'"),
        (["run", "troubleshooting", "--target", "nowhere"], "unknown target 'nowhere'"),
        (["run", "troubleshooting"], "Missing option '--target'"),
        (["check", "nonsense", "--target", "prod"], "unknown area 'nonsense'"),
        (["check", "--target", "broken"], "targets.broken.dsn"),
        (["check", "--target", "prod", "--colour"], "No such option"),
        (["no-such-command"], "No such command"),
        (["--targets", "missing.yml", "check", "--target", "prod"], "no such targets file"),
    ],
)
def test_wrong_usage_exits_64_in_one_line_and_leaves_no_record(arguments, words, workspace, tmp_path, newest):
    workspace(broken={"dsn": "postgresql://u:s3cret@[h/d"})
    result = pgrunbooks(*arguments)
    assert result.returncode == 64
    assert_one_line(result.stderr, words)
    assert "s3cret" not in result.stderr
    assert records(tmp_path) == []


def test_a_silent_host_exits_3_with_a_record_that_says_why(workspace, tmp_path):
    with silent_host() as port:
        workspace(far={"dsn": f"host=127.0.0.1 port={port} connect_timeout=2 user=u password=s3cret dbname=d"})
        check = pgrunbooks("check", "--target", "far", "--json")
        run = pgrunbooks("run", "troubleshooting", "--target", "far")
    assert (check.returncode, run.returncode) == (3, 3)
    assert_one_line(check.stderr, "cannot connect to far", "timeout")
    assert_one_line(run.stderr, "cannot connect to far", "timeout", "'pgrunbooks doctor --target far' looks closer")
    printed = json.loads(check.stdout)
    jsonschema.validate(printed, findings_schema())
    (record,) = records(tmp_path)
    assert assert_whole(record, "unknown")["reason"] == printed["reason"]
    for path in record.iterdir():
        assert "s3cret" not in path.read_text()


def test_a_wrong_password_exits_3_without_it(workspace, tmp_path, free_port):
    with temporary_sandbox({"listen_addresses": "127.0.0.1", "port": str(free_port)}, sample=False):
        workspace(locked={"dsn": f"postgresql://postgres:s3cret@127.0.0.1:{free_port}/postgres"})
        result = pgrunbooks("run", "troubleshooting", "--target", "locked")
    assert result.returncode == 3
    assert_one_line(result.stderr, "password authentication failed")
    (record,) = records(tmp_path)
    for path in record.iterdir():
        assert "s3cret" not in path.read_text()


def test_a_server_that_stops_half_way_leaves_a_whole_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with temporary_sandbox() as doomed:
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"doomed": {"dsn": doomed.url()}}}))

        def stop():
            with doomed.connect() as watcher:
                ours = "select count(*) from pg_stat_activity where application_name = 'pgrunbooks'"
                while not watcher.execute(ours).fetchone()[0]:
                    time.sleep(0.01)
            doomed.stop()

        stopper = threading.Thread(target=stop)
        stopper.start()
        result = pgrunbooks("run", "troubleshooting", "--target", "doomed")
        stopper.join()
    assert result.returncode == 3, result.stdout
    assert_one_line(result.stderr)
    (record,) = records(tmp_path)
    assert assert_whole(record, "unknown")["reason"]


def test_runs_at_the_same_moment_in_a_folder_that_takes_no_file_do_not_meet(workspace, tmp_path):
    command = [sys.executable, "-m", "pgrunbooks", "--targets", str(tmp_path / "targets.yml"), "run", "troubleshooting"]
    command += ["--target", "prod", "--out", str(tmp_path / "records"), "--no-html"]
    runs = [subprocess.Popen(command, cwd="/proc", stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [(run.communicate(timeout=90)[1], run.returncode) for run in runs]
    assert told == [("", 0)] * 3
    assert len(records(tmp_path)) == 3


def test_plain_papermill_works_and_fails_where_the_database_cannot_be_judged(workspace, tmp_path, newest):
    workspace(gone={"dsn": "host=127.0.0.1 port=1 user=u dbname=d"})
    runbook = str(next(iter_runbook()))
    for target, status in (("prod", 0), ("gone", 1)):
        command = [sys.executable, "-m", "papermill", runbook, f"{target}.ipynb", "-p", "target", target]
        result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert result.returncode == status, result.stderr
        assert '"application/vnd.pgrunbooks.findings+json"' in (tmp_path / f"{target}.ipynb").read_text()


def iter_runbook():
    from pgrunbooks.record import runbooks

    return (it.path for it in runbooks().values() if it.name == "troubleshooting")


def test_check_imports_neither_pandas_nor_matplotlib_nor_a_kernel(workspace):
    code = (
        "import sys; from pgrunbooks.cli import main\n"
        "try: main(['check', '--target', 'prod'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pandas', 'matplotlib', 'ipykernel', 'IPython', 'nbconvert', 'sqlalchemy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_watch_asks_again_and_ends_cleanly_with_the_last_status(workspace):
    command = [sys.executable, "-m", "pgrunbooks", "check", "locks", "--target", "prod", "--json", "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
    assert first["started_at"] < second["started_at"]
    assert (process.returncode, error) == (0, "")


def test_old_records_go_only_when_asked_to(workspace, tmp_path, newest):
    pgrunbooks("run", "troubleshooting", "--target", "prod", "--no-html")
    assert pgrunbooks("records", "--prune", "1d").returncode == 0
    assert len(records(tmp_path)) == 1
    assert pgrunbooks("records", "--prune", "1ms").stderr == "1 records removed\n"
    assert records(tmp_path) == []
    assert pgrunbooks("records", "--prune", "soon").returncode == 64


def test_the_lists_name_what_there_is():
    assert "troubleshooting" in pgrunbooks("list").stdout
    assert re.search(r"blocking-lock +locks .*warning=5s", pgrunbooks("list", "--checks").stdout)


def leaves(command, *path):
    """Yield each command that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, each in command.commands.items():
        yield from leaves(each, *path, name)


COMMANDS = dict(leaves(main))
TELLS_BY_ITSELF = {("drill", "list"), ("drill", "reveal"), ("drill", "stop"), ("demo",)}
TELLS_BY_ITSELF |= {("sandbox", name) for name in ("start", "stop", "reset", "url", "psql")}


def test_the_help_lists_every_command_in_a_sentence_that_is_not_cut():
    page = pgrunbooks("--help").stdout
    assert re.findall(r"^  (\w+) ", page.split("Commands:")[1], re.MULTILINE) == sorted({it[0] for it in COMMANDS})
    for path, command in COMMANDS.items():
        assert not command.get_short_help_str(66).endswith("..."), path


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_examples_that_can_be_typed(path):
    command = COMMANDS[path]
    text = command.get_help(click.Context(command, info_name=path[-1]))
    examples = re.findall(r"(?:Examples?:| {8}) +(pgrunbooks .*?)(?:  +#.*| \| .*)?$", text, re.MULTILINE)
    assert path in TELLS_BY_ITSELF or examples, text
    for example in examples:
        words = shlex.split(example)[1:]
        assert tuple(words[: len(path)]) == path
        command.make_context(path[-1], words[len(path) :])  # raises for what this command does not take


def test_the_reader_may_leave_early(workspace):
    command = f"{sys.executable} -m pgrunbooks list --checks | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert result.stderr == ""
