import datetime
import json
import re

import pytest

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.targets import History, load_history, load_schedule, load_target, target_names, targets_file, variables


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a writer of the targets file in force."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "targets.yml").write_text(text)

    return write


def refused(name="prod"):
    with pytest.raises(ConfigurationError) as caught:
        load_target(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_contract_s_example_is_understood(write, monkeypatch):
    monkeypatch.setenv("PW", "s3cret")
    write("""
defaults: {statement_timeout: 20s}
targets:
  prod-replica: {dsn: host=replica}
  prod:
    dsn: postgresql://u:${PW}@h/db
    environment: production
    disk_bytes: 500GB
    memory_bytes: 32GB
    backup_max_age: 26h
    pooler: host=10.0.0.5 port=6432 dbname=pgbouncer
    thresholds:
      long-running-query: {warning: 10min, critical: 1h}
    owner: "team billing, #billing-oncall"
    standbys: [prod-replica]
    ignore:
      - {code: unused-index, object: "public.orders_legacy_*", until: 2027-01-31, why: "kept for the audit"}
    allow_actions: false
schedule:
  - {runbook: growth_report, targets: [prod], cron: "0 6 * * 1", notify: ["mailto://x"]}
""")
    target = load_target("prod")
    assert (target.statement_timeout, target.lock_timeout, target.disk_bytes) == (20, 0.5, 500 * 1024**3)
    assert target.limits("long-running-query") == {"warning": 600, "critical": 3600}
    assert target.limits("lock-table-exhaustion")["warning"] == 0.7
    assert target.dsn == "postgresql://u:s3cret@h/db"
    assert "s3cret" not in repr(target)
    (ignore,) = target.ignore
    assert ignore.silences("unused-index", "public.orders_legacy_7", datetime.date(2027, 1, 31))
    assert not ignore.silences("unused-index", "public.orders_legacy_7", datetime.date(2027, 2, 1))
    assert not ignore.silences("unused-index", "public.orders", datetime.date(2026, 1, 1))
    assert load_schedule()[0].runbook == "growth_report"
    assert target_names() == ["prod-replica", "prod", "sandbox"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("targets: {prod: {dsn: '', colour: red}}", "targets.prod.colour: unknown key"),
        ("targets: {prod: {}}", "targets.prod.dsn: Field required"),
        ("targets: {prod: 5}", "targets.prod: needs keys and values"),
        ("targets: {prod: {dsn: '', disk_bytes: big}}", "targets.prod.disk_bytes: needs a size such as 64MB"),
        ("targets: {prod: {dsn: '', lock_timeout: 10}}", "targets.prod.lock_timeout: needs a duration"),
        ("targets: {prod: {dsn: '', statement_timeout: 0}}", "targets.prod.statement_timeout: Input should be greater"),
        ("targets: {prod: {dsn: '', lock_timeout: 999999d}}", "targets.prod.lock_timeout: Input should be less"),
        ("targets: {prod: }", "targets.prod: needs keys and values"),
        ("targets: {1: {dsn: ''}}", "unknown target 'prod'"),
        ("targets: " + "[" * 3000, "cannot be read: RecursionError"),
        ("targets: {prod: {dsn: '', environment: live}}", "targets.prod.environment: Input should be 'development'"),
        ("targets: {prod: {dsn: '', standbys: [none]}}", "targets.prod.standbys: unknown target 'none'"),
        ("targets: {prod: {dsn: '${NO_SUCH_VARIABLE}'}}", "the environment variable NO_SUCH_VARIABLE is not set"),
        ("targets: {prod: {dsn: '', thresholds: {no-such: {}}}}", "targets.prod.thresholds: no-such: no check"),
        ("targets: {prod: {dsn: '', thresholds: {deadlocks: {x: 1}}}}", "deadlocks.x: unknown limit"),
        ("targets: {prod: {dsn: '', thresholds: {blocking-lock: {warning: 1}}}}", "blocking-lock.warning: needs a duration"),
        ("targets: {prod: {dsn: '', thresholds: {blocking-lock: {warning: 1h}}}}", "warning: lies beyond the critical"),
        ("targets: {prod: {dsn: '', thresholds: {disk-full-forecast: {warning: 1d}}}}", "warning: lies beyond the critical"),
        ("targets: {prod: {dsn: '', ignore: [{code: x, object: y, why: z}]}}", "ignore.0.code: no check has the code"),
        ("targets: {prod: {dsn: ''}, prod: {dsn: ''}}", "the key 'prod' stands twice"),
        ("target: {}", "target: unknown key; known: defaults, targets, schedule"),
        ("targets: [", "is not YAML"),
        ("", "needs the key 'targets'"),
        ("targets: {}", "unknown target 'prod'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_the_file_and_the_key(text, words, write):
    write(text)
    message = refused()
    assert "targets.yml" in message
    assert words in message


@pytest.mark.parametrize("name", ["../prod", ".prod", "a/b", ""])
def test_a_target_that_names_no_folder_is_refused(name, write):
    write(json.dumps({"targets": {name: {"dsn": ""}}}))
    with pytest.raises(ConfigurationError, match="cannot name a folder"):
        load_target(name)


@pytest.mark.parametrize("dsn", ["host=h pass word='s3cret'", "postgresql://u:s3cret@[h/db", "password=s3cret x"])
def test_a_dsn_that_cannot_be_parsed_is_not_echoed(dsn, write):
    write(f'targets: {{prod: {{dsn: "{dsn}"}}}}')
    message = refused()
    assert "targets.prod.dsn" in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:s3/cret@host/db",
        "postgresql://u:12/s3cret@host/db",
        "postgres://u:12/34/s3cret@host/db?sslmode=require",
        "postgresql://u:pa@s3cret@host/db",
        "postgresql://u:pa@ss/s3cret@host/db",
        "postgresql://u@host:s3cret/db",
        "host=h port=s3cret",
        "host=h port=5432,70000",
    ],
)
@pytest.mark.parametrize("key", ["dsn", "pooler"])
def test_a_password_that_is_not_percent_encoded_is_refused_and_not_echoed(dsn, key, write):
    other = "" if key == "dsn" else "dsn: host=h, "
    write(f'targets: {{prod: {{{other}{key}: "{dsn}"}}}}')
    message = refused()
    assert f"targets.prod.{key}: its host, port or database cannot be one" in message
    assert "%40" in message
    assert not {"s3", "cret", "34", "ss"} & set(re.findall(r"\w+", message))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///shop?host=/var/run/postgresql&password=a@b/c",
        "postgresql://u:12%2F34%40x@a:5432,b/my%40shop",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/shop",
        "host=@abstract port=5432 password='postgresql://a/b@c'",
        "host=a,b port=5432, dbname=my@shop",
    ],
)
def test_an_at_sign_where_it_may_stand_is_no_mistake(dsn, write):
    write(f'targets: {{prod: {{dsn: "{dsn}"}}}}')
    assert load_target("prod").dsn == dsn


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 6 * *", "needs minute, hour, day of month, month and day of week"),
        ("0 0 6 * * 1", "needs minute, hour"),
        ("@daily", "needs minute, hour"),
        ("0 6 L * *", "needs minute, hour"),
        ("0 6 * * 5#2", "needs minute, hour"),
        ("5/15 * * * *", "needs minute, hour"),
        ("0 6 * * $(reboot)", "needs minute, hour"),
        ("60 6 * * *", "Bad minute"),
        ("*/0 6 * * *", "Bad minute"),
        ("0 18-6 * * *", "Bad hour"),
        ("0 6 * foo *", "Bad month"),
        ("0 6 31 2 *", "Bad day-of-month"),
        ("0 6 */2 * 1", "schedulers do not agree"),
        ("0 6 1 * */2", "schedulers do not agree"),
    ],
)
def test_a_cron_expression_that_not_every_scheduler_takes_is_refused(cron, words, write):
    write(f'{{targets: {{}}, schedule: [{{runbook: x, targets: [sandbox], cron: "{cron}"}}]}}')
    with pytest.raises(ConfigurationError) as caught:
        load_schedule()
    assert "targets.yml: schedule.0.cron: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cron", ["0 6 * * 1", " */5  8-18/2 1,15 jan-mar mon,FRI ", "0 0 */10 * *", "0 0 29 2 *", "0 0 * * 7"]
)
def test_a_cron_expression_may_have_lists_ranges_steps_and_names(cron, write):
    write(f'{{targets: {{}}, schedule: [{{runbook: x, targets: [sandbox], cron: "{cron}"}}]}}')
    assert load_schedule()[0].cron == " ".join(cron.split())


