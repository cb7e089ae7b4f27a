"""The archive: all records below one folder, read over time: what is new, what healed, what stands since when."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.report import OverviewEntry, render_overview, render_timeline

STAMP = "%Y%m%dT%H%M%SZ"
_FOLDER = re.compile(r"(\d{8}T\d{6}Z)-\w+")
_INCIDENT = re.compile(r"[\w.-]{1,100}")
_ABANDONED_S = 86400.0
_ASIDE = ".aside"

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """What one run left behind: the folder, and the document in its findings.json."""

    folder: Path
    document: Document

    @property
    def page(self) -> Path:
        """Return the file that a person opens first."""
        report = self.folder / "report.html"
        return report if report.exists() else self.folder / "findings.json"


def records(out: Path, target: str = "*") -> Iterator[Record]:
    """Yield the records below ``out``, the newest first; what is no record, or cannot be read, is passed over."""
    folders = [path for path in out.glob(f"{target}/*") if _FOLDER.fullmatch(path.name)]
    for folder in sorted(folders, key=lambda path: path.name, reverse=True):
        with contextlib.suppress(OSError, ValueError):
            document = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
            if isinstance(document, dict) and document.get("schema_version") == 1:
                yield Record(folder, document)


def with_first_seen(document: Document, earlier: Iterable[Document]) -> dict[str, Any]:
    """Return a document whose findings say since when they stand; ``earlier`` are the target's, newest first.

    A finding's series goes on through runs that did not ask its check. Without earlier records it is None.
    """
    before, any_before = _last_asked(document, earlier)
    findings = []
    for finding in document["findings"]:
        since = document["started_at"] if any_before else None
        last = before.get(finding["code"], {}).get(finding["id"])
        if last:
            since = last[0]["first_seen"] or last[1]["started_at"]
        findings.append({**finding, "first_seen": since})
    return {**document, "findings": findings}


@dataclass(frozen=True)
class Changes:
    """What a run says otherwise than the runs before it: the findings that came and those that went."""

    new: Sequence[Document] = ()
    healed: Sequence[Document] = ()


def changes(document: Document, earlier: Iterable[Document]) -> Changes:
    """Compare a run with the last one that asked the same checks; without one nothing is new.

    ``earlier`` are the documents of the target's runs before, newest first. Info counts for nothing.
    """
    before, _ = _last_asked(document, earlier)
    now = {finding["id"] for finding in document["findings"]}
    known = {id for findings in before.values() for id in findings}
    came = [it for it in document["findings"] if it["code"] in before and it["id"] not in known]
    went = [finding for found in before.values() for id, (finding, _) in found.items() if id not in now]
    return Changes([it for it in came if it["severity"] != "info"], [it for it in went if it["severity"] != "info"])


def write_overview(out: Path) -> Path:
    """Rebuild ``out/index.html`` and the timeline of each incident from the records below ``out``; return its path."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    by_target: dict[str, list[Record]] = {}
    for record in records(out):
        by_target.setdefault(record.document["target"], []).append(record)
    for runs in by_target.values():
        for number, record in enumerate(runs):
            compared = changes(record.document, (it.document for it in runs[number + 1 :]))
            href = record.page.relative_to(out).as_posix()
            entries.append(OverviewEntry(record.document, href, compared.new, compared.healed))
    incidents = []
    for path in sorted(out.glob("incident-*.json")):
        name = path.stem.removeprefix("incident-")
        folders = set(_incident_folders(path))
        runs_of_it = [entry for entry in entries if entry.href.rpartition("/")[0] in folders]
        if runs_of_it:
            _write(out / f"incident-{name}.html", render_timeline(name, runs_of_it))
            incidents.append(name)
    return _write(out / "index.html", render_overview(entries, incidents))


def note_incident(out: Path, incident: str, folder: Path) -> None:
    """Add a record to the timeline of an incident."""
    path = out / f"incident-{incident}.json"
    with (out / ".incidents.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folders = _incident_folders(path)
        _write(path, json.dumps([*folders, folder.relative_to(out).as_posix()], indent=2) + "\n")


def check_incident(incident: str) -> None:
    """Raise ConfigurationError for a name that cannot be part of a file's name."""
    if not _INCIDENT.fullmatch(incident):
        raise ConfigurationError(f"--incident: needs letters, digits, '.', '_' and '-', got {incident!r}")


def prune(out: Path, older_than_s: float, now: datetime.datetime) -> int:
    """Remove the records below ``out`` that began longer ago than that, and what killed runs left; return how many."""
    removed = 0
    for folder in out.glob("*/*"):
        named = _FOLDER.fullmatch(folder.name)
        if named and (folder / "findings.json").exists():
            began = datetime.datetime.strptime(named[1], STAMP).replace(tzinfo=datetime.UTC)
            if (now - began).total_seconds() > older_than_s:
                shutil.rmtree(folder)
                removed += 1
    for left in [*out.glob("*/.*.partial"), *out.glob(f"{_ASIDE}*")]:
        if now.timestamp() - left.stat().st_mtime > _ABANDONED_S:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return removed


def _last_asked(
    document: Document, earlier: Iterable[Document]
) -> tuple[dict[str, dict[str, tuple[Document, Document]]], bool]:
    """Return, for each check that the run asked, what its last earlier asking found: code -> id -> (finding, run).

    And whether there was any earlier run of the same database at all.
    """
    wanted = _asked(document)
    found: dict[str, dict[str, tuple[Document, Document]]] = {}
    any_before = False
    for run in earlier:
        if not _same_database(run, document):
            continue
        any_before = True
        for code in (_asked(run) & wanted) - set(found):
            found[code] = {it["id"]: (it, run) for it in run["findings"] if it["code"] == code}
        if set(found) == wanted:
            break
    return found, any_before


def _asked(document: Document) -> set[str]:
    return {check["code"] for check in document["checks"] if check["outcome"] in ("ok", "found")}


def _same_database(one: Document, other: Document) -> bool:
    if not one["server"] or not other["server"]:
        return False
    keys = ("system_identifier", "database")
    return all(one["server"][key] == other["server"][key] for key in keys)


def _incident_folders(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return [str(folder) for folder in json.loads(path.read_text(encoding="utf-8"))]
    return []


def _write(path: Path, text: str) -> Path:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=_ASIDE, delete=False, encoding="utf-8") as aside:
        try:
            aside.write(text)
            aside.flush()
        except OSError:
            Path(aside.name).unlink()
            raise
    Path(aside.name).chmod(0o644)
    return Path(aside.name).replace(path)
