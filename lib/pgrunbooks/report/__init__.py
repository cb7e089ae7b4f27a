"""What a run looks like in a browser: one page of a notebook, and one page over all records.

Both are single files without scripts, and both forbid themselves every request to another host.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgrunbooks import display
from pgrunbooks.display import BUNDLE

if TYPE_CHECKING:
    from bs4 import Tag
    from nbformat import NotebookNode

SHOWN = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain")
WIDGET = "application/vnd.jupyter.widget-view+json"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
RECENT = 20  # runs of a target that the overview shows unfolded

_SEVERITY = ("critical", "unknown", "warning", "ok")
_UNWANTED = {"papermill-error-cell-tag", "injected-parameters", "remove-cell"}
_KEPT = re.compile(
    r"a|abbr|article|b|blockquote|br|caption|code|col|colgroup|dd|del|details|div|dl|dt|em|figcaption|figure|footer"
    r"|h[1-6]|hr|i|img|kbd|li|mark|ol|p|pre|s|samp|section|small|span|strong|sub|summary|sup|table|tbody|td|tfoot|th"
    r"|thead|tr|u|ul|var"
)
_EMPTIED = re.compile(r"script|style|iframe|object|embed|template|noscript|title|svg|math|link|meta|base|form")
_ATTRIBUTES = re.compile(r"alt|class|colspan|id|open|rowspan|scope|title")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?\s?(?:%|bytes|[kMGTP]B|ms|s|min|h|d)?|\u2013|nan|none|", re.I)


@dataclass(frozen=True)
class OverviewEntry:
    """One record: its document, the relative link to its page, and the findings that came and went with it."""

    document: Mapping[str, Any]
    href: str
    new: Sequence[Mapping[str, Any]] = ()
    healed: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Run:
    """One line of the overview."""

    when: str
    runbook: str
    status: str
    headline: str
    findings: int
    href: str | None
    new: Sequence[str]
    healed: Sequence[str]


@dataclass(frozen=True)
class Standing:
    """A finding of a target's newest runs: how bad, what it says, and since when it stands, where that is known."""

    severity: str
    title: str
    since: str | None


@dataclass(frozen=True)
class TargetRuns:
    """One target of the overview: its worst status, the newest run of each runbook, what these found, all runs."""

    name: str
    status: str
    newest: Sequence[Run]
    standing: Sequence[Standing]
    runs: Sequence[Run]


