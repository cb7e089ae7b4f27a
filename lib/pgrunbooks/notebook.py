"""What the cells of a runbook call: connect, diagnose, and leave the findings where a runner picks them up."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from pgrunbooks import filing
from pgrunbooks.check import Check, Skip, rules
from pgrunbooks.checks._indexes import name as name_of
from pgrunbooks.display import BUNDLE, table
from pgrunbooks.errors import ConfigurationError, ConnectionLostError, HistoryError, RunbookError
from pgrunbooks.masking import mask
from pgrunbooks.plans import Plans, plans
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import load_target
from pgrunbooks.verdict import Verdict, ask, checks_for, cost_in_words, not_judged, utc_now
from pgrunbooks.workload import Workload, read_workload

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import ExecutionResult

_REMOVABLE = {
    "invalid-index": "invalid",
    "duplicate-index": "duplicate",
    "redundant-index": "covered",
    "unused-index": "unused",
}
_MOST_SAMPLES = 200
_SAMPLES_LATE_S = 15.0  # for a server that answers slowly
_SQL_MAGIC = {"short_errors": False, "displaycon": False, "feedback": False, "displaylimit": 100}


class Findings:
    """The findings.json of a verdict as a cell's output: invisible to people, picked up by the runner."""

    def __init__(self, verdict: Verdict) -> None:
        self.document = verdict.document()
        self.cost = cost_in_words(verdict.cost)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        count = len(self.document["findings"])
        text = f"findings.json: {self.document['status']}, {count} findings"
        return {BUNDLE: self.document, "text/plain": text}, {BUNDLE: {"cost": self.cost}}


class Runbook:
    """One run of a runbook: its session, what it was asked, and when it began."""

    def __init__(
        self, name: str, session: Session, parameters: Mapping[str, Any], started_at: datetime.datetime
    ) -> None:
        self.name = name
        self.session = session
        self.parameters = parameters
        self.started_at = started_at
        self.verdict: Verdict | None = None

    def leave_findings(self, cell: ExecutionResult) -> None:
        """Display the findings after a cell that failed, since a headless run ends there; for IPython's events."""
        if self.verdict and not cell.success:
            display(Findings(self.verdict))


def connect(name: str, *, target: str, database: str = "", **parameters: Any) -> Runbook:
    """Connect the runbook ``name`` to a target and attach ``%%sql`` to the same guarded connection.

    From then on the notebook shows a DataFrame whole, with bytes and seconds in units that people read.
    Where the target cannot be connected to, the verdict 'unknown' is displayed and ConnectError raised, so that a
    headless run fails. Raises ConfigurationError for a wrong parameter or target.
    """
    started_at = utc_now()
    given = {"target": target, "database": database, **parameters}
    if not isinstance(given.get("show_literals", False), bool):
        raise ConfigurationError(f"show_literals: needs True or False, got {given['show_literals']!r}")
    sample_s = given.get("sample_s", 0.5)
    if isinstance(sample_s, bool) or not isinstance(sample_s, (int, float)) or not 0 < sample_s <= 60:
        raise ConfigurationError(f"sample_s: needs seconds, more than 0 and at most 60, got {sample_s!r}")
    the_target = load_target(target)
    try:
        session = open_session(the_target, database=database or None)
    except RunbookError as error:
        verdict = not_judged(the_target, str(error), runbook=name, parameters=given, started_at=started_at)
        display(verdict, Findings(verdict))
        raise
    _attach_sql_magic(session)
    _show_frames_whole()
    runbook = Runbook(name, session, given, started_at)
    if shell := get_ipython():
        for listener in list(shell.events.callbacks["post_run_cell"]):
            if isinstance(getattr(listener, "__self__", None), Runbook):  # of a connection before this one
                shell.events.unregister("post_run_cell", listener)
        shell.events.register("post_run_cell", runbook.leave_findings)
    return runbook


