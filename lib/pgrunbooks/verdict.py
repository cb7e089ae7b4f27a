"""A verdict: the findings of one run, ranked, causes before their symptoms, and how each check ended."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any, Literal

import psycopg
from psycopg import errors as pg

from pgrunbooks import filing
from pgrunbooks.check import SEVERITIES, Check, Context, Finding, Outcome, Remedy, Rows, Since, Skip, registry
from pgrunbooks.display import card, duration, plain, size
from pgrunbooks.errors import ConfigurationError, ConnectionLostError, HistoryError, RunbookError
from pgrunbooks.masking import mask
from pgrunbooks.session import Cost, Server, Session, open_session, pooler_rows, refused
from pgrunbooks.targets import Target
from pgrunbooks.workspace import runbook_files

Status = Literal["ok", "warning", "critical", "unknown"]
EXIT_STATUS: Mapping[str, int] = MappingProxyType({"ok": 0, "warning": 1, "critical": 2, "unknown": 3})
EVIDENCE_ROWS = 100
_ACUTE_AREAS = ("connections", "locks", "wal", "replication", "integrity")
# A lock on the catalog that one check could not wait for stands before the next ones as well.
_LOCKED_S = 0.05

# contract: which areas a runbook asks. A code stands for itself.
_QUERIES_NOW = ("wait-event-hotspot", "temp-file-spill", "high-rollback-ratio", "cache-hit-low")
AREAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "troubleshooting": ("connections", "locks", "vacuum", "wal", "replication", "integrity", *_QUERIES_NOW),
        "growth_report": ("growth",),
        "index_analysis": ("indexes",),
        "lock_analysis": ("locks", "idle-in-transaction", "long-transaction", "orphaned-prepared-transaction"),
        "connection_analysis": ("connections",),
        "vacuum_health": ("vacuum",),
        "replication_health": ("replication", "wal"),
    }
)


@dataclass(frozen=True)
class Verdict:
    """What one run found; ``document`` is its findings.json, ``rows`` what each check measured."""

    runbook: str
    target: Target
    server: Server | None
    started_at: datetime.datetime
    finished_at: datetime.datetime
    parameters: Mapping[str, Any]
    findings: Sequence[Finding] = ()
    ignored: Sequence[tuple[Finding, str, datetime.date | None]] = ()
    checks: Sequence[Outcome] = ()
    reason: str | None = None
    rows: Mapping[str, Rows] = field(default_factory=dict)
    cost: Cost | None = None

    @property
    def status(self) -> Status:
        """Return critical where a critical finding stands, else unknown where something failed, else the worst."""
        severities = {finding.severity for finding in self.findings}
        if "critical" in severities:
            return "critical"
        asked = [check for check in self.checks if check.outcome != "skipped"]
        if self.reason or not asked or any(check.outcome == "failed" for check in asked):
            return "unknown"
        return "warning" if "warning" in severities else "ok"

    def document(self) -> dict[str, Any]:
        """Return the findings.json of this run, as findings.schema.json has it."""
        reason = self.reason
        if self.status == "unknown" and not reason:
            gaps = [check for check in self.checks if check.outcome in ("failed", "skipped")]
            told = [check for check in gaps if check.outcome == "failed"] or gaps
            reason = _gaps_in_words(told) or "no check could be asked"
        return {
            "schema_version": 1,
            "tool_version": metadata.version("pgrunbooks"),
            "runbook": self.runbook,
            "target": self.target.name,
            "status": self.status,
            "reason": reason if self.status == "unknown" else None,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "finished_at": self.finished_at.isoformat(timespec="milliseconds"),
            "parameters": dict(self.parameters),
            "limits_overridden": {code: dict(limits) for code, limits in self.target.thresholds.items()},
            "server": self.server.document() if self.server else None,
            "findings": [_finding_document(finding) for finding in self.findings],
            "ignored": [
                {"id": finding.id, "why": why, "until": until.isoformat() if until else None}
                for finding, why, until in self.ignored
            ],
            "checks": [
                {"code": it.code, "outcome": it.outcome, "reason": it.reason, "duration_ms": round(it.duration_ms, 3)}
                for it in self.checks
            ],
        }

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return the verdict as a notebook shows it: the card, and plain text where there is no HTML."""
        document = self.document()
        return {
            "text/html": card(document, owner=self.target.owner, cost=cost_in_words(self.cost)),
            "text/plain": plain(document),
        }

    def about(self, code: str) -> list[Finding]:
        """Return the findings of one check, most important first."""
        return [finding for finding in self.findings if finding.code == code]


