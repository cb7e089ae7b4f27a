"""A report must open anywhere, load nothing, run nothing and show the verdict first."""

from __future__ import annotations

import re
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pgrunbooks import display
from pgrunbooks.report import BUNDLE, OverviewEntry, render_overview, render_report, tidy

# one grey pixel
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def document(title: str | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "id": "blocking-lock:pid:4711", "code": "blocking-lock", "area": "locks", "severity": "critical",
        "object": {"kind": "pid", "name": "4711"}, "title": title, "impact": "Checkouts hang.", "evidence": [],
        "evidence_total": 0, "remedies": [], "caused_by": [],
    }  # fmt: skip
    return {
        "schema_version": 1, "tool_version": "0.1.0", "runbook": "troubleshooting", "target": "prod",
        "status": "critical" if title else "ok", "reason": None, "started_at": "2026-11-22T15:58:12Z",
        "finished_at": "2026-11-22T15:58:13Z", "parameters": {"target": "prod"}, "limits_overridden": {},
        "server": None, "findings": [found] if title else [], "ignored": [],
        "checks": [{"code": "blocking-lock", "outcome": "ok", "reason": None, "duration_ms": 1.0}],
    } | more  # fmt: skip


def notebook(*cells: NotebookNode) -> NotebookNode:
    return new_notebook(cells=[new_markdown_cell("# What is *wrong* now?\n\nIt changes nothing."), *cells])


def shown(data: dict[str, Any], source: str = "x") -> NotebookNode:
    return new_code_cell(source, execution_count=1, outputs=[new_output("display_data", data)])


def report(*cells: NotebookNode, given: dict[str, Any] | None = None) -> str:
    return render_report(notebook(*cells), given or document("Session 4711 blocks."))


def body(html: str) -> str:
    return html[html.index("<body>") :]


def test_the_title_is_the_question_and_the_target() -> None:
    html = report()
    assert "<title>What is wrong now? \N{EN DASH} prod</title>" in html
    assert html.count("<h1>") == 1
    assert re.search(r'<html [^>]*lang="en"', html)


def test_the_verdict_stands_before_the_notebook_and_the_footer_after_it() -> None:
    html = body(report())
    order = ["Session 4711 blocks.", "It changes nothing.", "<footer"]
    assert [html.index(piece) for piece in order] == sorted(html.index(piece) for piece in order)


def test_the_owner_is_shown() -> None:
    assert "Owner: team billing" in render_report(notebook(), document(), owner="team billing")


def test_the_page_forbids_itself_every_request_and_script() -> None:
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in report()


def test_the_page_fits_a_phone() -> None:
    assert re.search(r'<meta [^>]*name="viewport"', report())


def test_nothing_active_or_foreign_gets_into_the_page() -> None:
    foul = (
        "<script>alert(1)</script><!--><script>2</script>--><svg onload=alert(1)></svg>"
        "<img src=https://evil.example/a.png alt=pic onerror=alert(1)><iframe src=//evil.example></iframe>"
        "<link href=https://evil.example/a.css><style>@import 'https://evil.example'</style>"
        "<a href='javascript:alert(1)'>go</a><form action=https://evil.example><input></form>"
    )
    html = report(new_markdown_cell(foul), shown({"text/html": foul}), shown({"application/javascript": "alert(1)"}))
    assert not re.search(r"<(script|iframe|link|form|input|svg|base)\b", html)
    assert not re.search(r"\son\w+=", body(html))
    assert "evil.example" not in html
    assert "javascript:" not in html
    assert "[pic]" in html


def test_a_report_names_other_hosts_in_links_only() -> None:
    html = report(new_markdown_cell("[manual](https://www.postgresql.org/docs/)"), shown({"image/png": PNG}))
    assert re.findall(r'(\w+)="https?://', html) == ["href"]
    assert "url(" not in html


def test_a_report_with_pictures_and_tables_is_small() -> None:
    table = "<table>" + "<tr><td>1</td><td>public.orders</td></tr>" * 500 + "</table>"
    html = report(shown({"image/png": PNG}), shown({"text/html": table}))
    assert len(html.encode()) < 100_000


def test_code_is_folded_under_the_name_of_what_it_is() -> None:
    html = report(shown({"text/plain": "7"}, "%%sql\nselect 3 < 4"), shown({"text/plain": "8"}, "session.ask()"))
    assert "<details><summary>the query</summary><pre><code>%%sql\nselect 3 &lt; 4</code></pre></details>" in html
    assert "<summary>the code</summary><pre><code>session.ask()" in html


def test_the_parameters_are_a_table_with_the_values_of_this_run() -> None:
    source = 'target: str = "sandbox"  # a name of targets.yml\nsince: str = "1h"  # how far back'
    html = report(
        new_code_cell(source, metadata={"tags": ["parameters"]}),
        new_code_cell('# Parameters\ntarget = "prod"', metadata={"tags": ["injected-parameters"]}),
    )
    assert "<summary>Parameters: target = 'prod', since = '1h'</summary>" in html
    assert "<td><code>'prod'</code></td><td>a name of targets.yml</td>" in html
    assert "# Parameters" not in html


