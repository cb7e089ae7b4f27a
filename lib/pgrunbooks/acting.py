"""Acting: end the session at the root from JupyterLab, after a typed confirmation, and leave a record of it.

Only the button of the form acts, so a headless run never does, and only where the target says ``allow_actions``. One
statement both makes sure that the session is still the one that was shown and signals it: the same pid, started at the
same time, in the same transaction. Signalling a session of another role takes pg_signal_backend.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from IPython.display import DisplayHandle

from pgrunbooks.checks._sessions import SQL, Row, behind, count, label
from pgrunbooks.display import TABLE_WIDTH, Sentence, cut, duration, printable, templates, when
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.jupyterlab import workspace
from pgrunbooks.masking import mask
from pgrunbooks.session import Session, refused
from pgrunbooks.verdict import Verdict, utc_now

if TYPE_CHECKING:
    from pgrunbooks.archive import Record
    from pgrunbooks.notebook import Runbook

Action = Literal["cancel", "terminate"]

_WORKS_S = 3.0  # for a signalled session to let go; one that is in the middle of a large rollback takes longer
_IDENTITY = """
select
    a.pid, a.backend_start, a.xact_start,
    array(
        select distinct pg_catalog.format('%%I.%%I', n.nspname, c.relname)
        from pg_catalog.pg_locks as l
        join pg_catalog.pg_class as c on c.oid = l.relation
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        join pg_catalog.pg_database as d on d.oid = l.database and d.datname = pg_catalog.current_database()
        where l.pid = a.pid and l.granted and c.relkind in ('r', 'm', 'p')
            and l.mode not in ('AccessShareLock', 'RowShareLock')
        order by 1
    ) as changed_tables
from pg_catalog.pg_stat_activity as a
where a.pid = %(pid)s
order by 1
"""
_SIGNAL: Mapping[Action, str] = {
    action: f"""
select pg_catalog.pg_{action}_backend(a.pid) as signalled
from pg_catalog.pg_stat_activity as a
where a.pid = %(pid)s and a.backend_start = %(backend_start)s::timestamptz
    and a.xact_start is not distinct from %(xact_start)s::timestamptz