def checks_for(*names: str) -> list[Check]:
    """Return the checks of areas, codes or a runbook's areas, in the registry's order; no name: all cheap ones.

    Raises ConfigurationError for a name that is none of these.
    """
    checks = registry()
    if not names or "health_check" in names:
        return [check for check in checks.values() if check.rule.cheap and not check.opt_in]
    wanted = {part for name in names for part in AREAS.get(name, (name,))}
    areas = {check.rule.area for check in checks.values()}
    unknown = [name for name in names if name not in AREAS and name not in areas and name not in checks]
    if unknown:
        raise ConfigurationError(f"unknown area {unknown[0]!r}; known: {', '.join(sorted(areas))}")
    asked = [it for it in checks.values() if it.code in wanted or (it.rule.area in wanted and not it.opt_in)]
    age = checks.get("statistics-reset-recent")
    if age and age not in asked and any(check.uses_counters for check in asked):
        asked.append(age)
    return asked


def ask(
    session: Session,
    checks: Iterable[Check],
    *,
    runbook: str,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    show_literals: bool = False,
    started_at: datetime.datetime | None = None,
) -> Verdict:
    """Ask a session some checks and return the verdict; whatever goes wrong on the way is part of it.

    Checks that measure with the same SQL share its rows, so they judge the same moment. Literals in query texts are
    replaced before a judge sees them, unless ``show_literals``.
    """
    started_at = started_at or utc_now()
    run = _Run(session, show_literals)
    for check in checks:
        run.ask(check)
    today = started_at.date()
    silenced = [
        (it, rule) for it in run.findings for rule in session.target.ignore if rule.silences(it.code, it.name, today)
    ]
    hidden = {finding.id for finding, _ in silenced}
    return Verdict(
        runbook=runbook,
        target=session.target,
        server=session.server,
        started_at=started_at,
        finished_at=utc_now(),
        parameters=parameters,
        findings=rank([it for it in run.findings if it.id not in hidden]),
        ignored=[(finding, rule.why, rule.until) for finding, rule in silenced],
        checks=run.outcomes,
        reason=run.lost,
        rows=run.rows,
        cost=None if run.lost else session.cost(),
    )


def look(
    target: Target, checks: Sequence[Check], *, database: str | None, runbook: str, parameters: Mapping[str, Any]
) -> Verdict:
    """Connect, ask, and close; a target that cannot be connected to gives the verdict unknown.

    Raises ConfigurationError where the target itself is wrong.
    """
    started_at = utc_now()
    try:
        with open_session(target, database=database) as session:
            return ask(session, checks, runbook=runbook, parameters=parameters, started_at=started_at)
    except ConfigurationError:
        raise
    except RunbookError as error:
        return not_judged(target, str(error), runbook=runbook, parameters=parameters, started_at=started_at)


def not_judged(
    target: Target, reason: str, *, runbook: str, parameters: Mapping[str, Any], started_at: datetime.datetime
) -> Verdict:
    """Return the verdict 'unknown' of a run that could not ask anything, with the reason in one line."""
    return Verdict(runbook, target, None, started_at, utc_now(), parameters, reason=reason)


def cost_in_words(cost: Cost | None) -> str | None:
    """Return what a run cost the server, as the footer says it."""
    if cost is None:
        return None
    memory = f", {size(cost.memory_bytes)} of memory in its backend" if cost.memory_bytes else ""
    return f"one connection, {cost.statements} statements in {duration(cost.seconds)}{memory}"


