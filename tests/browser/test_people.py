"""What people do in JupyterLab besides reading: practise on an incident, and end a session that harms."""

import json
import re

import pytest
from playwright.sync_api import expect

from pgrunbooks.drills import drills
from pgrunbooks.sandbox import wait_until


def run_cell(panel, source, text=None):
    """Run the cell that has this source, after typing ``text`` in its place, and return its outputs."""
    cell = panel.locator(".jp-CodeCell", has_text=source).first
    cell.locator(".cm-content").click()
    if text is not None:
        panel.page.keyboard.press("ControlOrMeta+a")
        panel.page.keyboard.insert_text(text)
        cell = panel.locator(".jp-CodeCell.jp-mod-active")
    before = cell.locator(".jp-InputPrompt").inner_text()
    panel.page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=60_000)
    return cell.locator(".jp-Cell-outputArea")


def test_a_practice_incident_is_named_and_healed_by_typing(page, open_card, shoot):
    panel = open_card(page, "Practise 1 first pages")
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.locator(".lm-Menu").get_by_text("Clear Outputs of All Cells", exact=True).click()  # and their numbers
    run_cell(panel, "target: str")
    run_cell(panel, "from pgrunbooks import pager")
    expect(run_cell(panel, "pager.ring(1)")).to_contain_text("Page 1")
    session = run_cell(panel, "in_this_state_s").locator("tr", has_text="idle in transaction").first
    pid = session.locator("td").first.inner_text()
    hint = run_cell(panel, 'page.answer(cause="", thing="")', 'page.answer(cause="duplicate index", thing="orders")')
    expect(hint).to_contain_text("Not yet.")
    right = run_cell(panel, "duplicate index", f'page.answer(cause="Idle, in a transaction", thing={pid})')
    expect(right).to_contain_text("Right.")
    verdict = run_cell(panel, "pager.Folded(verdict)")
    verdict.locator("summary").first.click()
    statement = verdict.locator(".pgr pre", has_text="pg_terminate_backend").first.inner_text()
    expect(run_cell(panel, "the statement from the verdict", f"%%heal\n{statement}")).to_contain_text("Done.")
    solved = run_cell(panel, "page.finish()")
    expect(solved).to_contain_text("Solved.")
    solved.scroll_into_view_if_needed()
    shoot(page, "practise")


@pytest.fixture
def incident(newest):
    ripe = "select min(clock_timestamp() - waitstart) > '2 s' from pg_locks where not granted and locktype = 'relation'"
    with drills()["ddl-lock-queue"].fault(newest), newest.connect() as watcher:
        wait_until(watcher, ripe)
        yield


def test_the_root_is_ended_by_a_button_once_the_words_are_typed_and_the_record_says_so(
    incident, newest, page, lab, open_runbook, run_all, shoot
):
    panel = open_runbook(page, "Lock analysis")
    panel.get_by_label("Target").select_option("shop")
    run_all(panel)
    form = panel.locator(".jp-CodeCell", has_text="acting.form(runbook, verdict)").locator(".jp-Cell-outputArea")
    form.scroll_into_view_if_needed()
    expect(form).to_contain_text("Released: ")
    button = form.get_by_role("button", name="Do it")
    expect(button).to_be_disabled()
    typed = form.get_by_placeholder("type: terminate")
    typed.press_sequentially(typed.get_attribute("placeholder").removeprefix("type: "))
    shoot(page, "acting")
    button.click()
    expect(form).to_contain_text("Ended: Session")
    expect(form).to_contain_text("Its transaction is over")
    shoot(page, "acted")
    with newest.connect() as watcher:
        wait_until(watcher, "select count(*) = 0 from pg_stat_activity where application_name = 'invoice-worker'")
    (record,) = (it for it in lab.workspace.glob("records/shop/*-lock_analysis") if "Ended" in text_of(it))
    assert re.search(r"Ended: Session \d+ \(role postgres, application invoice-worker\)", text_of(record))
    assert json.loads((record / "findings.json").read_text())["status"] == "critical"


def text_of(record):
    return (record / "report.html").read_text(encoding="utf-8")
