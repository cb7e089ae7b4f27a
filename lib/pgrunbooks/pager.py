"""The pager: incidents to practise on, told by their symptom alone; the learner names the cause and heals it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from IPython.core.error import StdinNotImplementedError
from IPython.core.getipython import get_ipython

from pgrunbooks import practice
from pgrunbooks.check import Finding, registry
from pgrunbooks.display import duration, printable, templates
from pgrunbooks.drills import drills
from pgrunbooks.errors import ConfigurationError, RunbookError, SandboxError
from pgrunbooks.sandbox import default_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import SANDBOX
from pgrunbooks.verdict import Verdict, ask, checks_for

# The drills in the order of their difficulty, and where a learner who is lost should look.
_INCIDENTS = (
    (
        "idle-in-transaction",
        "Somebody is connected and does nothing. The columns state, state_change and xact_start of pg_stat_activity"
        " tell who.",
    ),
    (
        "sequence-exhaustion",
        "How far can a number go? Compare last_value in pg_sequences with the type of the column that it fills.",
    ),
    (
        "inactive-replication-slot",
        "No table has grown, so it is WAL that the server keeps. Who told it to? See pg_replication_slots.",
    ),
    (
        "missing-fk-index",
        "Before the row of a parent goes, the server looks for its children. How does it find them? List the foreign"
        " keys in pg_constraint (contype = 'f') and the indexes of the table that each of them lies on.",
    ),
    (
        "ddl-lock-queue",
        "Everybody who waits names whom they wait for: pg_blocking_pids(pid). Follow it to the one who waits for"
        " nobody, and ask what that session does.",
    ),
    (
        "orphaned-prepared-transaction",
        "Somebody holds a lock whom pg_stat_activity does not know. What holds locks without being connected? Look for"
        " rows of pg_locks without a pid.",
    ),
)
_GUARDS = "-c statement_timeout=30s -c lock_timeout=5s"
_SILENT_WITHIN_S = 3.0  # a terminated session is gone a moment after pg_terminate_backend has said so
_ROWS = 10
_FILLER = {"a", "an", "and", "for", "in", "is", "of", "on", "the", "to"}
_KINDS = {"constraint", "index", "pid", "process", "sequence", "session", "slot", "table", "transaction"}


@dataclass(frozen=True)
class Reply:
    """What the pager says: a few words, sentences, perhaps a statement; ``folded`` shows the words alone at first."""

    head: str
    sentences: tuple[str, ...] = ()
    sql: str = ""
    folded: bool = False

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        html = templates().get_template("reply.html.j2").render(reply=self).strip()
        return {"text/html": html, "text/plain": printable("\n".join(filter(None, [*self._lines(), self.sql])))}

    def _lines(self) -> list[str]:
        return [self.head, *self.sentences]


@dataclass(frozen=True)
class Folded:
    """A verdict that waits under one line until somebody unfolds it."""

    verdict: Verdict

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        card = self.verdict._repr_mimebundle_()["text/html"]
        summary = "The verdict, which tells all of it: unfold it when you have an answer of your own"
        return {
            "text/html": f"<details><summary>{summary}</summary>{card}</details>",
            "text/plain": "The verdict, folded.",
        }


class Page:
    """One incident: ``answer`` checks what you take for its cause, ``finish`` says whether it is solved.

    It shows its symptom and nothing else.
    """

    def __init__(self, number: int, code: str, story: Sequence[Finding]) -> None:
        self.number = number
        self.symptom = drills()[code].symptom
        self._code, self._hint = code, dict(_INCIDENTS)[code]
        self._cause, *self._effects = story
        self._rang_at = time.monotonic()
        self._wrong: list[tuple[str, str]] = []
        self._named = self._was_told = False
        self._solved: Reply | None = None

    def __repr__(self) -> str:
        return f"Page {self.number}: {self.symptom}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return Reply(f"Page {self.number}", (self.symptom,))._repr_mimebundle_()

    def answer(self, cause: str = "", thing: object = "") -> Reply:
        """Check an answer: the cause in the words of a finding, such as 'duplicate index', and the thing itself.

        Case, punctuation and small words do not matter. A session may be named by its pid or its application, a table
        without its schema. The first wrong answer is met by a hint, the second by a broader one.
        """
        is_cause = _says(cause, self._cause.code)
        is_thing = _name(thing) in {_name(alias) for alias in _aliases(self._cause)}
        if is_cause and is_thing:
            self._named = True
            return Reply("Right.", (f"{self._cause.title}.", "Now heal it."))
        given = (" ".join(sorted(_words(cause))), " ".join(_name(thing)))
        if given not in self._wrong:
            self._wrong.append(given)
        hints = [f"Hint: {self._hint}"]
        if self._wrong.index(given):
            question = registry()[self._cause.code].rule.asks
            hints.append(f"More: one check asks just this: {question} Name the {_noun(self._cause.kind)}, too.")
        return Reply("Not yet.", (*self._nearly(cause, thing, is_cause, is_thing), *hints))

    def finish(self) -> Reply:
        """Say whether the incident is solved: its cause named, its verdict silent. Then the drill ends."""
        if self._solved:
            return self._solved
        deadline = time.monotonic() + _SILENT_WITHIN_S
        while not (is_silent := self._is_silent()) and time.monotonic() < deadline:
            time.sleep(0.1)
        took = duration(time.monotonic() - self._rang_at)
        if not is_silent:
            return Reply("Not solved yet.", ("Something of this incident still stands.",))
        if not self._named:
            return Reply("Healed, but not solved yet.", ("Name the cause as well: what was it, and which one?",))
        how = "with the solution unfolded" if self._was_told else f"with {_count(len(self._wrong))}"
        practice.stop()
        self._solved = Reply("Solved.", (f"It took {took}, {how}.",))
        return self._solved

    def solve(self) -> Reply:
        """Tell the cause and heal it with the first remedy that changes something; a person is asked before."""
        if self._solved:
            return Reply("It is solved already.")
        if self._named and self._is_silent():
            return Reply("You need none.", ("You have named the cause and healed it.",))
        if not _is_meant():
            return Reply("The solution stays folded.", ("Run the cell again when you want it.",))
        self._named = self._was_told = True
        statement = next(remedy.sql for remedy in self._cause.remedies if remedy.sql and remedy.risk != "none")
        if not self._is_silent():
            heal(statement)
        what = f"{self._cause.code}, {_noun(self._cause.kind)} {self._cause.name}."
        said = (what, f"{self._cause.title}.", self._hint, "This statement heals it:")
        return Reply("The solution", said, statement, folded=True)

    def _nearly(self, cause: str, thing: object, is_cause: bool, is_thing: bool) -> Iterable[str]:
        if is_cause:
            yield f"The cause is right, the {_noun(self._cause.kind)} is not."
        elif any(_says(cause, it.code) for it in self._effects):
            yield "That is there, and it is a symptom: something else stands before it."
        elif is_thing:
            yield f"That {_noun(self._cause.kind)} it is. But what is wrong with it?"
        elif any(_name(thing) in {_name(alias) for alias in _aliases(it)} for it in self._effects):
            yield "That one suffers from the cause; it is not the cause."

    def _is_silent(self) -> bool:
        """Tell whether no check of this incident finds anything, and a session at the root of it has let go."""
        codes = {self._code, *(it.code for it in (self._cause, *self._effects))}
        with open_session(SANDBOX) as session:
            verdict = ask(session, checks_for(*codes), runbook="practise")
            if any(verdict.about(code) for code in codes):
                return False
            # who ends the victims only sees the verdict fall silent, too, until the next one comes
            return self._cause.kind != "pid" or not session.rows(
                "select from pg_catalog.pg_stat_activity where pid = %(pid)s and xact_start is not null",
                {"pid": int(self._cause.name)},
            )


def ring(number: int) -> Page:
    """Make an incident in the sandbox and return what the pager says of it; one that ran before is ended.

    The notebook gets the cell magic ``%%heal``, whose cell is a statement for ``heal``. Raises ConfigurationError for
    a number that no incident has, and SandboxError where it cannot be made.
    """
    if not 1 <= number <= len(_INCIDENTS):
        raise ConfigurationError(f"there is no incident {number}; they are numbered from 1 to {len(_INCIDENTS)}")
    code = _INCIDENTS[number - 1][0]
    practice.stop()
    incident = practice.start(code)
    if shell := get_ipython():
        shell.register_magic_function(_heal_cell, "cell", "heal")
    with open_session(SANDBOX) as session:
        findings = ask(session, checks_for("troubleshooting", code), runbook="practise").findings
    told = {it.id: it for it in findings}
    cause = next((it for it in findings if (it.code, it.name) == (code, incident.name)), None)
    if cause is None:
        raise SandboxError("the incident is there and cannot be seen; 'pgrunbooks drill stop' ends it")
    while cause.caused_by:
        cause = told[cause.caused_by[0]]
    story = {cause.id: cause}
    for it in findings:  # each cause stands before what follows from it
        if story.keys() & set(it.caused_by):
            story[it.id] = it
    return Page(number, code, list(story.values()))


def heal(statement: str, target: str = SANDBOX) -> Reply:
    """Run a statement on a connection to the sandbox that may write, for as long as an incident runs there.

    Raises ConfigurationError for any other target, SandboxError where no incident runs, and RunbookError where
    PostgreSQL refuses the statement.
    """
    if target != SANDBOX:
        raise ConfigurationError(f"heal works in the sandbox alone, got {target!r}; anywhere else psql is yours")
    sandbox = default_sandbox()
    if not practice.running(sandbox):
        raise SandboxError("no incident runs in the sandbox, so there is nothing to heal")
    if not re.sub(r"--[^\n]*|\s|;", "", statement):
        return Reply("Nothing was run.", ("Write the statement that heals into this cell.",))
    try:
        with sandbox.connect(application_name="heal", options=_GUARDS) as connection:
            cursor = connection.execute(statement.encode())
            said = [_outcome(cursor)]
            while cursor.nextset():
                said.append(_outcome(cursor))
    except psycopg.Error as error:
        raise RunbookError(f"PostgreSQL refuses: {error.diag.message_primary or error}") from None
    return Reply("Done.", tuple(said))


def _heal_cell(line: str, cell: str) -> Reply:
    try:
        return heal(cell, line.strip() or SANDBOX)
    except RunbookError as error:
        return Reply("Nothing was changed.", (f"{error}.",))


def _outcome(cursor: psycopg.Cursor) -> str:
    """Return what a statement did: its rows where it has any, else the server's own word for it."""
    if cursor.description is None:
        return cursor.statusmessage or ""
    rows = [", ".join(map(str, row)) for row in cursor.fetchmany(_ROWS)]
    names = ", ".join(column.name for column in cursor.description)
    return f"{names}: {'; '.join(rows) or 'no row'}"