def test_a_schedule_names_known_targets_and_its_urls_are_not_shown(write):
    entry = "{runbook: x, targets: [gone], cron: '0 6 * * 1', notify: ['json://s3cret@h']}"
    write(f"{{targets: {{}}, schedule: [{entry}]}}")
    with pytest.raises(ConfigurationError, match=r"schedule\.0\.targets: unknown target 'gone'"):
        load_schedule()
    write(f"{{targets: {{gone: {{dsn: ''}}}}, schedule: [{entry}]}}")
    assert "s3cret" not in repr(load_schedule())


def test_the_variables_of_a_scheduled_run_are_those_of_its_target_and_its_urls(write):
    write("""
defaults: {pooler: "password=${POOL}"}
targets: {prod: {dsn: "password=${PW} user=${ME}"}, other: {dsn: "password=${OTHER}"}}
schedule: [{runbook: x, targets: [prod], cron: "0 6 * * 1", notify: ["slack://${TOKEN}"]}]
""")
    assert variables(load_schedule()[0], "prod") == ["ME", "POOL", "PW", "TOKEN"]


def test_the_file_is_found_from_the_current_directory_upwards(write, tmp_path, monkeypatch):
    write("targets: {}")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert targets_file() == tmp_path / "targets.yml"


def test_the_environment_variable_names_another_file(write, tmp_path, monkeypatch):
    write("targets: {}")
    (tmp_path / "other.yml").write_text("targets: {prod: {dsn: ''}}")
    monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "other.yml"))
    assert load_target("prod").name == "prod"
    monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "missing.yml"))
    assert "missing.yml: no such targets file" in refused()


