"""A check is one question to a database: SQL that measures, a judge that decides, and what to do about it."""

from __future__ import annotations

import csv
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pgrunbooks import checks as checks_package
from pgrunbooks import units

if TYPE_CHECKING:
    from pgrunbooks.session import Server, Session
    from pgrunbooks.targets import Target

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
Risk = Literal["none", "low", "high"]
Rows: TypeAlias = Sequence[Mapping[str, Any]]
Limits: TypeAlias = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """What a code means, where it belongs and its default limits: a row of checks.csv, or a check's own."""

    code: str
    area: str
    worst: Severity
    kind: str
    asks: str
    rule: str
    defaults: Mapping[str, str]
    cheap: bool

    def limits(self, overrides: Mapping[str, object] = MappingProxyType({})) -> dict[str, float]:
        """Return every limit in seconds, bytes, fractions or counts, ``overrides`` winning over the defaults.

        Raises ValueError for an unknown limit, a wrong unit, or a warning beyond its critical limit.
        """
        unknown = sorted(set(overrides) - set(self.defaults))
        if unknown:
            known = ", ".join(self.defaults) or "none"
            raise ValueError(f"{unknown[0]}: unknown limit; {self.code} has: {known}")
        limits = {}
        for name, default in self.defaults.items():
            try:
                limits[name] = units.parse(overrides.get(name, default), units.kind_of(default))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        for suffix in ("", "_bytes", "_xids"):
            warning, critical = f"warning{suffix}", f"critical{suffix}"
            if {warning, critical} <= set(limits):
                kind = units.kind_of(self.defaults[warning])
                falling = units.parse(self.defaults[warning], kind) > units.parse(self.defaults[critical], kind)
                low, high = (critical, warning) if falling else (warning, critical)
                if limits[low] > limits[high]:
                    raise ValueError(f"{warning}: lies beyond the critical limit")
        return limits


@cache
def catalogue() -> Mapping[str, Rule]:
    """Read checks.csv, the list of every check that is shipped or will be: code -> Rule."""
    text = resources.files(checks_package).joinpath("checks.csv").read_text(encoding="utf-8")
    rules = {}
    for row in csv.DictReader(text.splitlines()):
        defaults = dict(pair.split("=", 1) for pair in row["limits"].split())
        rules[row["code"]] = Rule(
            code=row["code"],
            area=row["area"],
            worst=row["worst"],  # type: ignore[arg-type]
            kind=row["kind"],
            asks=row["asks"],
            rule=row["rule"],
            defaults=MappingProxyType(defaults),
            cheap=row["cheap"] == "yes",
        )
    return MappingProxyType(rules)


@dataclass(frozen=True)
class Remedy:
    """Something to do about a finding; ``sql`` runs as it stands, and nothing here ever runs it by itself."""

    title: str
    sql: str | None = None
    risk: Risk = "low"
    locks: str | None = None
    undo: str | None = None