def render_report(
    notebook: NotebookNode, document: Mapping[str, Any], *, owner: str | None = None, cost: str | None = None
) -> str:
    """Return one HTML page: the verdict first, then the notebook's prose, pictures and tables, the code folded.

    The notebook's own verdict card (its last) is left out, since the document's stands on top. Nothing in the page runs
    or loads anything. ``notebook`` is not changed.
    """
    from nbconvert.exporters import HTMLExporter  # a quarter of a second that a run without a page does not pay
    from nbconvert.filters import strip_ansi

    question, prepared = _prepare(notebook)
    exporter = HTMLExporter(
        template_name="template", extra_template_basedirs=[str(Path(__file__).parent)], exclude_anchor_links=True,
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    exporter.register_filter("tidy", tidy)
    exporter.register_filter("last_line", _last_line)
    exporter.register_filter("plain", lambda text: display.printable(strip_ansi(text)))
    page = {
        "title": display.printable(f"{question or document['runbook']} \N{EN DASH} {document['target']}"),
        "policy": POLICY,
        "style": display.stylesheet(),
        "status": document["status"],
        "verdict": display.body(document, owner=owner),
        "footer": display.footer(document, cost=cost),
    }
    html, _ = exporter.from_notebook_node(prepared, resources={"page": page})
    return str(html)


def render_overview(entries: Sequence[OverviewEntry], incidents: Sequence[str] = ()) -> str:
    """Return one HTML page over many records, grouped by target, the newest first, with a link to each incident."""
    by_target: dict[str, list[OverviewEntry]] = {}
    for entry in sorted(entries, key=_started, reverse=True):
        by_target.setdefault(entry.document["target"], []).append(entry)
    targets = [_target(name, of_it) for name, of_it in by_target.items()]
    return _page("overview.html.j2", targets=targets, incidents=incidents, recent=RECENT, count=len(entries))


def render_timeline(incident: str, entries: Sequence[OverviewEntry]) -> str:
    """Return one HTML page with the runs of an incident in the order of time: what each said, what came, what went."""
    return _page("timeline.html.j2", incident=incident, runs=[_run(entry) for entry in sorted(entries, key=_started)])


def _page(template: str, **values: Any) -> str:
    return display.templates().get_template(template).render(style=display.stylesheet(), policy=POLICY, **values)


def tidy(html: str) -> str:
    """Return HTML of a notebook without anything active or foreign, its tables scrollable and numbers right-aligned.

    Styles, scripts, frames and forms go with their content, unknown tags leave theirs, and of images those that are
    data stay. The page's Content-Security-Policy is the second wall, not the only one.
    """
    from bs4 import BeautifulSoup
    from bs4.element import PreformattedString

    soup = BeautifulSoup(f"<div>{html}</div>", "html.parser")
    for comment in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        comment.extract()
    for tag in soup.find_all(True):
        if tag.decomposed:
            continue
        if _EMPTIED.fullmatch(tag.name):
            tag.decompose()
        elif not _KEPT.fullmatch(tag.name):
            tag.unwrap()
        else:
            tag.attrs = {name: value for name, value in tag.attrs.items() if _is_allowed(name, str(value))}
            if tag.name == "h1":
                tag.name = "h2"  # the page has one h1
            if tag.name == "img" and "src" not in tag.attrs:
                tag.replace_with(f"[{tag.get('alt') or 'picture'}]")
    for table in soup.find_all("table"):
        if not table.find_parent(class_="pgr"):
            _align(table)
            table.wrap(soup.new_tag("div", attrs={"class": "pgr-wide", "tabindex": "0"}))
    return display.printable(str(soup))


def _is_allowed(name: str, value: str) -> bool:
    if name == "href":
        return re.match(r"(https?://|mailto:|#)", value) is not None
    if name == "src":
        return value.startswith("data:image/")
    return _ATTRIBUTES.fullmatch(name) is not None


def _align(table: Tag) -> None:
    """Mark the columns of a plain table that hold numbers only."""
    rows = [row.find_all(["td", "th"], recursive=False) for row in table.find_all("tr")]
    for column in zip(*rows, strict=False):
        texts = [cell.get_text().strip() for cell in column if cell.name == "td"]
        if any(re.search(r"\d", text) for text in texts) and all(_NUMBER.fullmatch(text) for text in texts):
            for cell in column:
                cell["class"] = "pgr-n"


def _prepare(notebook: NotebookNode) -> tuple[str, NotebookNode]:
    """Return the notebook's question and a copy of which each cell says, in ``metadata.pgr``, how to show it."""
    copied = deepcopy(notebook)
    injected = next((cell.source for cell in copied.cells if "injected-parameters" in _tags(cell)), "")
    copied.cells = [cell for cell in copied.cells if not _UNWANTED & _tags(cell)]
    question = _take_question(copied)
    _hide_last_card(copied)
    heading = question
    for cell in copied.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *_HEADING.findall(cell.source)][-1]
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]
            cell.metadata["pgr"] = _code_view(cell, injected)
            for output in cell.outputs:
                for kind in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", ())):
                    output.metadata.setdefault(kind, {}).setdefault("alt", heading or "plot")
    return question, copied


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _take_question(notebook: NotebookNode) -> str:
    """Take the first heading out of the notebook, since it becomes the title of the page."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := _HEADING.search(cell.source)):
            cell.source = cell.source.replace(found[0], "", 1)
            return re.sub(r"[*`]", "", found[1])
    return ""


def _hide_last_card(notebook: NotebookNode) -> None:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    for output in reversed(outputs):
        if '<section class="pgr ' in str(output.get("data", {}).get("text/html", "")):
            link = '<p><a href="#verdict">The verdict stands on top.</a></p>'
            output.data = {"text/html": link}
            return


def _is_shown(output: NotebookNode) -> bool:
    """Leave out what is for machines, what needs a kernel, and what no page can show."""
    if output.output_type not in ("display_data", "execute_result"):
        return True
    return not {BUNDLE, WIDGET} & set(output.data) and any(kind in output.data for kind in SHOWN)


def _code_view(cell: NotebookNode, injected: str) -> dict[str, Any]:
    if "parameters" in _tags(cell) and (parameters := _parameters(cell.source, injected)):
        return {"parameters": parameters}
    label = "the query" if re.search(r"^\s*%%?sql\b", cell.source, re.MULTILINE) else "the code"
    unrun = ", not run" if cell.execution_count is None else ""
    return {"label": label + unrun}


def _last_line(error: NotebookNode) -> str:
    from nbconvert.filters import strip_ansi

    if error.get("ename"):
        return f"{error.ename}: {strip_ansi(error.get('evalue', ''))}".strip().removesuffix(":")
    lines = strip_ansi("\n".join(error.traceback)).strip().splitlines()
    return lines[-1] if lines else "unknown error"


def _parameters(source: str, injected: str) -> list[tuple[str, str, str]]:
    """Return name, value and comment of each parameter, the injected value winning; empty if unreadable."""
    try:
        defaults, given = _assignments(source), _assignments(injected)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        return []
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return [
        (name, (given.get(name) or defaults[name])[0], comments.get(defaults.get(name, ("", 0))[1], ""))
        for name in dict.fromkeys([*defaults, *given])
    ]


def _assignments(source: str) -> dict[str, tuple[str, int]]:
    """Return the literal that each name gets and the line on which it ends."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            name = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(name, ast.Name):
                found[name.id] = (ast.unparse(node.value), node.end_lineno or 0)
    return found


def _started(entry: OverviewEntry) -> datetime:
    return datetime.fromisoformat(entry.document["started_at"])


def _run(entry: OverviewEntry) -> Run:
    document = entry.document
    link = urlsplit(entry.href)
    return Run(
        when=display.when(document["started_at"]), runbook=document["runbook"], status=document["status"],
        headline=display.headline(document), href=None if link.scheme or link.netloc else entry.href,
        findings=sum(finding["severity"] != "info" for finding in document["findings"]),
        new=[display.printable(finding["title"]) for finding in entry.new],
        healed=[display.printable(finding["title"]) for finding in entry.healed],
    )  # fmt: skip


def _target(name: str, entries: Sequence[OverviewEntry]) -> TargetRuns:
    newest = list({entry.document["runbook"]: entry for entry in reversed(entries)}.values())[::-1]
    standing = {finding["id"]: finding for entry in newest for finding in entry.document["findings"]}
    return TargetRuns(
        name=name,
        status=min((entry.document["status"] for entry in newest), key=_SEVERITY.index),
        newest=[_run(entry) for entry in newest],
        standing=[_standing(finding) for finding in standing.values() if finding["severity"] != "info"],
        runs=[_run(entry) for entry in entries],
    )


def _standing(finding: Mapping[str, Any]) -> Standing:
    since = finding.get("first_seen")
    return Standing(finding["severity"], display.printable(finding["title"]), since and display.when(since))