def test_the_sandbox_needs_no_file_and_may_have_thresholds(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_target("sandbox").dsn == ""
    write("targets: {sandbox: {thresholds: {blocking-lock: {warning: 1s}}}}")
    assert load_target("sandbox").limits("blocking-lock")["warning"] == 1


class TestTheHistory:
    def load(self, tmp_path, monkeypatch, text):
        (tmp_path / "targets.yml").write_text(f"targets: {{}}\nhistory: {text}\n")
        monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "targets.yml"))
        return load_history()

    def test_is_all_kept_in_the_users_folder_unless_said(self, tmp_path, monkeypatch):
        assert load_history() == self.load(tmp_path, monkeypatch, "{}") == History(url=None, keep=None)

    @pytest.mark.parametrize(
        ("url", "meant"), [("s3://team/a", "s3://team/a"), ("a", "{folder}/a"), ("/a", "/a"), ("~/a", "~/a")]
    )
    def test_is_beside_the_file_where_the_path_is_relative(self, tmp_path, monkeypatch, url, meant):
        assert self.load(tmp_path, monkeypatch, f"{{url: {url}}}").url == meant.format(folder=tmp_path)

    def test_is_kept_ever_more_sparsely(self, tmp_path, monkeypatch):
        keep = self.load(tmp_path, monkeypatch, "{keep: {hourly: 30d, daily: 400d}}").keep
        days = [keep.level(day * 86400) for day in (0, 29, 30, 399, 400, 99999)]
        assert days == ["hourly", "hourly", "daily", "daily", "weekly", "weekly"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{path: a}", "history.path: unknown key; known: url, keep"),
            ("{keep: {monthly: 1d}}", "history.keep.monthly: unknown key"),
            ("{keep: {hourly: 5}}", "history.keep.hourly: needs a duration"),
            ("{keep: {daily: 30d}}", "history.keep: needs hourly <= daily <= weekly"),
            ("[s3://a]", "history: needs a dict, got list"),
        ],
    )
    def test_that_is_wrong_is_one_line_with_the_key(self, tmp_path, monkeypatch, text, message):
        with pytest.raises(ConfigurationError) as caught:
            self.load(tmp_path, monkeypatch, text)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_that_is_wrong_is_told_whatever_is_asked_of_a_target(self, tmp_path, monkeypatch):
        with pytest.raises(ConfigurationError, match="unknown key"):
            self.load(tmp_path, monkeypatch, "{path: a}")
        with pytest.raises(ConfigurationError, match=r"history\.path: unknown key"):
            load_target("sandbox")