def diagnose(runbook: Runbook, *names: str) -> Verdict:
    """Ask the checks of the runbook and return the verdict; a cell that ends with it shows the card.

    A runbook of one's own names the areas or codes that it asks; a shipped one is known by its own name.
    Where the server goes away meanwhile, what is known is displayed and ConnectionLostError raised.
    """
    verdict = ask(
        runbook.session,
        [_sampled(check, runbook.parameters.get("sample_s")) for check in checks_for(*(names or (runbook.name,)))],
        runbook=runbook.name,
        parameters=runbook.parameters,
        show_literals=bool(runbook.parameters.get("show_literals")),
        started_at=runbook.started_at,
    )
    if verdict.reason:
        display(verdict, Findings(verdict))
        raise ConnectionLostError(verdict.reason)
    runbook.verdict = verdict
    return verdict


def _sampled(check: Check, sample_s: float | None) -> Check:
    """Return a check of waits that spreads its samples, at most twenty a second, over ``sample_s`` seconds."""
    if sample_s is None or check.code != "wait-event-hotspot":
        return check
    samples = max(check.samples, min(round(sample_s / check.sample_every_s), _MOST_SAMPLES))
    return replace(check, samples=samples, sample_every_s=sample_s / samples, budget_s=sample_s + _SAMPLES_LATE_S)


def outcomes_table(verdict: Verdict) -> pandas.DataFrame:
    """Return how the checks ended; columns: area, outcome, checks (their codes), reason (missing where asked)."""
    import pandas

    known = rules()
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for check in verdict.checks:
        area = known[check.code].area if check.code in known else "other"
        groups.setdefault((area, check.outcome, check.reason), []).append(check.code)
    areas = list(dict.fromkeys(area for area, _, _ in groups))
    rows = [(area, outcome, codes, reason) for (area, outcome, reason), codes in groups.items()]
    rows.sort(key=lambda row: areas.index(row[0]))
    return pandas.DataFrame(rows, columns=["area", "outcome", "checks", "reason"])


def evidence_table(verdict: Verdict, code: str) -> pandas.DataFrame:
    """Return the evidence of a check's findings, a row each; the first columns are severity and the object's name."""
    import pandas

    findings = verdict.about(code)
    rows = [{"severity": it.severity, it.kind: it.name, **row} for it in findings for row in it.evidence]
    return pandas.DataFrame(rows)


def pool_table(verdict: Verdict) -> pandas.DataFrame:
    """Return the pools of the target's PgBouncer, a row each as ``show pools`` names them; empty without a pooler."""
    import pandas

    columns = ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "maxwait", "pool_mode"]
    return pandas.DataFrame(verdict.rows.get("pooler-waiting"), columns=columns)


def plans_of(runbook: Runbook, verdict: Verdict) -> Plans:
    """Return the plans of what the sessions in the verdict run now; where none is named, of those seen active."""
    named = {it.name for it in verdict.findings if it.kind == "pid"}
    named |= {subject.removeprefix("pid:") for it in verdict.findings for subject in it.involves if "pid:" in subject}
    pids = {int(name) for name in named} or {row["pid"] for row in verdict.rows.get("wait-event-hotspot", ())}
    return plans(runbook.session, pids, show_literals=bool(runbook.parameters.get("show_literals")))


def slow_statements(runbook: Runbook, most: int = 10) -> pandas.DataFrame:
    """Return the statements that took the most time since the last snapshot of the history, else since their reset.

    Columns: time_share (of all statements of this database), total_s, calls, mean_ms, rows_a_call, over_s (what was
    counted), query. Where pg_stat_statements cannot be read there is one column, reason, with the way to it.
    """
    import pandas

    read = _workload(runbook.session)
    if isinstance(read, Skip):
        return pandas.DataFrame({"reason": [": ".join(filter(None, (read.reason, read.remedy)))]})
    return pandas.DataFrame(
        {
            "time_share": it.total_ms / read.total_ms if read.total_ms else 0.0,
            "total_s": it.total_ms / 1000,
            "calls": it.calls,
            "mean_ms": it.mean_ms,
            "rows_a_call": it.mean_rows,
            "over_s": read.window_s,
            "query": mask(it.text),
        }
        for it in read.statements[:most]
    )


