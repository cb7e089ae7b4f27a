"""Checks of one's own: where they are found, how they are asked, and what is said of one that is wrong."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pgrunbooks.check import catalogue, registry, rules, shipped_checks
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.own_checks import own_checks
from pgrunbooks.reference import pages
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target, load_target
from pgrunbooks.verdict import ask, checks_for

EXAMPLE = (Path(__file__).parents[1] / "lib" / "pgrunbooks" / "templates" / "check.py").read_text()
CODE = "my.table-without-key"
PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
((GROUP, ENTRY),) = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])["project"][
    "entry-points"
].items()
VALUE = ENTRY["keys"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a writer of files in the folder of checks that the targets file in force names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "targets.yml").write_text("checks: mine\n")

    def place(text=EXAMPLE, name="keys.py"):
        (tmp_path / "mine" / name).write_text(text)

    return place


def diagnose(sandbox, *names, **settings):
    with open_session(Target(name="tested", dsn=sandbox.url(), **settings)) as session:
        return ask(session, checks_for(*names), runbook="check")


def test_one_of_the_folder_is_asked_as_the_shipped_are(place, server):
    place()
    assert list(registry()) == [*shipped_checks(), CODE]
    with server.connect() as superuser:
        superuser.execute("create table shop.notes as select 1 as id from generate_series(1, 5)")
        try:
            superuser.execute("analyze shop.notes")
            (finding,) = diagnose(server, CODE).findings
            tolerant = diagnose(server, CODE, thresholds={CODE: {"min_rows": "6"}})
            ignoring = diagnose(server, CODE, ignore=[{"code": CODE, "object": "shop.n*", "why": "a queue"}])
        finally:
            superuser.execute("drop table shop.notes")
    assert (finding.id, finding.area, finding.severity) == (f"{CODE}:table:shop.notes", "my", "warning")
    assert tolerant.findings == []
    assert [it.id for it, _, _ in ignoring.ignored] == [finding.id]


@pytest.mark.parametrize(("area", "runbook"), [("locks", "lock_analysis"), ("my", None)])
@pytest.mark.parametrize("cheap", [True, False])
def test_its_area_may_be_a_shipped_one_or_its_own(area, runbook, cheap, place):
    place(EXAMPLE.replace('area="my"', f'area="{area}"').replace("cheap=True", f"cheap={cheap}"))
    asked = {name: CODE in [it.code for it in checks_for(*name)] for name in [(), ("health_check",), (area,), (CODE,)]}
    assert asked == {(): cheap, ("health_check",): cheap, (area,): True, (CODE,): True}
    assert CODE not in [it.code for it in checks_for("wal")]
    if runbook:
        assert CODE in [it.code for it in checks_for(runbook)]


def test_files_may_share_a_module(place):
    place("LEAST = '7'", name="_shared.py")
    place(
        EXAMPLE.replace('"min_rows": "1"', '"min_rows": LEAST').replace("RULE =", "from ._shared import LEAST\nRULE =")
    )
    assert rules()[CODE].limits() == {"min_rows": 7}


def test_without_a_folder_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets.yml").write_text("targets: {}")
    assert own_checks() == {}
    assert registry() == shipped_checks()
    assert rules() == catalogue()


def test_the_pages_of_checks_have_the_shipped_alone(place):
    place()
    assert CODE in registry()
    assert not any(CODE in text for text in pages().values())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "import Iterable",
            "import Nothing",
            "cannot be imported in line 8: ImportError: cannot import name 'Nothing'",
        ),
        ("RULE = Rule(", "RULE = Rule((", "cannot be imported: SyntaxError: "),
        ("SQL = {", "raise SystemExit(1)\nSQL = {", "cannot be imported in line 25: SystemExit: 1"),
        (
            "\ncheck = Check(",
            "\ncheque = Check(",
            "is no check: needs a variable 'check' that holds a Check, got NoneType",
        ),
        ("check = Check(", "check = dict(code=", "is no check: needs a variable 'check' that holds a Check, got dict"),
        ("RULE.code,", "'table-without-key',", "the code 'table-without-key' needs a prefix of your own"),
        ("RULE.code,", "'blocking-lock',", "the code 'blocking-lock' needs a prefix of your own"),
        ("RULE.code,", "'my.other',", "needs own_rule=Rule(code='my.other', ...)"),
        ("own_rule=RULE,", "", f"needs own_rule=Rule(code='{CODE}', ...)"),
        ('worst="warning"', 'worst="bad"', "worst: needs one of critical, warning, info, got 'bad'"),
        ('"min_rows": "1"', '"warning": "5 parsecs"', "the defaults of its rule: warning: "),
        ('"min_rows": "1"', '"warning": "5", "critical": "x"', "the defaults of its rule: critical: "),
        ('"min_rows": "1"', '"min_rows": 1', "the defaults of its rule: "),
    ],
)
def test_one_that_is_wrong_is_one_line_that_names_the_file(old, new, words, place):
    assert old in EXAMPLE
    place(EXAMPLE.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        load_target("sandbox")
    assert re.search(r"/mine/keys\.py: ", str(caught.value))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_without_a_traceback(place):
    place("1 / 0")
    for arguments in (
        ["list", "--checks"],
        ["check", "--target", "sandbox"],
        ["run", "health_check", "--target", "sandbox"],
    ):
        command = [sys.executable, "-m", "pgrunbooks", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stdout) == (64, "")
        assert re.fullmatch(r".*/mine/keys\.py: cannot be imported in line 1: ZeroDivisionError: .*\n", result.stderr)


def test_a_code_is_taken_once(place):
    place()
    place(name="other.py")
    with pytest.raises(ConfigurationError, match=rf"other\.py: the code '{CODE}' is taken by .*keys\.py"):
        registry()


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets.yml").write_text("checks: gone\n")
    with pytest.raises(
        ConfigurationError, match=r"targets\.yml: checks: no such folder: .*/gone; 'pgrunbooks new check"
    ):
        registry()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('severity="warning"', 'severity="grave"', "ValueError: severity: needs one of critical, warning, info"),
        ('row["rows"]', 'row["lines"]', "KeyError: 'lines'"),
        ("from pg_catalog.pg_class", "from pg_catalog.pg_classes", "this server has no such view, function or column"),
    ],
)
def test_a_mistake_in_its_judge_or_query_ends_the_check_and_not_the_run(old, new, reason, place, newest):
    place(EXAMPLE.replace(old, new).replace("not exists (select", "true or exists (select"))
    outcomes = {it.code: it for it in diagnose(newest, CODE, "locks").checks}
    assert outcomes[CODE].outcome in ("failed", "skipped")
    assert reason in outcomes[CODE].reason
    assert outcomes["blocking-lock"].outcome == "ok"


class TestAnInstalledPackage:
    @pytest.fixture
    def install(self, tmp_path, monkeypatch):
        """Return what installs a package with an entry point as CONTRIBUTING.md shows it, for processes started here."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")

        def install(value):
            package = tmp_path / "site" / "acme_checks"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text("")
            (package / "keys.py").write_text(EXAMPLE)
            info = tmp_path / "site" / "acme_checks-1.0.dist-info"  # what pip writes of the page's pyproject.toml
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-checks\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[{GROUP}]\nkeys = {value}\n")

        return install

    def run(self, *arguments):
        command = [sys.executable, "-m", "pgrunbooks", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_s_checks_are_found_by_their_entry_points(self, install):
        install(VALUE)
        result = self.run("check", "my", "--target", "sandbox", "--json")
        assert [(it["code"], it["outcome"]) for it in json.loads(result.stdout)["checks"]] == [(CODE, "ok")]

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("acme_checks.gone:check", "cannot be imported: ModuleNotFoundError: No module named 'acme_checks.gone'"),
            ("acme_checks.keys", "is no check: needs a variable 'check' that holds a Check, got module"),
        ],
    )
    def test_s_mistake_names_the_entry_point(self, value, words, install):
        install(value)
        result = self.run("list", "--checks")
        assert (result.returncode, result.stdout) == (64, "")
        assert result.stderr.startswith(f"pgrunbooks: entry point keys = {value} of acme-checks: {words}")
        assert len(result.stderr.splitlines()) == 1