order by 1
"""
    for action in ("cancel", "terminate")
}


@dataclass(frozen=True)
class Subject:
    """A session as it was shown: its row, its identity, the tables it may have changed, and who waits behind it."""

    row: Row
    backend_start: str
    xact_start: str | None
    changed_tables: Sequence[str]
    waiters: Sequence[Row]

    @property
    def pid(self) -> int:
        """Return the process id."""
        return int(self.row["name"])

    @property
    def actions(self) -> Sequence[Action]:
        """Return what helps: a session that idles has no statement to cancel."""
        return ("cancel", "terminate") if self.row["state"] == "active" else ("terminate",)

    def is_lost(self, action: Action) -> str:
        """Return in one sentence what the action undoes."""
        if self.row["transaction_s"] is None:
            return "It has no transaction open: nothing is rolled back."
        since = f"its transaction, open for {duration(self.row['transaction_s'])}"
        if not self.row["has_written"]:
            return f"Rolled back: {since}. It has written nothing."
        where = cut(", ".join(self.changed_tables), TABLE_WIDTH) or "in another database"
        lost = f"Rolled back: everything it has written in {since} ({where})."
        return lost if action == "terminate" else f"{lost} A savepoint of its own may keep a part."

    def is_released(self) -> str:
        """Return in one sentence who waits behind it."""
        if not self.waiters:
            return "Nobody waits behind it."
        names = [label(row).removeprefix("Session ") for row in self.waiters]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"Released: {count(len(names), 'session')}: {'; '.join(names[:5])}{more}."


@dataclass(frozen=True)
class Act:
    """What was done, or why nothing was: when, to whom, by which role, and what came of it."""

    at: datetime.datetime
    action: Action
    session: str
    role: str
    done: bool
    result: str
    lost: str
    record: str = ""

    @property
    def title(self) -> str:
        """Return what was done in a few words."""
        word = {"cancel": "Cancelled", "terminate": "Ended"}[self.action] if self.done else f"Refused to {self.action}"
        return f"{word}: {self.session}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        did = f"{when(self.at.isoformat())}, by role {self.role}. {self.result}"
        lines = [did, *([self.lost] if self.done else []), *([self.record] if self.record else [])]
        page = "<p><strong>{{ title }}</strong></p>{% for line in lines %}<div>{{ line }}</div>{% endfor %}"
        html = templates().from_string(page).render(title=self.title, lines=lines)
        return {"text/html": html, "text/plain": printable("\n".join([self.title, *lines]))}


def look(session: Session, pid: int) -> Subject | None:
    """Return a session as it is now; None where it is gone."""
    rows = session.rows(SQL[15])
    found = [row for row in rows if row["id"] == f"pid:{pid}"]
    identity = session.rows(_IDENTITY, {"pid": pid})
    if not found or not identity or identity[0]["backend_start"] is None:
        return None
    who = identity[0]
    return Subject(found[0], who["backend_start"], who["xact_start"], who["changed_tables"], behind(rows, f"pid:{pid}"))


def roots(verdict: Verdict) -> Sequence[int]:
    """Return the pids of the sessions that the verdict names, those that caused the rest first."""
    caused = [finding for finding in verdict.findings if finding.kind == "pid"]
    caused.sort(key=lambda it: bool(it.caused_by))
    return list(dict.fromkeys(int(finding.name) for finding in caused))


def act(session: Session, subject: Subject, action: Action) -> Act:
    """Signal the session that was shown, or refuse, and say what came of it."""
    parameters = {"pid": subject.pid, "backend_start": subject.backend_start, "xact_start": subject.xact_start}
    done, at = False, utc_now()
    if not session.target.allow_actions:
        result = f"The target {session.target.name} does not allow actions."
    else:
        try:
            answer = session.rows(_SIGNAL[action], parameters)
            done = bool(answer and answer[0]["signalled"])
            result = _outcome(session, subject) if done else _changed(look(session, subject.pid), subject)
        except psycopg.Error as error:
            said = refused(error, session.server)
            result = f"The server: {said if isinstance(said, str) else said.reason}."
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                result += f" It takes: grant pg_signal_backend to {session.server.quoted_role};"
        except RunbookError as error:
            result = f"{error}."
    return Act(at, action, label(subject.row), session.server.role, done, result, subject.is_lost(action))


def _changed(now: Subject | None, shown: Subject) -> str:
    if now is None:
        return f"Session {shown.pid} is gone."
    if now.backend_start != shown.backend_start:
        return f"Session {shown.pid} is another one than was shown: it began at {when(now.backend_start)}."
    return f"Session {shown.pid} is in another transaction than was shown. Look again."


def _outcome(session: Session, shown: Subject) -> str:
    """Wait until the transaction is over and return what became of it and of those behind it."""
    began = time.monotonic()
    while (now := look(session, shown.pid)) and (now.backend_start, now.xact_start) == (
        shown.backend_start,
        shown.xact_start,
    ):
        if time.monotonic() - began > _WORKS_S:
            return (
                f"It was signalled, and after {_WORKS_S:.0f} s it is still in its transaction: it may be rolling back."
            )
        time.sleep(0.05)
    if not shown.waiters:
        return "Its transaction is over."
    behind_it = {row["id"] for row in shown.waiters}
    waiting = sum(row["waits"] for row in session.rows(SQL[15]) if row["id"] in behind_it)
    moving = len(behind_it) - waiting
    return f"Its transaction is over; of {count(len(behind_it), 'session')} behind it {moving} no longer wait."


# ---- the form ----------------------------------------------------------------------------------------------------


def form(runbook: Runbook, verdict: Verdict) -> Any:
    """Return a form that cancels or ends a session of the verdict once its confirmation is typed.

    Needs ipywidgets, which comes with the extra ``lab``. Where the target allows no actions, or the verdict names no
    session, it is a sentence.
    """
    target = runbook.session.target
    if not target.allow_actions:
        return Sentence(f"The target {target.name} allows no actions; in its targets.yml, allow_actions: true would.")
    if not (pids := roots(verdict)):
        return Sentence("The verdict names no session to end.")
    if not find_spec("ipywidgets"):
        return Sentence("The form needs ipywidgets, which the extra 'lab' installs. The statements are in the verdict.")
    return _Form(runbook, verdict, pids).box


class _Form:
    """The widgets of the form, and the session that they show."""

    def __init__(self, runbook: Runbook, verdict: Verdict, pids: Sequence[int]) -> None:
        import ipywidgets

        self._runbook, self._verdict, self._session = runbook, verdict, runbook.session
        self._subject: Subject | None = None
        self._who = ipywidgets.Dropdown(options=pids, description="session")
        self._action = ipywidgets.ToggleButtons(options=["terminate"])
        self._shown = ipywidgets.HTML()
        self._typed = ipywidgets.Text(continuous_update=True)
        self._button = ipywidgets.Button(description="Do it", button_style="danger", disabled=True)
        again = ipywidgets.Button(description="Look again", icon="refresh")
        above, below = [self._who, again], [self._typed, self._button]
        self.box = ipywidgets.VBox([ipywidgets.HBox(above), self._shown, self._action, ipywidgets.HBox(below)])
        self._done = DisplayHandle()
        self._done.display(Sentence("Nothing has been done from this page."))
        self._who.observe(self._refresh, "value")
        self._action.observe(self._describe, "value")
        self._typed.observe(self._ready, "value")
        self._button.on_click(self._press)
        again.on_click(self._refresh)
        self._refresh()

    def _refresh(self, *_: object) -> None:
        """Look at the session that is chosen."""
        try:
            self._subject = look(self._session, self._who.value)
            self._action.options = self._subject.actions if self._subject else ()
            self._typed.value = ""
            self._describe()
        except (RunbookError, psycopg.Error) as error:
            self._subject = None
            self._shown.value = _html([str(error)])
            self._ready()

    def _describe(self, *_: object) -> None:
        """Say who it is, and what the action loses and releases."""
        if not (subject := self._subject):
            self._typed.placeholder = ""
            self._shown.value = _html([f"Session {self._who.value} is gone."])
        else:
            self._typed.placeholder = f"type: {self._wanted}"
            state = f"{label(subject.row)}: {subject.row['state'] or 'state unknown'}"
            query = " ".join(mask(subject.row["query"] or "").split())
            lines = [state, subject.is_lost(self._action.value), subject.is_released()]
            self._shown.value = _html(lines, cut(query, TABLE_WIDTH))
        self._ready()

    @property
    def _wanted(self) -> str:
        return f"{self._action.value} {self._who.value}"

    def _ready(self, *_: object) -> None:
        """Let the button work once the words are typed."""
        self._button.disabled = not (self._subject and " ".join(self._typed.value.lower().split()) == self._wanted)

    def _press(self, _: object) -> None:
        if self._button.disabled or self._subject is None:
            return
        self._button.disabled = True
        done = act(self._session, self._subject, self._action.value)
        self._done.update(_with_record(done, self._runbook, self._verdict))
        self._refresh()


def _html(lines: Sequence[str], query: str = "") -> str:
    page = "{% for line in lines %}<div>{{ line }}</div>{% endfor %}{% if query %}<code>{{ query }}</code>{% endif %}"
    return templates().from_string(page).render(lines=lines, query=query)


# ---- the record --------------------------------------------------------------------------------------------------


def keep(runbook: Runbook, verdict: Verdict, done: Act, out: Path) -> Record:
    """Leave a record of what was done: the verdict that was acted on, and the act with its time and result."""
    from nbformat import v4

    from pgrunbooks.notebook import Findings
    from pgrunbooks.record import leave

    def cell(source: str, shown: Any) -> Any:
        bundle = shown._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return v4.new_code_cell(source, outputs=[v4.new_output("display_data", data, metadata=metadata)])

    title = f"# {done.title}\n\nDone by hand in the runbook {runbook.name}. The verdict is the one it answered."
    cells = [
        v4.new_markdown_cell(title),
        cell("act", done),
        cell("verdict", verdict),
        cell("Findings", Findings(verdict)),
    ]
    return leave(
        v4.new_notebook(cells=cells), verdict.document(), out, owner=runbook.session.target.owner, began=done.at
    )


def _with_record(done: Act, runbook: Runbook, verdict: Verdict) -> Act:
    """Leave the record and say where it is; a disk that is full does not hide what was done."""
    try:
        where = f"The record: {keep(runbook, verdict, done, workspace() / 'records').page}"
    except ConfigurationError as error:
        where = f"No record was left: {error}."
    except OSError as error:
        where = f"No record was left: {error.strerror or error}."
    return replace(done, record=where)