def _workload(session: Session) -> Workload | Skip:
    if not filing.has_history(session):
        return read_workload(session)
    from pgrunbooks import history  # a quarter of a second of Parquet, for those who keep a history

    try:
        return history.workload_since(session)
    except HistoryError:  # the verdict names it; over_s says what is counted instead
        return read_workload(session)


def removable_indexes(verdict: Verdict) -> pandas.DataFrame:
    """Return the indexes that a finding says can go, the largest first, each once.

    Columns: index, because ('duplicate', 'covered', 'unused', 'invalid'), size_bytes (an estimate), scans,
    staying_index (that does its work; missing where there is none), its_scans, definition (from the table's name on).
    """
    import pandas

    found: dict[str, dict[str, Any]] = {}
    for finding in verdict.findings:
        if finding.code not in _REMOVABLE:
            continue
        own, *others = finding.evidence
        other = others[0] if finding.code in ("duplicate-index", "redundant-index") else None
        row = found.setdefault(
            finding.name,
            {
                "index": finding.name,
                "because": [],
                "size_bytes": own["size_bytes"],
                "scans": own["scans"],
                "staying_index": None,
                "its_scans": None,
                "definition": own["definition"].partition(f"{name_of(own)} ON ")[2],
            },
        )
        row["because"].append(_REMOVABLE[finding.code])
        if other:
            row |= {"staying_index": other["index"], "its_scans": other["scans"]}
    rows = sorted(found.values(), key=lambda row: (-row["size_bytes"], row["index"]))
    columns = ["index", "because", "size_bytes", "scans", "staying_index", "its_scans", "definition"]
    return pandas.DataFrame([{**row, "because": ", ".join(row["because"])} for row in rows], columns=columns)


def _show_frames_whole() -> None:
    """Make the notebook show DataFrames like evidence: pandas cuts texts at 50 characters and tables at 60 rows.

    By name, since importing pandas takes a second and not every runbook needs it.
    """
    if shell := get_ipython():
        html = shell.display_formatter.formatters["text/html"]
        for module in ("pandas", "pandas.core.frame"):  # 3, 2
            html.for_type_by_name(module, "DataFrame", _frame_html)


def _frame_html(frame: pandas.DataFrame) -> str:
    if type(frame.index).__name__ != "RangeIndex":  # whose numbers say nothing
        frame = frame.reset_index()
    values = frame.astype(object).where(frame.notna(), None)
    columns = [str(name) for name in frame.columns]
    rows = [dict(zip(columns, row, strict=True)) for row in values.itertuples(index=False, name=None)]
    return table(columns, [{name: _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _attach_sql_magic(session: Session) -> None:
    """Make ``%%sql`` run on the session's own connection, each statement guarded like a check's.

    ipython-sql knows engines only, so this one hands out the one connection there is, without a pool and without a
    second slot. ``hide_parameters`` because ipython-sql binds the whole user namespace.
    """
    shell = get_ipython()
    if shell is None:
        return
    import sqlalchemy
    from sqlalchemy.pool import StaticPool

    if not shell.find_line_magic("sql"):
        shell.run_line_magic("load_ext", "sql")
    from sql.connection import Connection

    for name, value in _SQL_MAGIC.items():
        shell.run_line_magic("config", f"SqlMagic.{name} = {value!r}")
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: session.connection,
        poolclass=StaticPool,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
        hide_parameters=True,
        use_native_hstore=False,
    )
    connection = Connection.__new__(Connection)
    connection.url, connection.dialect = engine.url, engine.dialect
    connection.name = session.target.name
    connection.internal_connection = engine.connect()
    connection.connect_args = {}

    def begin(*_: object) -> None:
        with session.losses_told():
            session.begin()

    def fail(context: sqlalchemy.ExceptionContext) -> None:
        session.end()
        with session.losses_told():
            raise context.original_exception

    sqlalchemy.event.listen(engine, "before_cursor_execute", begin)
    sqlalchemy.event.listen(engine, "after_cursor_execute", lambda *_: session.end())
    sqlalchemy.event.listen(engine, "handle_error", fail)
    Connection.connections = {session.target.name: connection}
    Connection.current = connection
