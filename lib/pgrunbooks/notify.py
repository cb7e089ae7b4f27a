"""Notifications: what a scheduled run tells people, through the services whose URLs stand in targets.yml."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pgrunbooks.archive import Document, Record, changes
from pgrunbooks.display import cut, headline, printable, when
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.schedule import Line
from pgrunbooks.targets import expand

_WORST = 5
_TITLE_WIDTH = 150
_TYPES = {"ok": "success", "warning": "warning", "critical": "failure", "unknown": "warning"}


def notify(line: Line, record: Record, earlier: Iterable[Document]) -> Iterator[str]:
    """Send a record's message to each service of a line of the schedule; yield a sentence for each that failed.

    ``earlier`` are the documents of the same target and runbook before, newest first. A failure is a sentence, never
    an exception, and leaves the exit status alone: the record is written, the status is the database's, and a scheduler
    that tried again for the sake of a mail would ask the database again. The sentence names the service by its place in
    targets.yml, since its URL holds the secret.
    """
    if not line.entry.notify:
        return
    title, body = message(record, earlier)
    for index, url in enumerate(line.entry.notify):
        problem = _send(url, f"{line.key}.notify.{index}", title, body, record)
        if problem:
            yield problem


def message(record: Record, earlier: Iterable[Document]) -> tuple[str, str]:
    """Return title and text: the verdict, the worst findings, what came and went since the last report, where it is."""
    document, before = record.document, list(earlier)
    title = f"{document['status'].upper()} {document['target']}: {headline(document)}"
    grave = [it for it in document["findings"] if it["severity"] != "info"]
    compared = changes(document, before)
    last = f" since the report of {when(before[0]['started_at'])}" if before else ""
    parts = [
        [f"{document['runbook']} on {document['target']}, {when(document['started_at'])}: {document['status'].upper()}",
         headline(document)],
        [text for finding in grave[:_WORST] for text in _finding(finding)],
        [f"and {len(grave) - _WORST} more"] if len(grave) > _WORST else [],
        _titles(f"New{last}:", compared.new),
        _titles(f"Healed{last}:", compared.healed),
        [f"Record: {socket.gethostname()}:{record.page.absolute()}"],
    ]  # fmt: skip
    text = "\n\n".join("\n".join(map(printable, part)) for part in parts if part)
    return cut(printable(title), _TITLE_WIDTH), text


def _finding(finding: Document) -> list[str]:
    said = [f"{finding['severity'].upper()}  {_one_line(finding['title'])}"]
    return said + [f"    first: {_one_line(remedy['title'])}" for remedy in finding["remedies"][:1]]


def _titles(heading: str, findings: Iterable[Document]) -> list[str]:
    titles = [_one_line(finding["title"]) for finding in findings]
    more = [f"- and {len(titles) - _WORST} more"] if len(titles) > _WORST else []
    return [heading, *(f"- {title}" for title in titles[:_WORST]), *more] if titles else []


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _send(url: str, key: str, title: str, body: str, record: Record) -> str | None:
    """Send one message; return what went wrong, in one line without the URL."""
    import apprise  # a third of a second that only a run with something to send pays

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines may name an address or a token
    try:
        service = apprise.Apprise.instantiate(expand(url, key))
    except ConfigurationError as error:
        return f"could not notify: {error}"
    if service is None:
        return f"{key}: could not notify: Apprise knows no service with such a URL"
    sender = apprise.Apprise()
    sender.add(service)
    sent, why = False, "'apprise -vv --body test URL' says why"
    try:
        result = sender.notify(
            body, title, notify_type=apprise.NotifyType(_TYPES[record.document["status"]]),
            body_format=apprise.NotifyFormat.TEXT, attach=_attachment(service, record.page),
        )  # fmt: skip
        sent = bool(result)
    except Exception as error:  # noqa: BLE001 - a service's own fault must not take the run's exit status with it
        why = type(error).__name__
    return None if sent else f"{key}: could not notify {service.service_name}: {why}"


def _attachment(service: Any, page: Path) -> str | None:
    """Return the report for a service that takes attachments; where there is no report, nothing is attached."""
    return str(page.absolute()) if page.suffix == ".html" and service.attachment_support else None
