"""A verdict must be read right at a glance, and nothing from the database may fool its reader."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
from rich.console import Console

from pgrunbooks import display

SERVER = {
    "version": "18.6 (Debian 18.6-1)", "version_num": 180006, "system_identifier": "73", "database": "shop",
    "role": "monitor", "in_recovery": False, "stats_reset": None,
}  # fmt: skip
END_SESSION = {"title": "End the session", "sql": "select pg_terminate_backend(4711);", "risk": "high",
               "locks": "none; its work is rolled back", "undo": None}  # fmt: skip
HOSTILE = '<script>alert(1)</script>\x1b[31m\u202e & "it\'s"\x00\x9b'


def document(*findings: dict[str, Any], status: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "schema_version": 1, "tool_version": "0.1.0", "runbook": "troubleshooting", "target": "prod",
        "status": status, "reason": None, "started_at": "2026-11-22T15:58:12+00:00",
        "finished_at": "2026-11-22T15:58:12.740000+00:00", "parameters": {"target": "prod", "since": "1h"},
        "limits_overridden": {}, "server": dict(SERVER), "findings": list(findings), "ignored": [],
        "checks": [check(finding["code"], "found") for finding in findings] or [check("deadlocks")],
    } | more  # fmt: skip


def check(code: str, outcome: str = "ok", reason: str | None = None) -> dict[str, Any]:
    return {"code": code, "outcome": outcome, "reason": reason, "duration_ms": 3.0}


def finding(code: str, name: str = "4711", *causes: str, severity: str = "critical", **more: Any) -> dict[str, Any]:
    return {
        "id": f"{code}:pid:{name}", "code": code, "area": "locks", "severity": severity,
        "object": {"kind": "pid", "name": name}, "title": f"Title of {code}.", "impact": f"Impact of {code}.",
        "evidence": [], "evidence_total": len(more.get("evidence", ())), "remedies": [], "caused_by": list(causes),
    } | more  # fmt: skip


def incident() -> dict[str, Any]:
    waiting = [{"pid": 4800 + number, "waiting_s": 6.2, "retained_bytes": 1503238553, "share": 0.25,
                "query": "select " + "a, " * 80 + "z", "note": None} for number in range(37)]  # fmt: skip
    return document(
        finding("idle-in-transaction", remedies=[END_SESSION]),
        finding("blocking-lock", "4711", "idle-in-transaction:pid:4711", remedies=[END_SESSION], evidence=waiting),
        finding("ddl-lock-queue", "4801", "blocking-lock:pid:4711"),
        status="critical",
    )


def markup(html: str) -> str:
    return re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


def printed(given: dict[str, Any], width: int = 80, **more: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    display.terminal(given, console, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.0004, "0.4 ms"), (0.74, "740 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (6.2, "6.2 s"),
        (42, "42 s"), (59.94, "59.9 s"), (59.96, "1 min"), (90, "1 min 30 s"), (599.4, "9 min 59 s"),
        (599.6, "10 min"), (720.4, "12 min"), (3569, "59 min"), (3570, "1 h"), (11100, "3 h 5 min"),
        (86369, "23 h 59 min"), (86399, "1 d"), (4 * 86400 + 7200, "4 d 2 h"), (-90, "-1 min 30 s"),
    ],
)  # fmt: skip
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (1, "1 bytes"), (1023, "1023 bytes"), (1024, "1 kB"), (8192, "8 kB"), (1048575, "1 MB"),
        (1503238553, "1.4 GB"), (44238012416, "41.2 GB"), (2**40, "1 TB"), (2**60, "1024 PB"), (-8192, "-8 kB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_powers_of_1024_with_the_unit_names_of_postgresql(count: float, text: str) -> None:
    assert display.size(count) == text


def test_a_long_text_keeps_its_two_ends() -> None:
    assert display.cut("select " + "x" * 200 + " for update", 30) == "select xxxxxx ... x for update"
    assert display.cut("short", 5) == "short"


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800"])
def test_a_character_that_deceives_is_written_out(character: str) -> None:
    shown = display.printable(f"a{character}b")
    assert character not in shown
    assert re.fullmatch(r"a\\[xur][0-9a-f]*b", shown)


def test_line_breaks_tabs_and_any_script_of_the_world_stay() -> None:
    assert display.printable("a\n\tb Größe 表 عربي") == "a\n\tb Größe 表 عربي"


def test_a_story_is_a_root_with_all_that_follows_from_it() -> None:
    given = incident()
    given["findings"].append(finding("inactive-slot", "s"))
    told = [(root["code"], [effect["code"] for effect in effects]) for root, effects in display.stories(given)]
    assert told == [("idle-in-transaction", ["blocking-lock", "ddl-lock-queue"]), ("inactive-slot", [])]


def test_a_cause_that_is_not_in_the_document_leaves_a_root() -> None:
    [(root, effects)] = display.stories(document(finding("blocking-lock", "1", "gone:pid:1")))
    assert (root["code"], effects) == ("blocking-lock", [])


def test_findings_that_name_one_another_are_told_once_each() -> None:
    circle = document(finding("a", "1", "b:pid:1"), finding("b", "1", "a:pid:1"), finding("c", "1", "c:pid:1"))
    told = [(root["code"], [effect["code"] for effect in effects]) for root, effects in display.stories(circle)]
    assert told == [("c", []), ("a", ["b"])]


def test_a_finding_with_two_causes_stands_under_the_first() -> None:
    both = document(finding("a"), finding("b"), finding("c", "1", "b:pid:4711", "a:pid:4711"))
    assert [len(effects) for _, effects in display.stories(both)] == [1, 0]


def test_the_card_puts_status_then_story_then_root_then_symptoms_then_footer() -> None:
    html = markup(display.card(incident(), owner="team billing"))
    order = ["CRITICAL", "team billing", "Title of idle-in", "Title of blocking", "Title of ddl", "<footer"]
    places = [html.index(piece) for piece in order]
    assert places == sorted(places)
    assert html.index("Title of blocking") > html.index('<ul class="pgr-symptoms">')


def test_the_status_line_says_server_role_time_and_duration() -> None:
    line = re.sub("<[^>]+>", "", markup(display.card(document())).splitlines()[2])
    assert line == "OK prod · PostgreSQL 18.6, primary · 2026-11-22 15:58 UTC · took 740 ms"


def test_only_the_status_line_differs_between_two_runs_with_the_same_findings() -> None:
    later = incident() | {"started_at": "2026-12-01T00:00:00Z", "finished_at": "2026-12-01T00:01:00Z"}
    lines = zip(display.card(incident()).splitlines(), display.card(later).splitlines(), strict=True)
    assert [("pgr-status" in one) for one, other in lines if one != other] == [True]


def test_everything_well_is_one_sentence_with_the_areas_asked() -> None:
    given = document(checks=[check("deadlocks"), check("idle-in-transaction"), check("blocking-lock")])
    assert "3 checks asked of locks and connections; all of it is well." in display.card(given)


def test_a_skipped_check_is_counted_and_shown_with_its_reason() -> None:
    given = document(checks=[check("deadlocks"), check("temp-file-spill", "skipped", "needs `create extension x;`")])
    html = display.card(given)
    assert "1 check skipped; see below." in html
    assert "<code>temp-file-spill</code> skipped: needs <code>create extension x;</code>" in html
    assert "1 check asked of locks" in html


def test_many_checks_that_failed_for_one_reason_are_one_line() -> None:
    checks = [check(f"c{number}", "failed", "could not connect") for number in range(40)]
    given = document(status="unknown", reason="connection refused", server=None, checks=checks)
    html = display.card(given)
    assert "This could not be judged: connection refused" in html
    assert html.count("could not connect") == 1
    assert "all of it is well" not in html


def test_an_unknown_status_says_why_beside_what_was_found() -> None:
    given = document(finding("deadlocks", severity="warning"), status="unknown", reason="the server went away")
    assert "the server went away" in display.card(given)
    assert "Title of deadlocks." in display.card(given)


def test_evidence_stops_at_ten_rows_and_counts_the_rest() -> None:
    html = markup(display.card(incident()))
    assert html.count("<tr><td>") == 10
    assert "and 27 more" in html


def test_evidence_counts_rows_that_the_record_left_out() -> None:
    given = incident()
    given["findings"][1]["evidence_total"] = 400
    assert "and 390 more" in display.card(given)


def test_units_move_from_the_column_name_into_the_value() -> None:
    html = markup(display.card(incident()))
    assert "<th class=pgr-n>waiting</th><th class=pgr-n>retained</th><th class=pgr-n>share</th>" in html
    assert "<td class=pgr-n>6.2 s</td><td class=pgr-n>1.4 GB</td><td class=pgr-n>25%</td>" in html


def test_a_pid_is_a_name_and_no_number_and_nothing_is_a_dash() -> None:
    html = markup(display.card(incident()))
    assert "<td><code>4800</code></td>" in html
    assert "<td>–</td>" in html  # noqa: RUF001


def test_a_long_query_is_cut_in_the_middle_and_whole_on_demand() -> None:
    html = display.card(incident())
    assert re.search(r"<summary><code>select a, [a, ]+ \.\.\. [a, ]+ z</code></summary>", html)
    assert f"<pre>select {'a, ' * 80}z</pre>" in html


def test_depth_indents_the_first_column_of_a_lock_tree() -> None:
    rows = [{"pid": 1, "depth": 0, "role": "a"}, {"pid": 2, "depth": 2, "role": "b"}]
    html = markup(display.card(document(finding("blocking-lock", evidence=rows), status="critical")))
    assert "<td>\u2003\u2003└ <code>2</code></td>" in html
    assert "depth" not in html


def test_times_in_the_evidence_are_said_in_utc() -> None:
    rows = [{"started_at": "2026-11-22T16:58:12.5+01:00"}]
    html = display.card(document(finding("deadlocks", evidence=rows), status="critical"))
    assert "<td>2026-11-22 15:58 UTC</td>" in html


def test_the_first_remedy_stands_open_with_risk_and_lock_and_is_not_repeated_for_its_symptom() -> None:
    html = markup(display.card(incident()))
    assert html.count("<pre>select pg_terminate_backend(4711);</pre>") == 1
    assert "<li>high risk</li><li>locks: none; its work is rolled back</li>" in html
    assert "The statement above heals this, too." in html


def test_info_is_folded_below_and_leaves_the_sentence_that_all_is_well() -> None:
    html = markup(display.card(document(finding("deadlocks", severity="info"))))
    assert html.index("all of it is well") < html.index("<summary>1 note</summary>") < html.index("Title of deadlocks")


def test_limits_of_the_target_and_ignored_findings_are_named() -> None:
    given = document(
        limits_overridden={"deadlocks": {"warning": 5}},
        ignored=[{"id": "unused-index:index:public.i", "why": "kept for the audit", "until": "2027-01-31"}],
    )
    html = display.footer(given)
    assert "Limits of this target: deadlocks warning = 5" in html
    assert "unused-index:index:public.i: kept for the audit (until 2027-01-31)" in html


def hostile() -> dict[str, Any]:
    """Return a document in which every text of the database, the role and the target is an attack."""
    remedy = {"title": HOSTILE, "sql": HOSTILE, "risk": "low", "locks": HOSTILE, "undo": HOSTILE}
    one = finding("x", HOSTILE, title=HOSTILE, impact=HOSTILE, remedies=[remedy, remedy], runbook=HOSTILE,
                  docs=["javascript:alert(1)", 'https://a.example/"><script>'],
                  evidence=[{HOSTILE: HOSTILE, "query": HOSTILE * 20}])  # fmt: skip
    given = document(one, deepcopy(one) | {"id": "note", "severity": "info"}, status="critical", target=HOSTILE)
    given["checks"].append(check(HOSTILE, "skipped", HOSTILE))
    given |= {"parameters": {HOSTILE: HOSTILE}, "limits_overridden": {HOSTILE: {HOSTILE: HOSTILE}}}
    return given | {"ignored": [{"id": HOSTILE, "why": HOSTILE, "until": HOSTILE}], "runbook": HOSTILE}


def test_no_text_of_the_database_becomes_markup() -> None:
    html = display.card(hostile(), owner=HOSTILE)
    assert "<script" not in html
    assert 'href="javascript' not in html
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", html)


def test_no_text_of_the_database_reaches_the_terminal_as_a_command() -> None:
    text = printed(hostile(), owner=HOSTILE)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", display.plain(hostile()))


def test_a_line_break_in_a_name_fakes_no_line_in_the_terminal() -> None:
    given = document(finding("deadlocks", title="bad\nOK  prod is well"), status="critical")
    assert "bad OK prod is well" in printed(given)


def test_markup_of_rich_in_a_name_is_printed_as_it_is() -> None:
    assert "[red]x[/red]" in printed(document(finding("deadlocks", title="[red]x[/red]"), status="critical"))


def test_the_terminal_shows_the_root_first_and_symptoms_indented() -> None:
    lines = printed(incident(), owner="team billing").splitlines()
    assert lines[0].startswith("CRITICAL  prod · PostgreSQL 18.6, primary · 2026-11-22 15:58 UTC")
    root = lines.index("CRITICAL  Title of idle-in-transaction.")
    assert root < lines.index("    CRITICAL  Title of blocking-lock.")


def test_sql_in_the_terminal_can_be_copied_whole() -> None:
    sql = "alter role app set " + "x" * 200 + " = '5min';\nselect 1;"
    remedy = {"title": "Set it", "sql": sql, "risk": "low"}
    assert f"\n{sql}\n" in printed(document(finding("deadlocks", remedies=[remedy]), status="critical"), width=60)


def test_the_terminal_names_what_was_not_looked_at() -> None:
    given = document(checks=[check("deadlocks", "failed", "statement timeout"), check("x", "skipped", "grant y")])
    assert "FAILED  deadlocks: statement timeout\nSKIPPED  x: grant y\n" in printed(given)


def test_plain_text_is_the_card_in_a_few_lines() -> None:
    assert display.plain(document()).splitlines() == [
        "OK  prod · PostgreSQL 18.6, primary · 2026-11-22 15:58 UTC · took 740 ms",
        "1 check asked of locks; all of it is well.",
    ]


def test_importing_display_loads_nothing_slow() -> None:
    slow = "{'rich', 'jinja2', 'nbconvert', 'pandas', 'matplotlib'}"
    code = (
        f"import sys, pgrunbooks.display; sys.exit(str({slow} & set(sys.modules)) if {slow} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("runbook", "kind", "more"), [
    ("lock_analysis", "pid", " -p pid 4711"), ("vacuum_health", "pid", ""), ("lock_analysis", "cluster", "")])  # fmt: skip
def test_the_deeper_page_is_one_command_with_its_parameters(runbook, kind, more):
    found = {"runbook": runbook, "object": {"kind": kind, "name": "4711"}}
    given = {"runbook": "check", "target": "prod", "parameters": {"database": "shop"}}
    assert display._deeper(given, found) == f"pgrunbooks run {runbook} --target prod --database shop{more}"


def test_a_page_does_not_point_at_itself():
    found = {"runbook": "lock_analysis", "object": {"kind": "pid", "name": "4711"}}
    assert display._deeper({"runbook": "lock_analysis", "target": "prod", "parameters": {}}, found) is None