def test_a_failing_cell_is_one_box_with_its_last_line() -> None:
    failed = new_output(
        "error", ename="OperationalError", evalue="\x1b[31mserver closed\x1b[0m <b>", traceback=["\x1b[31mline 1", "x"]
    )
    html = body(report(new_code_cell("ask()", execution_count=1, outputs=[failed])))
    assert html.count('class="pgr-error"') == 1
    assert "<pre>OperationalError: server closed &lt;b&gt;</pre>" in html
    assert "line 1" not in html


def test_an_error_without_a_name_shows_the_last_line_of_its_traceback() -> None:
    failed = new_output("error", ename="", evalue="", traceback=["first\n\x1b[31mKernel died\x1b[0m\n"])
    assert "<pre>Kernel died</pre>" in report(new_code_cell("x", outputs=[failed]))


def test_a_cell_that_did_not_run_says_so() -> None:
    assert "<summary>the code, not run</summary>" in report(new_code_cell("never()"))


def test_the_bundle_for_machines_is_not_shown() -> None:
    assert "MACHINE" not in report(shown({BUNDLE: {"a": 1}, "text/plain": "MACHINE"}))


def test_the_card_of_the_notebook_gives_way_to_the_one_on_top() -> None:
    given = document("Session 4711 blocks.")
    html = body(report(shown({"text/html": display.card(given)}), given=given))
    assert html.count('class="pgr-story"') == 1
    assert '<a href="#verdict">' in html


def test_columns_of_numbers_are_right_aligned_and_tables_scroll() -> None:
    rows = "<tr><th>name</th><th>size</th></tr><tr><td>a</td><td>1.4 GB</td></tr><tr><td>b</td><td>None</td></tr>"
    html = tidy(f"<table>{rows}</table>")
    assert '<th class="pgr-n">size</th>' in html
    assert '<td class="pgr-n">1.4 GB</td>' in html
    assert "<th>name</th>" in html
    assert '<div class="pgr-wide" tabindex="0"><table>' in html


@pytest.mark.parametrize("text", ["https://example.org", "readme.txt", ""])
def test_an_output_that_is_no_markup_is_kept_as_text(text: str) -> None:
    assert tidy(text) == f"<div>{text}</div>"


def test_a_picture_is_described_by_the_claim_above_it() -> None:
    html = report(new_markdown_cell("## The disk lasts 40 days"), shown({"image/png": PNG}))
    assert re.search(r'<img alt="The disk lasts 40 days" src="data:image/png;base64,', html)


def test_output_and_code_lose_escape_sequences() -> None:
    printed = new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m \x07\u202e<b>")
    html = report(new_code_cell("'\u202e'", outputs=[printed]))
    assert r"red \x07\u202e&lt;b&gt;" in html
    assert "\u202e" not in html


def test_rendering_leaves_the_notebook_as_it_was() -> None:
    given = notebook(shown({"image/png": PNG}), shown({BUNDLE: {}}))
    before = given.copy()
    render_report(given, document())
    assert given == before
    assert given.cells[0].source.startswith("# What")


def entry(day: int, *, runbook: str = "troubleshooting", title: str | None = None, **more: Any) -> OverviewEntry:
    given = document(title, runbook=runbook, started_at=f"2026-11-{day:02}T10:00:00Z") | more
    return OverviewEntry(given, f"prod/{day}/report.html")


def test_the_overview_groups_by_target_with_the_newest_first() -> None:
    html = render_overview([entry(1, target="old"), entry(20), entry(21), entry(22, target="new")])
    assert re.findall(r"</span> (\w+)</h2>", html) == ["new", "prod", "old"]
    assert re.findall(r"2026-11-\d\d", html) == ["2026-11-22", "2026-11-21", "2026-11-20", "2026-11-01"]
    assert '<a href="prod/21/report.html">' in html


def test_a_target_is_as_bad_as_the_newest_run_of_each_runbook() -> None:
    healed = [entry(1, title="Old trouble."), entry(2)]
    assert '<section class="pgr-target pgr-target-ok">' in render_overview(healed)
    still = [*healed, entry(1, runbook="growth_report", title="The disk is full.")]
    assert '<section class="pgr-target pgr-target-critical">' in render_overview(still)


def test_the_overview_says_what_each_run_says() -> None:
    html = render_overview([entry(1, title="Session <4711> blocks.\x1b"), entry(2)])
    assert r"Session &lt;4711&gt; blocks.\x1b" in html
    assert "1 check asked of locks; all of it is well." in html


def test_the_overview_folds_the_older_runs() -> None:
    html = render_overview([entry(day) for day in range(1, 26)])
    assert "<summary>5 older</summary>" in html


def test_the_overview_links_nowhere_else_and_runs_nothing() -> None:
    html = render_overview(
        [OverviewEntry(document("<script>"), "javascript:alert(1)"), OverviewEntry(document(), "//x.example/")]
    )
    assert "href" not in html
    assert "<script" not in html
    assert "default-src &#39;none&#39;" in html


def test_an_overview_of_nothing_says_how_to_make_the_first_run() -> None:
    assert "pgrunbooks run troubleshooting" in render_overview([])