@dataclass(frozen=True)
class Finding:
    """One answer: how bad, which object, why, which rows, what to do, what caused it.

    ``involves`` names the sessions that this finding holds up (``pid:4711``); causes and ranks are reckoned from
    it, and it stays out of the record. ``code`` and ``area`` are filled in by whoever asked the check.
    """

    severity: Severity
    kind: str
    name: str
    title: str
    impact: str
    evidence: Rows = ()
    remedies: Sequence[Remedy] = ()
    involves: frozenset[str] = frozenset()
    caused_by: tuple[str, ...] = ()
    code: str = ""
    area: str = ""
    docs: tuple[str, ...] = ()
    runbook: str | None = None
    first_seen: str | None = None

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: needs one of {', '.join(SEVERITIES)}, got {self.severity!r}")

    @property
    def id(self) -> str:
        """Return ``code:kind:name``, which stays the same between runs."""
        return f"{self.code}:{self.kind}:{self.name}"

    @property
    def subject(self) -> str:
        """Return ``kind:name``, by which findings about one object know each other."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True)
class Skip:
    """A word that a check could not see enough: why, and the statement that would change that, if there is one."""

    reason: str
    remedy: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How one check ended: ok, found, skipped or failed, why, and how long it took in milliseconds."""

    code: str
    outcome: Literal["ok", "found", "skipped", "failed"]
    duration_ms: float
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Since:
    """What the newest snapshot of the history that is an hour old at least had measured, ``age_s`` seconds ago.

    ``databases`` holds the counters of pg_stat_database and pg_stat_database_conflicts by name, ``checkpoints`` those
    of the server, ``subscriptions`` apply_errors and sync_errors by oid; counters that were reset since are left out.
    ``slots`` says of each inactive slot for how many seconds nobody has read it.
    """

    age_s: float
    databases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoints: Mapping[str, Any] | None = None
    subscriptions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    slots: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a judge may know beyond its rows.

    ``outcomes`` are those of the checks asked before. ``since`` is what the history knows, or None. ``standbys``
    holds, by name, the rows of the same query on each standby that the target names, or None where that standby could
    not be asked.
    """

    server: Server
    target: Target
    outcomes: Sequence[Outcome] = ()
    since: Since | None = None
    standbys: Mapping[str, Rows | None] = field(default_factory=dict)


Judge: TypeAlias = Callable[[Rows, Limits, Context], Iterable[Finding | Skip]]
Causes: TypeAlias = Callable[[Finding, Sequence[Finding]], Iterable[Finding]]
Deepen: TypeAlias = Callable[["Session", Rows, Limits, float], "Sequence[Mapping[str, Any] | Skip] | Skip"]


def _no_causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    return ()


@dataclass(frozen=True)
class Check:
    """One question: its SQL by lowest major version, its judge, and what it needs to be asked at all.

    ``causes`` names, among the other findings of a run, those that explain a finding of this check. The rest says
    when and how it can be asked: ``sees_sessions`` reads other roles' sessions (needs pg_read_all_stats),
    ``primary_only`` means nothing on a standby, ``extension`` must be installed in the database, ``uses_counters``
    judges by statistics that a reset empties, ``since_snapshot`` compares them with the history, ``asks_standbys``
    wants the same query's rows from the standbys of the target, ``asks_pooler`` sends the query to the admin console
    of the target's PgBouncer instead of the server, ``samples`` asks it that often, ``sample_every_s`` seconds apart,
    until it returns nothing, and numbers the rows in a column ``sample`` from 0. ``deepen`` takes the query's rows
    further with statements of its own and returns the rows to judge, with a Skip among them for what it could not
    see, or why there are none; it is told the limits and how many seconds it has.
    ``budget_s`` is the time for all statements of the check together, by default one ``statement_timeout`` of the
    target; ``opt_in`` checks are asked by their own code only, never by their area. ``own_rule`` is the rule of a check
    that is not shipped, whose code has a prefix of its own, as in ``my.slow-refund``.
    """

    code: str
    sql: Mapping[int, str]
    judge: Judge
    causes: Causes = _no_causes
    docs: tuple[str, ...] = ()
    runbook: str | None = None
    sees_sessions: bool = False
    primary_only: bool = False
    extension: str | None = None
    uses_counters: bool = False
    asks_standbys: bool = False
    asks_pooler: bool = False
    since_snapshot: bool = False
    samples: int = 1
    sample_every_s: float = 0.05
    deepen: Deepen | None = None
    budget_s: float | None = None
    opt_in: bool = False
    own_rule: Rule | None = None

    @property
    def rule(self) -> Rule:
        """Return this check's own rule, else its row of checks.csv."""
        return self.own_rule or catalogue()[self.code]

    def sql_for(self, major: int) -> str | None:
        """Return the query for a server's major version; None where the check needs a newer server."""
        return variant(self.sql, major) if min(self.sql) <= max(major, 15) else None


def variant(sql: Mapping[int, str], major: int) -> str:
    """Return the query for a server's major version, from queries by lowest version: the nearest that there is."""
    return sql[max((lowest for lowest in sql if lowest <= max(major, 15)), default=min(sql))]


def grade(value: float | None, limits: Limits, suffix: str = "") -> Severity | None:
    """Return the worst limit that ``value`` has reached (equality included), or None.

    ``suffix`` picks a family of limits: ``'_bytes'`` compares with ``warning_bytes`` and ``critical_bytes``.
    """
    if value is None:
        return None
    for severity in SEVERITIES:
        limit = limits.get(severity + suffix)
        if limit is not None and value >= limit:
            return severity
    return None


@cache
def shipped_checks() -> Mapping[str, Check]:
    """Find every shipped check by importing ``pgrunbooks.checks.<area>.<code>``: code -> Check, ordered as checks.csv.

    A module whose name starts with an underscore holds what several checks share.
    """
    found = {}
    for module in pkgutil.walk_packages(checks_package.__path__, checks_package.__name__ + "."):
        name = module.name.rpartition(".")[2]
        if module.ispkg or name.startswith("_"):
            continue
        check = importlib.import_module(module.name).check
        found[check.code] = check
    return MappingProxyType({code: found[code] for code in catalogue() if code in found})


def registry() -> Mapping[str, Check]:
    """Return every check, those of one's own after the shipped: code -> Check.

    Raises ConfigurationError where one of one's own cannot be read.
    """
    from pgrunbooks.own_checks import own_checks  # reads the targets file, which knows of rules

    return MappingProxyType({**shipped_checks(), **own_checks()})


def rules() -> Mapping[str, Rule]:
    """Return what every code means, those of one's own after the shipped: code -> Rule; raises as ``registry`` does."""
    from pgrunbooks.own_checks import own_checks

    return MappingProxyType({**catalogue(), **{code: check.rule for code, check in own_checks().items()}})
