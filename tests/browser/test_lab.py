"""JupyterLab as ``pgrunbooks lab`` opens it, in a real browser: from the start page to a verdict, a record and a job."""

import json
import re

import pytest
from playwright.sync_api import expect

from pgrunbooks.display import BUNDLE
from pgrunbooks.drills import drills
from pgrunbooks.record import runbooks
from pgrunbooks.sandbox import wait_until

THEMES = {"dark": "JupyterLab Dark", "light": "JupyterLab Light"}  # in which a newcomer finds it comes last


class TestTheWorkspace:
    def test_opens_on_the_start_page_and_nothing_pops_up(self, page, shoot):
        expect(page.get_by_role("tab", name="start.md")).to_be_visible()
        expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)
        shoot(page, "start")

    def test_has_a_card_for_every_runbook_with_its_question(self, page, shoot):
        page.get_by_title("New Launcher", exact=True).click()
        cards = page.locator('.jp-LauncherCard:visible[data-category="Runbooks"]')
        expect(cards).to_have_count(len(runbooks()))
        expect(cards.first).to_have_text(
            re.compile("Troubleshooting.What is wrong with this database right now", re.DOTALL)
        )
        shoot(page, "launcher")
        assert {card.inner_text().split("\n", 1)[1] for card in cards.all()} == {
            it.question for it in runbooks().values()
        }

    def test_keeps_a_setting_beside_the_runbooks_and_leaves_the_user_s_own_jupyter_alone(self, page, lab):
        with page.expect_response(lambda it: "apputils-extension" in it.url and it.request.method == "PUT"):
            choose_theme(page, "dark")
        assert list((lab.workspace / ".lab").rglob("themes.jupyterlab-settings"))
        assert not (lab.home / ".jupyter").exists()

    def test_answers_nobody_without_the_token(self, browser, lab):
        context = browser.new_context()
        for path in ("pgrunbooks/targets", "pgrunbooks/pages", "api/contents"):
            assert context.request.get(lab.url + path).status == 403
        context.close()


@pytest.fixture(scope="class")
def panel(newest, page, open_runbook, run_all):
    """Return the runbook for the pager, opened by its card, run inside an incident on the target that was picked."""
    ripe = "select min(clock_timestamp() - waitstart) > '2 s' from pg_locks where not granted and locktype = 'relation'"
    with drills()["ddl-lock-queue"].fault(newest), newest.connect() as watcher:
        wait_until(watcher, ripe)
        panel = open_runbook(page, "Troubleshooting")
        panel.get_by_label("Target").select_option("shop")
        run_all(panel)
        yield panel


class TestARunbookInAnIncident:
    def test_shows_the_target_that_was_picked_in_its_first_cell(self, panel):
        expect(panel.locator(".jp-CodeCell").first).to_contain_text('target: str = "shop"')

    def test_names_the_root_cause(self, panel):
        card = panel.locator(".pgr").first
        expect(card.locator(".pgr-status")).to_contain_text("CRITICAL shop")
        expect(card.locator(".pgr-story").first).to_contain_text("idle in a transaction")

    def test_unfolds_its_evidence(self, panel):
        evidence = panel.locator(".pgr details").first
        rows = evidence.locator("tbody tr")
        expect(rows.first).to_be_hidden()
        evidence.locator("summary").first.click()
        expect(rows.first).to_be_visible()

    def test_has_a_table_of_contents(self, panel):
        page = panel.page
        page.get_by_role("tab", name=re.compile("Table of Contents")).click()
        contents = page.locator(".jp-TableOfContents-content")
        expect(contents.get_by_text("Who waits for whom?")).to_be_visible()
        page.get_by_role("tab", name=re.compile("File Browser")).click()

    @pytest.mark.parametrize("theme", THEMES)
    def test_is_readable_in_both_themes(self, theme, panel, shoot):
        choose_theme(panel.page, theme)
        words = panel.locator(".pgr").first.locator(".pgr-status, .pgr-word, .pgr-story, h3, p, summary, pre, td")
        words.first.scroll_into_view_if_needed()
        shoot(panel.page, f"troubleshooting-{theme}")
        contrasts = words.evaluate_all(CONTRASTS)
        assert len(contrasts) > 20
        assert min(contrasts) >= 4.5, sorted(contrasts)[:5]


