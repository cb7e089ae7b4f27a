"""A real JupyterLab in a workspace of its own, and a real browser that looks at it.

One server serves all tests of the folder, and one ``page`` those of a module: it shows the start page, from which
``open_runbook`` leads on. A request to any other machine fails the module.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from lab_server import TOKEN, Lab, running_lab
from pgrunbooks.drills import drills
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.workspace import make_workspace

CHROMIUM = Path(os.environ.get("PGRUNBOOKS_TEST_CHROMIUM", "/usr/bin/chromium"))
OUTPUT = Path(__file__).parents[2] / "test-output"
DRILL = drills()["ddl-lock-queue"]

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def newest() -> Iterator[Sandbox]:
    """Return a server of this folder's own, since what is open in JupyterLab stays connected."""
    with temporary_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, newest: Sandbox) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    make_workspace(folder / "workspace")
    shop = {
        "dsn": newest.url(),
        "allow_actions": True,
        "thresholds": {code: dict(limits) for code, limits in DRILL.thresholds.items()},
    }
    (folder / "workspace" / "targets.yml").write_text(json.dumps({"targets": {"shop": shop}}))
    with running_lab(folder) as lab:
        yield lab


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium; for one module at a time, since Playwright's event loop would be in the way of other tests'."""
    if not CHROMIUM.exists():
        pytest.fail(f"no browser in {CHROMIUM}: apt-get install chromium, or set PGRUNBOOKS_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    """Return JupyterLab as a newcomer sees it, once for a module; every request has to stay on this machine."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(f"{lab.url}lab?reset&token={TOKEN}")  # a layout without what an earlier module had open
    expect(page.get_by_role("heading", name="Where to start")).to_be_visible()
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((lab.url, "data:", "blob:"))] == []


@pytest.fixture(scope="session")
def open_card() -> Callable[[Page, str], Locator]:
    """Return what opens a runbook or a walkthrough by its card in the launcher and returns its panel."""

    def open_card(page: Page, name: str) -> Locator:
        page.get_by_title("New Launcher", exact=True).click()
        page.locator(".jp-LauncherCard:visible", has_text=name).first.click()
        panel = page.locator(".jp-NotebookPanel:visible")
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
        return panel

    return open_card


@pytest.fixture(scope="session")
def open_runbook(open_card: Callable[[Page, str], Locator]) -> Callable[[Page, str], Locator]:
    """Return what opens a runbook, whose panel has a target picker."""

    def open_runbook(page: Page, name: str) -> Locator:
        panel = open_card(page, name)
        expect(panel.get_by_label("Target")).to_be_visible()
        return panel

    return open_runbook


@pytest.fixture(scope="session")
def run_all() -> Callable[[Locator], None]:
    """Return what runs every cell of a panel and waits until the last one is done."""

    def run_all(panel: Locator) -> None:
        panel.get_by_role("button", name="Run all", exact=True).click()
        last = panel.locator(".jp-CodeCell .jp-InputPrompt").last
        expect(last).to_have_text("[*]:")  # what was committed has its number from an earlier run
        expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=60_000)

    return run_all


@pytest.fixture(scope="session")
def shoot() -> Callable[[Page, str], Path]:
    """Return what keeps a picture of a page in the folder test-output."""
    OUTPUT.mkdir(exist_ok=True)

    def shoot(page: Page, name: str) -> Path:
        path = OUTPUT / f"{name}.png"
        page.screenshot(path=path)
        return path

    return shoot
