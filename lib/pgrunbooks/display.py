"""How a verdict looks: a card in a notebook and in the report, lines in a terminal, all from one document.

The document is what findings.json holds. Names and query texts in it come from the database that has trouble:
nothing of it reaches a page or a terminal but through ``printable``, and a page gets it escaped as well.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console

Document: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = dict[str, Any]
Story: TypeAlias = tuple[Finding, list[Finding]]

# The MIME type under which a notebook carries its findings.json: for runners, never shown.
BUNDLE = "application/vnd.pgrunbooks.findings+json"
# Files that a cell leaves for the record: {name: text}.
FILES = "application/vnd.pgrunbooks.files+json"
ROWS = 10  # of evidence shown; the rest is counted
WIDTH = 120  # of a query before it is cut in the middle
TABLE_ROWS, TABLE_WIDTH = 100, 400  # the same for a table in a notebook, which is asked for
WHOLE = 100_000  # characters of a query on demand; a page must still open on a phone
CODES = 6  # checks named in one line before they are folded
_COLOURS = {"critical": "bold red", "warning": "bold yellow", "unknown": "bold reverse"}

# C0 without tab and newline, DEL, C1, marks that turn or hide text, line separators, lone surrogates, tags
_DECEIVING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)")
_NUMBERED = re.compile(r"(^|_)(pids?|id|oid|xid|xmin|port|lsn|version|queryid|filenode|blocked_by)$")
_NAMED = re.compile(
    r"(^|_)(query|sql|statement|definition|name|relation|table|index|slot|role|user|usename|database|schema|column"
    r"|constraint|object|client|application|gid|lock|mode|setting|file|path)$"
)


# ---- words and units -------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Return seconds in the two units that matter: '740 ms', '6.2 s', '12 min', '3 h 5 min', '4 d 2 h'."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        return f"{_short(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{_short(seconds)} s"
    if seconds < 599.5:
        return _two(round(seconds), 60, "min", "s")
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    return _two(minutes, 60, "h", "min") if minutes < 1440 else _two(hours, 24, "d", "h")


def size(count: float) -> str:
    """Return bytes in powers of 1024 with PostgreSQL's unit names: '512 bytes', '8 kB', '1.4 GB'."""
    if not math.isfinite(count):
        return str(count)
    units = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while abs(count) >= 1023.5 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{_short(count)} {units[0]}"


