"""How ``pgrunbooks lab`` starts JupyterLab and ends with all that it started; what it looks like is in tests/browser."""

import contextlib
import json
import signal
import socket
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import pytest

from lab_server import TOKEN, running_lab
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.jupyterlab import command, workspace
from pgrunbooks.jupyterlab.server import pages
from pgrunbooks.record import runbooks
from pgrunbooks.workspace import make_workspace

ROOT = Path(__file__).parents[1]


class TestTheWorkspace:
    def test_is_the_folder_of_the_targets_file_else_the_checkout(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert workspace() == ROOT
        make_workspace(tmp_path / "mine")
        (tmp_path / "mine" / "further" / "down").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "mine" / "further" / "down")
        assert workspace() == tmp_path / "mine"

    def test_of_an_installed_package_is_made_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "targets.yml").write_text("targets: {}")
        monkeypatch.setattr("pgrunbooks.jupyterlab.shipped", lambda _: ROOT / "lib" / "pgrunbooks" / "runbooks")
        with pytest.raises(
            ConfigurationError, match=r"no runbooks beside .*targets\.yml; 'pgrunbooks init my-runbooks'"
        ):
            workspace()

    def test_has_every_notebook_as_a_card_the_pager_s_first(self):
        cards = list(pages(ROOT))
        assert cards[0]["path"] == "runbooks/troubleshooting.ipynb"
        told = {card["path"]: card["title"] for card in cards}
        assert {f"runbooks/{name}.ipynb": it.question for name, it in runbooks().items()}.items() <= told.items()
        assert {str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/*.ipynb")} <= told.keys()

    def test_shows_a_notebook_that_cannot_be_read_by_its_name(self, tmp_path):
        (tmp_path / "runbooks").mkdir()
        (tmp_path / "runbooks" / "half_written.ipynb").write_text('{"cells": [')
        assert [card["title"] for card in pages(tmp_path)] == ["Half written"]

    def test_that_cannot_be_written_to_is_refused(self, tmp_path):
        (tmp_path / ".lab").write_text("in the way")
        with pytest.raises(ConfigurationError, match=r"\.lab: cannot be written"):
            command(tmp_path, ())

    def test_tells_scheduled_jobs_where_the_targets_are(self, tmp_path, monkeypatch):
        make_workspace(tmp_path)
        monkeypatch.chdir(tmp_path)
        assert command(tmp_path, ())[1]["PGRUNBOOKS_TARGETS"] == str(tmp_path / "targets.yml")


def ask(url, path, body=None):
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode() if body else None)
    request.add_header("Authorization", f"token {TOKEN}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def ask_in_vain(*arguments):
    with pytest.raises((OSError, HTTPException)):
        ask(*arguments)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_with_its_kernels_and_runs(number, tmp_path):
    make_workspace(tmp_path / "workspace")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} connect_timeout=60"
        (tmp_path / "workspace" / "targets.yml").write_text(json.dumps({"targets": {"silent": {"dsn": dsn}}}))
        runbook = tmp_path / "workspace" / "runbooks" / "lock_analysis.ipynb"
        runbook.write_text(runbook.read_text().replace('target: str = \\"sandbox\\"', 'target: str = \\"silent\\"'))
        with running_lab(tmp_path) as lab:
            kernel = ask(lab.url, "api/kernels", {"name": "python3"})["id"]
            run = threading.Thread(target=ask_in_vain, args=(lab.url, "pgrunbooks/records", {"path": runbook.name}))
            run.start()
            with silent.accept()[0]:  # the run has come as far as its target, which does not answer
                started = processes(kernel, f"{lab.workspace}/records")
                lab.process.send_signal(number)
                assert lab.process.wait(timeout=30) == 0
                run.join()
                assert len(started) == 2
                wait_for(lambda: processes(kernel, f"{lab.workspace}/records") == [])


def processes(*words):
    """Return the command lines of all processes that name one of the words."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines.append(path.read_text())
    return [line for line in lines if any(word in line for word in words)]


def test_the_start_page_names_every_runbook_with_its_question_and_links_to_it():
    text = (ROOT / "notebooks" / "start.md").read_text()
    for name, runbook in runbooks().items():
        assert f"| [{name}](../runbooks/{name}.ipynb) | {runbook.question} |" in text
