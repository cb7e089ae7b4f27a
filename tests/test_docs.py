"""The pages of docs/ say what the code does: made pages are as made, links lead somewhere, commands and snippets run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pages import ROOT, blocks, broken_links, commands, expected_status, is_https, run, snippets, write_targets
from pgrunbooks import reference, schedule
from pgrunbooks.check import Remedy, registry
from pgrunbooks.cli import main
from pgrunbooks.drills import drills
from pgrunbooks.suggestions import suggestions
from pgrunbooks.targets import Target, load_history, load_target, target_names

MADE = reference.pages()
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [page for page in PAGES if str(page.relative_to(DOCS)) not in MADE]


def name_of(page):
    return str(page.relative_to(ROOT))


class TestMadePages:
    @pytest.mark.parametrize("name", MADE)
    def test_is_what_the_code_makes(self, name):
        assert (DOCS / name).read_text() == MADE[name], "run: python -m pgrunbooks.reference"

    def test_none_is_left_of_an_area_that_is_no_more(self):
        assert {f"checks/{page.name}" for page in DOCS.glob("checks/*.md")} <= set(MADE)

    @pytest.mark.parametrize("check", registry().values(), ids=lambda check: check.code)
    def test_a_check_tells_its_rule_its_limits_its_drill_and_what_it_suggests(self, check):
        page = (DOCS / "checks" / f"{check.rule.area}.md").read_text()
        section = page.partition(f"\n## {check.code}\n")[2].partition("\n## ")[0]
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(check.rule.defaults)
        assert f"`pgrunbooks drill start {check.code}`" in section
        assert drills()[check.code].symptom.split()[0] in section
        assert "\n1. " in section
        assert all(it.title and "(risk" in section for it in suggestions(check))

    def test_every_command_has_its_section(self):
        text = (DOCS / "command_line.md").read_text()
        paths = [
            [name, *([sub] if sub else [])]
            for name, command in main.commands.items()
            for sub in ["", *getattr(command, "commands", ())]
        ]
        assert all(f"\n## pgrunbooks {' '.join(path)}\n" in text for path in paths)

    def test_every_key_of_a_target_says_what_it_means(self):
        text = (DOCS / "targets.md").read_text()
        for name, field in Target.model_fields.items():
            if name != "name":
                assert field.description, name
                assert f"| `{name}` | " in text


def test_what_a_check_suggests_is_read_from_its_source():
    found = suggestions(registry()["idle-in-transaction"])
    assert [it.risk for it in found] == ["[high | low]", "low"]
    assert found[1].sql == "alter role {role} set idle_in_transaction_session_timeout = '5min';"
    assert "SHARE UPDATE EXCLUSIVE on the table" in suggestions(registry()["invalid-index"])[0].locks


def test_a_remedy_that_no_page_tells_of_is_noticed():
    told = suggestions(registry()["idle-in-transaction"])[1]
    sql = "alter role shop set idle_in_transaction_session_timeout = '5min';"
    remedy = Remedy(told.title, sql, risk="low", locks="none")
    assert told.stands_for(remedy)
    others = [replace(remedy, **it) for it in ({"title": "Go home"}, {"sql": None}, {"risk": "high"}, {"locks": None})]
    assert not any(told.stands_for(it) for it in others)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_the_links_to_the_manual_are_https_and_stand_once_in_a_check():
    for check in registry().values():
        assert all(map(is_https, check.docs)), check.code
        assert len(set(check.docs)) == len(check.docs), check.code


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[a](#a-title) [b](#b) [c](gone.md) [d](http://e.org) `[e](gone.md)` [f](https://e.org/#x)\n"
    )
    assert broken_links(page) == ["#b", "gone.md", "http://e.org"]


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_what_a_page_calls_by_its_path_exists(page):
    paths = re.findall(r"`((?:lib|tests|runbooks|notebooks|benchmarks)/[\w./]*)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_enough_commands_stand_in_the_pages():
    assert len({line for page in WRITTEN for line in commands(page)}) > 8


@pytest.mark.parametrize("page", [page for page in WRITTEN if commands(page)], ids=name_of)
def test_the_commands_of_a_page_run_in_its_order(page, tmp_path, newest):
    write_targets(tmp_path, newest)
    (tmp_path / "runbooks").symlink_to(ROOT / "runbooks")
    elsewhere = commands(ROOT / "README.md")  # run by test_readme
    for line in commands(page):
        if line not in elsewhere:
            result = run(line, tmp_path)
            assert result.returncode == expected_status(line), (line, result.stdout, result.stderr)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "yaml")], ids=name_of)
def test_the_snippets_of_targets_files_are_valid(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checks").mkdir()
    for text in snippets(page, "yaml"):
        for example in (text, uncommented(text)):
            Path("targets.yml").write_text(example)
            names = target_names()
            assert [load_target(name).name for name in names if name != "sandbox"] == names[:-1]
            assert len(schedule.lines()) == sum(
                len(it["targets"]) for it in yaml.safe_load(example).get("schedule", [])
            )
            load_history()


def uncommented(text):
    """Return the example with every key that it holds as a comment, and a target for each that it names."""
    lines = [
        line.removeprefix("#") if line.startswith("#  ") else re.sub(r": (\{\}|\[\]) .*$|: \{\}$", ":", line)
        for line in text.splitlines()
    ]
    return "\n".join(lines).replace("[prod-replica]", "[prod]").replace("${SLACK_TOKEN}", "token")


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "sql")], ids=name_of)
def test_the_snippets_of_sql_run(page, newest):
    with newest.connect() as connection:
        connection.execute("begin")
        for text in snippets(page, "sql"):
            connection.execute(text)
        connection.execute("rollback")


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "python")], ids=name_of)
def test_the_snippets_of_python_run(page, capsys):
    for text in snippets(page, "python"):
        exec(compile(text, page.name, "exec"), {})
    assert capsys.readouterr().out


def test_no_block_escapes_these_tests():
    kinds = {kind for page in PAGES for kind, _, _ in blocks(page)}
    assert kinds <= {"sh", "yaml", "sql", "python", "text", "mermaid"}