def cut(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` characters, the middle left out: 'select ... for update'."""
    if len(text) <= width:
        return text
    kept = max(width - 5, 2)
    return f"{text[: kept - kept // 2].rstrip()} ... {text[-(kept // 2) :].lstrip()}"


def printable(text: str) -> str:
    r"""Return ``text`` with what could fool a terminal or a reader written out: ``\x1b``, ``\u202e``."""
    return _DECEIVING.sub(lambda match: ascii(match[0])[1:-1], text)


def when(moment: str) -> str:
    """Return an ISO time as 'YYYY-MM-DD HH:MM UTC'; one without a zone is taken for UTC."""
    read = datetime.fromisoformat(moment)
    read = read if read.tzinfo else read.replace(tzinfo=UTC)
    return f"{read.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _short(number: float) -> str:
    text = f"{number:.1f}" if abs(number) < 99.95 else f"{number:.0f}"
    return text.removesuffix(".0")


def _two(count: int, step: int, large: str, small: str) -> str:
    whole, rest = divmod(count, step)
    return " ".join(f"{number} {unit}" for number, unit in ((whole, large), (rest, small)) if number)


def _percent(share: float) -> str:
    return f"{_short(share * 100)}%"


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def _line(text: object) -> str:
    return " ".join(printable(str(text)).split())


# ---- what a document says ----------------------------------------------------------------------------------------


def stories(document: Document) -> list[Story]:
    """Return each root cause with everything that follows from it, in document order, each finding once.

    A root names no cause of this document. Findings that only name one another are a story of the first of them.
    """
    findings: list[Finding] = list(document["findings"])
    known = {finding["id"] for finding in findings}
    roots = [finding for finding in findings if not (set(finding["caused_by"]) & known - {finding["id"]})]
    told: set[str] = set()
    result = []
    for root in [*roots, *findings]:
        if root["id"] in told:
            continue
        story, before = {root["id"]}, 0
        while before < len(story):
            before = len(story)
            story |= {each["id"] for each in findings if story & set(each["caused_by"])} - told
        told |= story
        result.append((root, [each for each in findings if each["id"] in story and each is not root]))
    return result


def summary(document: Document) -> str:
    """Return one sentence for a document without a story: what was asked and that it is well, or why not."""
    if document["status"] == "unknown":
        return f"This could not be judged: {_line(document.get('reason') or 'no reason was recorded')}"
    asked = [check["code"] for check in document["checks"] if check["outcome"] in ("ok", "found")]
    if not asked:
        return "No check could be asked." if document["checks"] else "This runbook asks no checks."
    return f"{_count(len(asked), 'check')} asked of {_areas(asked)}; all of it is well."


def headline(document: Document) -> str:
    """Return the title of the first root cause; where there is none, the summary."""
    told = _grave(document)
    return _line(told[0][0]["title"]) if told else summary(document)


def _areas(codes: Iterable[str]) -> str:
    from pgrunbooks.check import rules

    known = rules()
    areas = list(dict.fromkeys(known[code].area if code in known else "other areas" for code in codes))
    return " and ".join(filter(None, (", ".join(areas[:-1]), areas[-1])))


def _grave(document: Document) -> list[Story]:
    """Return the stories in which somebody has to act."""
    return [story for story in stories(document) if not _is_note(story)]


def _notes(document: Document) -> list[Finding]:
    return [finding for root, effects in filter(_is_note, stories(document)) for finding in (root, *effects)]


def _is_note(story: Story) -> bool:
    return all(finding["severity"] == "info" for finding in (story[0], *story[1]))


def _healed(finding: Finding, root: Finding) -> bool:
    """Tell whether a symptom's first statement is the root's, which stands above it already."""
    first, above = ([remedy.get("sql") for remedy in each["remedies"][:1]] for each in (finding, root))
    return finding is not root and first == above and first not in ([], [None])


def _deeper(document: Document, finding: Finding) -> str | None:
    """Return the command that runs the deeper page of a finding, its parameters filled in, if there is another page."""
    runbook, thing = finding.get("runbook"), finding["object"]
    if not runbook or runbook == document["runbook"]:
        return None
    words = ["pgrunbooks", "run", runbook, "--target", document["target"]]
    if database := document["parameters"].get("database"):
        words += ["--database", database]
    if runbook == "lock_analysis" and thing["kind"] == "pid":
        words += ["-p", "pid", thing["name"]]
    return shlex.join(words)


def _gaps(document: Document) -> list[tuple[str, str, list[str]]]:
    """Return what was not looked at, one entry a reason: 'failed' or 'skipped', reason, codes; failed ones first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for check in sorted(document["checks"], key=lambda check: str(check["outcome"])):
        if check["outcome"] in ("failed", "skipped"):
            reason = _line(check.get("reason") or "no reason was recorded")
            groups.setdefault((check["outcome"], reason), []).append(check["code"])
    return [(outcome, reason, codes) for (outcome, reason), codes in groups.items()]


def _gap_count(document: Document) -> str:
    outcomes = [check["outcome"] for check in document["checks"]]
    counts = [(outcomes.count(outcome), outcome) for outcome in ("failed", "skipped")]
    return ", ".join(f"{_count(count, 'check')} {outcome}" for count, outcome in counts if count)


def _server(document: Document) -> list[str]:
    """Return what the status line says beside status and target: version and role, when, how long it took."""
    started, finished = (datetime.fromisoformat(document[key]) for key in ("started_at", "finished_at"))
    words = [when(document["started_at"]), f"took {duration((finished - started).total_seconds())}"]
    if not (server := document.get("server")):
        return ["no server reached", *words]
    number = re.search(r"\d[\w.]*", server["version"])
    role = "standby" if server["in_recovery"] else "primary"
    return [f"PostgreSQL {number[0] if number else server['version']}, {role}", *words]


def _facts(document: Document, cost: str | None) -> list[tuple[str, str]]:
    """Return the lines of the footer: a label and its values."""
    asked = [document["runbook"], f"pgrunbooks {document['tool_version']}"]
    if server := document.get("server"):
        asked.append(f"PostgreSQL {server['version'].removeprefix('PostgreSQL ')}")
        asked += [f"database {server['database']}", f"role {server['role']}"]
    limits = [f"{code} {name} = {value}" for code, own in document["limits_overridden"].items()
              for name, value in own.items()]  # fmt: skip
    ignored = [f"{each['id']}: {each['why']}" + (f" (until {each['until']})" if each.get("until") else "")
               for each in document["ignored"]]  # fmt: skip
    parameters = [f"{name} = {_value(name, value)}" for name, value in document["parameters"].items()]
    facts = {"Run": asked, "Cost on the server": [cost] if cost else [], "Parameters": parameters,
             "Limits of this target": limits, "Ignored": ignored}  # fmt: skip
    return [(label, ", ".join(map(_line, values))) for label, values in facts.items() if values]


def _remedy_notes(remedy: Mapping[str, Any]) -> list[str]:
    notes = ["no risk" if remedy["risk"] == "none" else f"{remedy['risk']} risk"]
    return notes + ([f"locks: {_line(remedy['locks'])}"] if remedy.get("locks") else [])


# ---- the rows of the evidence ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One value of the evidence: its text on one line, the whole text where that is cut, and how it is set."""

    text: str
    whole: str | None = None
    is_number: bool = False
    is_name: bool = False
    depth: int = 0


def evidence(finding: Finding) -> tuple[list[Cell], list[list[Cell]]]:
    """Return header and at most ten rows; ``depth``, the level in a lock tree, indents the first column instead."""
    rows = finding["evidence"][:ROWS]
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "depth"]
    return _cells(keys, rows, tree=keys[0] if rows and "depth" in rows[0] and keys else None)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table set like the evidence: units by the column's name, a long text whole on demand.

    At most a hundred rows are shown and the rest is counted; where there is none, the table says so.
    """
    head, cells = _cells(columns, rows[:TABLE_ROWS], width=TABLE_WIDTH)
    return templates().get_template("table.html.j2").render(head=head, rows=cells, more=len(rows) - len(cells)).strip()


def _cells(
    keys: Sequence[str], rows: Sequence[Mapping[str, Any]], tree: str | None = None, width: int = WIDTH
) -> tuple[list[Cell], list[list[Cell]]]:
    numbers = {key for key in keys if _is_number(key, [row.get(key) for row in rows])} - {tree}
    head = [Cell(_header(key)[0], is_number=key in numbers) for key in keys]
    return head, [[_cell(key, row, key in numbers, key == tree, width) for key in keys] for row in rows]


def _cell(key: str, row: Mapping[str, Any], is_number: bool, in_tree: bool, width: int) -> Cell:
    text = _value(key, row.get(key))
    flat = _line(text)
    return Cell(
        text=cut(flat, width), whole=cut(text, WHOLE) if len(flat) > width else None, is_number=is_number,
        is_name=bool(_NAMED.search(key) or _NUMBERED.search(key)),
        depth=min(row.get("depth") or 0, 20) if in_tree else 0,
    )  # fmt: skip


def _header(key: str) -> tuple[str, Callable[[float], str] | None]:
    """Return a column's words and how its numbers are written: ``retained_bytes`` is 'retained' in sizes."""
    units = {"bytes": size, "ms": lambda ms: duration(ms / 1000), "s": duration, "share": _percent}
    words, _, unit = key.rpartition("_")
    if unit in units and (words or unit in ("bytes", "share")):
        return words.replace("_", " ") or unit, units[unit]
    return key.replace("_", " "), None


def _is_number(key: str, values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and not _NUMBERED.search(key) and all(type(value) in (int, float) for value in known)


def _value(key: str, value: object) -> str:
    write = _header(key)[1]
    match value:
        case None:
            return "\N{EN DASH}"
        case bool():
            return "yes" if value else "no"
        case int() | float() if write:
            return write(value)
        case int():
            return str(value) if _NUMBERED.search(key) else f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case str():
            return when(value) if _MOMENT.fullmatch(value) else value
        case list() | tuple():
            return ", ".join(_value(key, each) for each in value)
        case dict():
            return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


# ---- card and terminal -------------------------------------------------------------------------------------------


@cache
def stylesheet() -> str:
    """Return verdict.css."""
    return resources.files("pgrunbooks").joinpath("verdict.css").read_text(encoding="utf-8")


def card_style() -> str:
    """Return the part of verdict.css that a card needs."""
    return stylesheet().partition("/* pages */")[0].strip()


@cache
def templates() -> Environment:
    """Return the templates of card and overview: what they print is escaped and passes through ``printable``."""
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "report" / "template"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """A sentence as a cell's output, where there is nothing else to show."""

    text: str

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        html = templates().from_string("<p>{{ text }}</p>").render(text=self.text)
        return {"text/html": html, "text/plain": printable(self.text)}


def card(document: Document, *, owner: str | None = None, cost: str | None = None) -> str:
    """Return the verdict as an HTML fragment with its own style; ``cost`` is what the run cost the server, in words."""
    return _card(document, "card", owner, cost).strip()


def body(document: Document, *, owner: str | None = None) -> str:
    """Return the card without its style and footer."""
    return _card(document, "body", owner)


def footer(document: Document, *, cost: str | None = None) -> str:
    """Return the last lines of the card: who asked, with which parameters and limits, at what cost, what is ignored."""
    return _card(document, "footer", cost=cost)


def _card(document: Document, part: str, owner: str | None = None, cost: str | None = None) -> str:
    return templates().get_template("card.html.j2").render(
        part=part, document=document, owner=owner, style=card_style(),
        told=_grave(document), notes=_notes(document), gaps=_gaps(document), gap_count=_gap_count(document),
        server=_server(document), summary=summary(document), facts=_facts(document, cost), codes=CODES,
        evidence=evidence, healed=_healed, deeper=partial(_deeper, document), remedy_notes=_remedy_notes, when=when,
        count=_count, cut=cut,
    )  # fmt: skip


def plain(document: Document) -> str:
    """Return the verdict in a few lines of plain text."""
    told = _grave(document)
    lines = [f"{document['status'].upper()}  {' · '.join([_line(document['target']), *_server(document)])}"]
    if not told or document["status"] == "unknown":
        lines.append(summary(document))
    lines += [f"{_line(root['title'])}. {_line(root['impact'])}" for root, _ in told]
    return "\n".join(filter(None, [*lines, _gap_count(document)]))


def terminal(document: Document, console: Console, *, owner: str | None = None, cost: str | None = None) -> None:
    """Print the verdict for a terminal: SQL stands on lines of its own, unbroken, so that it can be copied."""
    say = partial(_say, console)
    told = _grave(document)
    say(" · ".join([document["target"], *_server(document)]), word=document["status"])
    if owner:
        say(f"Owner: {owner}", style="dim")
    console.print()
    if not told or document["status"] == "unknown":
        say(summary(document))
    for root, _ in told if len(told) > 1 else ():  # a single root stands right below, in full
        say(f"{_line(root['title'])}. {_line(root['impact'])}")
    for root, effects in told:
        _tell(console, document, root)
        for effect in effects:
            _tell(console, document, effect, 4, healed=_healed(effect, root))
    console.print()
    for note in _notes(document):
        say(note["title"], word=note["severity"])
    for outcome, reason, codes in _gaps(document):
        which = ", ".join(codes) if len(codes) <= CODES else _count(len(codes), "check")
        say(f"{which}: {reason}", word=outcome)
    for label, values in _facts(document, cost):
        say(f"{label}: {values}", style="dim")


def _tell(console: Console, document: Document, finding: Finding, indent: int = 0, *, healed: bool = False) -> None:
    """Print a finding with its first remedy, unless that one heals its root too and stands above."""
    say = partial(_say, console)
    console.print()
    say(finding["title"], indent, "bold", finding["severity"])
    say(finding["impact"], indent + 2)
    say(f"{finding['code']}, {finding['object']['kind']} {finding['object']['name']}", indent + 2, "dim")
    first, *further = finding["remedies"] or [None]
    if first and not healed:
        say(f"{first['title']} ({', '.join(_remedy_notes(first))})", indent + 2)
        if first.get("sql"):
            _put(console, f"\n{printable(first['sql'])}")
        if first.get("undo"):
            say(f"undo: {first['undo']}", indent + 2, "dim")
    if further:
        say(f"further: {'; '.join(remedy['title'] for remedy in further)}", indent + 2, "dim")
    if command := _deeper(document, finding):
        _put(console, f"{' ' * (indent + 2)}deeper: {_line(command)}", "dim")


def _say(console: Console, text: str, indent: int = 0, style: str = "", word: str = "") -> None:
    """Print words folded to the width, after a status or a severity where there is one."""
    from rich.text import Text

    badge = (word.upper() + "  ", _COLOURS.get(word, "bold")) if word else ""
    whole = Text.assemble(badge, (_line(text), style))
    for number, line in enumerate(whole.wrap(console, max(console.width - indent - 2, 20))):
        line.rstrip()
        console.print(Text(" " * (indent + (2 if word and number else 0))) + line, soft_wrap=True, highlight=False)


def _put(console: Console, text: str, style: str = "") -> None:
    """Print a text as it is, however long its lines."""
    console.print(text, style=style, markup=False, emoji=False, soft_wrap=True, highlight=False)
