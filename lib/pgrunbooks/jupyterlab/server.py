"""What the page in JupyterLab asks its server: which pages there are, which targets, and a run into a record."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.application import ExtensionApp
from tornado.web import HTTPError, authenticated

from pgrunbooks.display import card_style, headline
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.record import runbooks
from pgrunbooks.targets import target_names

_FIRST = "troubleshooting"  # what one opens while the pager rings


def pages(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the runbooks and walkthroughs below a folder as path, label and title, in the order of their cards."""
    paths = sorted(folder.glob("runbooks/*.ipynb"), key=lambda path: (path.stem != _FIRST, path.stem))
    for path in (*paths, *sorted(folder.glob("notebooks/*.ipynb"))):
        label = path.stem.replace("_", " ").capitalize()
        yield {"path": str(path.relative_to(folder)), "label": label, "title": _title(path) or label}


def _title(path: Path) -> str | None:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
    except (OSError, ValueError, LookupError, TypeError):
        return None  # JupyterLab says what is wrong with it when it is opened


class _Handler(APIHandler):
    @property
    def folder(self) -> Path:
        return Path(self.settings["server_root_dir"]).expanduser().resolve()


class Pages(_Handler):
    """The cards of the launcher."""

    @authenticated
    def get(self) -> None:
        """Answer with the pages of the workspace as they are now."""
        self.finish({"pages": list(pages(self.folder))})


class Style(_Handler):
    """The stylesheet: the verdict's own too, since a notebook that is not trusted yet loses what its cells carry."""

    @authenticated
    def get(self) -> None:
        """Answer with CSS."""
        own = (Path(__file__).parent / "lab.css").read_text(encoding="utf-8")
        self.finish(f"{card_style()}\n{own}", set_content_type="text/css")


class Targets(_Handler):
    """The choices of the target picker."""

    @authenticated
    def get(self) -> None:
        """Answer with the names in the targets file as it is now; 400 with the reason where it cannot be read."""
        try:
            self.finish({"targets": target_names()})
        except ConfigurationError as error:
            self.set_status(400)
            self.finish({"message": str(error)})


class Records(_Handler):
    """Runs of a runbook with the parameters that stand in its page, each a ``pgrunbooks run`` of its own."""

    @authenticated
    async def post(self) -> None:
        """Run a runbook as it was saved and answer with status, headline and the report's path; 400 says why not."""
        name = Path((self.get_json_body() or {}).get("path", "")).stem
        try:
            target = runbooks()[name].parameters["target"].default
        except ConfigurationError as error:
            raise HTTPError(400, str(error)) from None
        except KeyError:
            raise HTTPError(400, f"{name} is no runbook with a target") from None
        out = self.folder / "records"
        command = [sys.executable, "-m", "pgrunbooks", "run", name, "--target", target, "--out", str(out)]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        running: set[Process] = self.settings["pgrunbooks_running"]
        running.add(process)
        try:
            output, errors = (text.decode().strip().splitlines() for text in await process.communicate())
        finally:
            running.discard(process)
        if not output:
            raise HTTPError(400, (errors or [f"ended with status {process.returncode}"])[-1])
        page = Path(output[-1])
        document = json.loads((page.parent / "findings.json").read_text(encoding="utf-8"))
        told = {"status": document["status"], "headline": headline(document)}
        self.finish({**told, "page": str(page.relative_to(self.folder))})


class Workspace(ExtensionApp):
    """The extension of the Jupyter server, which ``pgrunbooks lab`` enables."""

    name = "pgrunbooks"

    def initialize_handlers(self) -> None:
        """Answer below /pgrunbooks."""
        answers = {"pages": Pages, "style.css": Style, "targets": Targets, "records": Records}
        self.handlers.extend((f"pgrunbooks/{path}", handler) for path, handler in answers.items())

    def initialize_settings(self) -> None:
        """Keep the runs that are under way, so that they end with the server, and end it by Ctrl-C as by SIGTERM.

        Jupyter would ask first in a terminal, and without one leave everything that it started behind.
        """
        self.settings["pgrunbooks_running"] = set()
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))

    async def stop_extension(self) -> None:
        """End the runs that are under way; an interrupted run leaves nothing half written."""
        for process in list(self.settings["pgrunbooks_running"]):
            process.terminate()
            await process.wait()


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": __name__, "app": Workspace}]