def choose_theme(page, theme):
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu").get_by_text("Theme", exact=True).hover()
    page.locator(".lm-Menu").get_by_text(THEMES[theme], exact=True).click()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "light").lower())


# WCAG 2's contrast of each visible element's text against the first background behind it that is not transparent.
CONTRASTS = """elements => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = channels(colour).map(it => it / 255).map(it => it <= .03928 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const background = element => {
    const colour = getComputedStyle(element).backgroundColor;
    return (channels(colour)[3] ?? 1) > 0 ? colour : background(element.parentElement);
  };
  return elements.filter(it => it.checkVisibility()).map(it => {
    const [dark, light] = [getComputedStyle(it).color, background(it)].map(luminance).sort((a, b) => a - b);
    return (light + .05) / (dark + .05);
  });
}"""


def test_a_run_from_the_page_leaves_a_record_and_opens_its_report(page, lab, open_runbook, shoot):
    panel = open_runbook(page, "Health check")
    panel.get_by_label("Target").select_option("shop")
    panel.get_by_role("button", name="Run into a record").click()
    with page.context.expect_page(timeout=60_000) as opened:
        page.get_by_role("button", name="Open the report").click(timeout=60_000)
    expect(opened.value.locator(".pgr-status")).to_contain_text("shop")
    shoot(opened.value, "report")
    opened.value.close()
    (record,) = lab.workspace.glob("records/shop/*-health_check")
    assert json.loads((record / "findings.json").read_text())["parameters"]["target"] == "shop"


def test_a_mistake_in_the_targets_file_is_told_in_the_page(page, lab, open_runbook):
    panel = open_runbook(page, "Lock analysis")
    targets = lab.workspace / "targets.yml"
    before = targets.read_text()
    targets.write_text("targets: [")
    try:
        panel.get_by_label("Target").focus()
        expect(page.get_by_role("alert").filter(has_text="targets.yml: ").first).to_be_visible()
    finally:
        targets.write_text(before)


def test_a_job_is_made_in_the_scheduler_s_page_and_runs_with_its_parameters(page, lab, open_runbook, shoot):
    panel = open_runbook(page, "Lock analysis")
    panel.get_by_role("button", name="Schedule", exact=True).click()
    expect(page.get_by_label("Input file")).to_have_value("runbooks/lock_analysis.ipynb")
    page.get_by_label("Job name").fill("locks of the shop")
    page.get_by_role("button", name=re.compile("parameter")).click()
    page.get_by_placeholder("Name", exact=True).fill("target")
    page.get_by_placeholder("Value", exact=True).fill('"shop"')
    page.get_by_placeholder("Value", exact=True).blur()  # which is when it is looked at
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("locks of the shop").first).to_be_visible()
    assert page.evaluate(END_OF_JOB, lab.url) == "COMPLETED"
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_text("Completed")).to_be_visible()
    shoot(page, "jobs")
    (done,) = (lab.workspace / ".lab" / "jobs").glob("*/lock_analysis-*.ipynb")
    findings = [
        it["data"] for cell in json.loads(done.read_text())["cells"] for it in cell.get("outputs", []) if "data" in it
    ]
    (bundle,) = (it[BUNDLE] for it in findings if BUNDLE in it)
    assert bundle["target"] == "shop"


# How the newest job ended: jupyter-scheduler's own page asks again only when its Reload is pressed.
END_OF_JOB = """async url => {
  const deadline = Date.now() + 60000;
  while (Date.now() < deadline) {
    const { jobs: [job] } = await (await fetch(`${url}scheduler/jobs`)).json();
    if (["COMPLETED", "FAILED"].includes(job?.status)) return job.status_message ?? job.status;
    await new Promise(resolve => setTimeout(resolve, 250));
  }
}"""
