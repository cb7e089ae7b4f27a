"""Pages in Markdown, and what they promise: commands to run, snippets to try, links that lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^( *)```(\w+)(?: (\S+))?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


def blocks(page):
    """Return the blocks of code of a page: (kind, the file that it is for or None, text)."""
    return [(kind, name, text) for _, kind, name, text in _BLOCK.findall(page.read_text())]


def snippets(page, kind):
    return [text for it, _, text in blocks(page) if it == kind]


def commands(page):
    return [line for text in snippets(page, "sh") for line in text.splitlines()]


def prose(page):
    """Return a page without its code, which may hold anything."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text()))


def anchors(page):
    """Return the anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page):
    """Return the links of a page that lead nowhere; those to other hosts must be well-formed and https."""
    return [link for link in _LINK.findall(prose(page)) if not _leads_somewhere(page, link)]


def _leads_somewhere(page, link):
    if "://" in link:
        return is_https(link)
    name, _, anchor = link.partition("#")
    there = (page.parent / name).resolve() if name else page
    return there.exists() and (not anchor or anchor in anchors(there))


def is_https(url):
    parts = urlsplit(url)
    return (
        parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc) and not re.search(r"[\s<>]", url)
    )


def run(command, folder, *, timeout=110, **variables):
    """Run a line of a page in a folder, with the scripts of this interpreter first on the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    arguments = shlex.split(command)
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def write_targets(folder, sandbox):
    """Write the targets file that the commands of the pages expect, with a sandbox for production."""
    weekly = {"runbook": "growth_report", "targets": ["prod"], "cron": "0 6 * * 1"}
    content = {"targets": {"prod": {"dsn": sandbox.url()}}, "schedule": [weekly]}
    (folder / "targets.yml").write_text(json.dumps(content))


def expected_status(command):
    """Return how a command of the pages ends on a healthy server, asked as a superuser, beside a drill that is critical."""
    if "doctor" in command and "--script" not in command:
        return 1  # a superuser is more than pgrunbooks should be
    return 2 if "--target sandbox" in command and " my." not in command else 0