def _is_meant() -> bool:
    """Ask whether the solution is wanted, where somebody sits in front of the notebook; a headless run goes on."""
    if not hasattr(get_ipython(), "kernel"):
        return True
    try:
        return input("Type yes to see the solution: ").strip().lower() in ("y", "yes")
    except StdinNotImplementedError:
        return True


def _says(answer: str, code: str) -> bool:
    """Tell whether an answer has the words of a check's code; of three or more, one may be left out."""
    left_out = _words(code) - _words(answer)
    return not left_out or (len(left_out) == 1 and len(_words(code)) > 2)


def _words(text: str) -> frozenset[str]:
    """Return the beginnings of the words that count: 'Sequences, exhausted' is the same as 'sequence-exhaustion'."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return frozenset(word.removesuffix("s")[:5] if len(word) > 3 else word for word in found if word not in _FILLER)


def _name(thing: object) -> tuple[str, ...]:
    """Return a name without case, punctuation and what kind of thing it is: 'Session 4711' is 4711."""
    words = re.findall(r"[a-z0-9]+", str(thing).lower())
    return tuple(word for word in words if word not in _KINDS) or tuple(words)


def _aliases(finding: Finding) -> set[str]:
    """Return the names by which somebody may call the object of a finding."""
    row = finding.evidence[0] if finding.evidence else {}
    names = {finding.name, *finding.name.split()}
    names |= {str(row[key]) for key in ("application", "owned_by", "table") if row.get(key)}
    return names | {name.partition(".")[2] for name in names if "." in name}


def _noun(kind: str) -> str:
    return "session" if kind == "pid" else kind.replace("_", " ")


def _count(wrong: int) -> str:
    return "no wrong answer" if not wrong else f"{wrong} wrong answer{'' if wrong == 1 else 's'}"