def rank(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with their causes filled in, most important story first, each cause before its symptoms.

    A story is a root cause and all that follows from it. Stories are ordered by their worst severity, acute before
    chronic, then by the sessions affected, code and name. What follows from several roots stands behind all of them.
    """
    linked = [replace(it, caused_by=tuple(sorted({c.id for c in _causes(it, findings)}))) for it in findings]
    by_id = {finding.id: finding for finding in linked}
    ranked: dict[str, None] = {}
    roots = [it for it in linked if not it.caused_by]
    stories = [_story(root, linked) for root in roots]
    for story in sorted(stories, key=lambda story: (min(map(_severity_rank, story)), *_order(story[0])[1:])):
        for finding in story:
            _tell(finding, by_id, ranked)
    for finding in linked:
        _tell(finding, by_id, ranked)
    return [by_id[id] for id in ranked]


def utc_now() -> datetime.datetime:
    """Return the time now, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def _causes(finding: Finding, findings: Sequence[Finding]) -> Iterable[Finding]:
    check = registry().get(finding.code)  # one that is still being written is in no file yet
    return check.causes(finding, [it for it in findings if it.id != finding.id]) if check else ()


def _story(root: Finding, findings: Sequence[Finding]) -> list[Finding]:
    story, queue = [root], [root]
    while queue:
        cause = queue.pop(0)
        known = {it.id for it in story}
        follow = sorted((it for it in findings if cause.id in it.caused_by and it.id not in known), key=_order)
        story += follow
        queue += follow
    return story


def _tell(
    finding: Finding, by_id: Mapping[str, Finding], told: dict[str, None], begun: frozenset[str] = frozenset()
) -> None:
    """Add a finding to what was told, after all of its causes, whatever the shape of the graph."""
    begun |= {finding.id}
    for cause in sorted((by_id[id] for id in finding.caused_by if id not in begun), key=_order):
        if cause.id not in told:
            _tell(cause, by_id, told, begun)
    told.setdefault(finding.id)


def _severity_rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


def _order(finding: Finding) -> tuple[int, bool, int, str, str]:
    chronic = finding.area not in _ACUTE_AREAS
    return _severity_rank(finding), chronic, -len(finding.involves), finding.code, finding.name


class _Run:
    """What is known so far while the checks of one run are asked, one after the other."""

    def __init__(self, session: Session, show_literals: bool) -> None:
        self.session = session
        self.show_literals = show_literals
        self.findings: list[Finding] = []
        self.outcomes: list[Outcome] = []
        self.rows: dict[str, Rows] = {}
        self.lost: str | None = None
        self._measured: dict[str, Rows] = {}
        self._history: list[Since | None] = []  # empty until it was looked at
        self._deadline = 0.0
        self._lock_timeout_s: float | None = None

    def ask(self, check: Check) -> None:
        """Ask one check; note its findings and how it ended."""
        start = time.monotonic()
        budget_s = check.budget_s or self.session.target.statement_timeout
        self._deadline = start + budget_s
        findings, skip, failure = [], None, self.lost
        if not failure:
            try:
                answers = list(self._answers(check))
                findings = [_stamped(it, check) for it in answers if isinstance(it, Finding)]
                skip = next((it for it in answers if isinstance(it, Skip)), None)
            except HistoryError as error:
                skip = Skip(str(error))
            except ConnectionLostError as error:
                failure = self.lost = str(error)
            except pg.QueryCanceled:
                is_late = time.monotonic() > self._deadline - 0.1
                late = f"stopped, since it took longer than {duration(budget_s)}"
                failure = late if is_late else "cancelled by somebody else"
            except psycopg.Error as error:
                if isinstance(error, pg.LockNotAvailable):
                    self._lock_timeout_s = _LOCKED_S
                refusal = refused(error, self.session.server)
                skip, failure = (refusal, None) if isinstance(refusal, Skip) else (None, refusal)
            except Exception as error:  # noqa: BLE001 - the one boundary that keeps a runbook going
                failure = f"{type(error).__name__}: {error}"
        self.findings += findings
        outcome = "failed" if failure else "found" if findings else "skipped" if skip else "ok"
        reason = failure or (skip and ": ".join(filter(None, (skip.reason, skip.remedy))))
        duration_ms = (time.monotonic() - start) * 1000
        self.outcomes.append(Outcome(check.code, outcome, duration_ms, reason or None, skip.remedy if skip else None))  # type: ignore[arg-type]

    def _answers(self, check: Check) -> Iterable[Finding | Skip]:
        sql = _sql(check, self.session)
        if isinstance(sql, Skip):
            return [sql]
        if sql not in self._measured:
            self._measured[sql] = [_masked(row, self.show_literals) for row in self._measure(check, sql)]
        rows = self._measured[sql]
        limits = check.rule.limits(self.session.target.thresholds.get(check.code, {}))
        unknown: list[Skip] = []
        if check.deepen:
            deeper = check.deepen(self.session, rows, limits, self._left_s())
            if isinstance(deeper, Skip):
                return [deeper]
            unknown = [it for it in deeper if isinstance(it, Skip)]
            rows = [_masked(it, self.show_literals) for it in deeper if not isinstance(it, Skip)]
        self.rows[check.code] = rows
        standbys = self._standbys(sql) if check.asks_standbys else {}
        since = None
        if check.since_snapshot:
            try:
                since = self._since()
            except HistoryError as error:
                unknown.append(Skip(str(error)))  # what can be told without the history is told all the same
        context = Context(self.session.server, self.session.target, tuple(self.outcomes), since, standbys)
        return [*unknown, *check.judge(rows, limits, context)]

    def _measure(self, check: Check, sql: str) -> Iterator[Mapping[str, Any]]:
        if check.asks_pooler:
            yield from pooler_rows(self.session.target, sql)
        elif check.samples == 1:
            yield from self._rows(sql)
        else:
            for sample in range(check.samples):
                rows = self._rows(sql)
                yield from ({**row, "sample": sample} for row in rows)
                if not rows:
                    break  # nothing is there that could change
                if sample + 1 < check.samples:
                    time.sleep(check.sample_every_s)

    def _rows(self, sql: str) -> Rows:
        return self.session.rows(sql, timeout_s=self._left_s(), lock_timeout_s=self._lock_timeout_s)

    def _left_s(self) -> float:
        """Return what is left of the check's budget; never nothing, since a time-out of 0 is none at all."""
        return max(self._deadline - time.monotonic(), 0.001)

    def _since(self) -> Since | None:
        if not self._history:
            since = None
            if filing.has_history(self.session):
                from pgrunbooks import history  # Parquet is for those who keep a history

                since = history.since(self.session)
            self._history.append(since)
        return self._history[0]

    def _standbys(self, sql: str) -> dict[str, Rows | None]:
        answers: dict[str, Rows | None] = {}
        for name in self.session.target.standbys:
            answers[name] = None
            with (
                contextlib.suppress(RunbookError, psycopg.Error),
                open_session(name, database=self.session.server.database) as standby,
            ):
                answers[name] = standby.rows(sql, timeout_s=self._left_s())
        return answers


def _sql(check: Check, session: Session) -> str | Skip:
    """Return the query of a check for this server, or why it cannot be asked here."""
    server = session.server
    if check.sees_sessions and not server.sees_sessions:
        grant = f"grant pg_monitor to {server.quoted_role};"
        return Skip("needs pg_read_all_stats to see what other roles' sessions do", grant)
    if check.primary_only and server.in_recovery:
        return Skip("this server is a standby; ask its primary")
    if check.extension and check.extension not in server.extensions:
        return Skip(f"needs the extension {check.extension}", f"create extension {check.extension};")
    if check.asks_pooler and not session.target.pooler:
        return Skip("the target names no pooler; add the key 'pooler' to it in targets.yml")
    sql = check.sql_for(server.major)
    return Skip(f"needs PostgreSQL {min(check.sql)} or later") if sql is None else sql


def _stamped(finding: Finding, check: Check) -> Finding:
    docs, runbook = finding.docs or check.docs, finding.runbook or check.runbook
    runbook = runbook if runbook in runbook_files() else None
    return replace(finding, code=check.code, area=check.rule.area, docs=docs, runbook=runbook)


def _masked(row: Mapping[str, Any], show_literals: bool) -> Mapping[str, Any]:
    if show_literals or not isinstance(row.get("query"), str):
        return row
    return {**row, "query": mask(row["query"])}


def _gaps_in_words(checks: Sequence[Outcome]) -> str:
    """Return why some checks say nothing, each reason once, since one lock may stop them all."""
    codes: dict[tuple[str, str | None], list[str]] = {}
    for check in checks:
        codes.setdefault((check.outcome, check.reason), []).append(check.code)
    more = {group: f" and {len(names) - 1} more" if len(names) > 1 else "" for group, names in codes.items()}
    return "; ".join(f"{names[0]}{more[it]} {it[0]}: {it[1]}" for it, names in codes.items())


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "code": finding.code,
        "area": finding.area,
        "severity": finding.severity,
        "object": {"kind": finding.kind, "name": finding.name},
        "title": finding.title,
        "impact": finding.impact,
        "evidence": [dict(row) for row in finding.evidence[:EVIDENCE_ROWS]],
        "evidence_total": len(finding.evidence),
        "remedies": [_remedy_document(remedy) for remedy in finding.remedies],
        "caused_by": list(finding.caused_by),
        "runbook": finding.runbook,
        "docs": list(finding.docs),
        "first_seen": finding.first_seen,
    }


def _remedy_document(remedy: Remedy) -> dict[str, Any]:
    return {name: getattr(remedy, name) for name in ("title", "sql", "risk", "locks", "undo")}
