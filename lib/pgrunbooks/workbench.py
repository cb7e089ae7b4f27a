"""The workbench: what the index page does in the lab: proposals, drops that were proved, trials, and the migration."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from pgrunbooks.advice import Drop, what_if_dropped
from pgrunbooks.advice.advisor import Study, kept_study
from pgrunbooks.advice.statement import read_index
from pgrunbooks.check import Finding, Remedy, Rows, Skip
from pgrunbooks.display import FILES, Sentence, cut, duration, printable, size, table, templates
from pgrunbooks.errors import LabError, RunbookError
from pgrunbooks.lab import Index
from pgrunbooks.masking import mask
from pgrunbooks.notebook import Runbook, removable_indexes
from pgrunbooks.session import Session
from pgrunbooks.verdict import Verdict

if TYPE_CHECKING:
    import pandas

PROVED = "no statement needs it"
_KEEP, _UNTRIED = "keep: ", "not tried:"
_HELPS, _HARMS = 0.99, 1.01  # of a cost: what changes less is not listed
_IS_INDEX = """
select c.oid
from pg_catalog.pg_class as c
where c.oid = pg_catalog.to_regclass(%(name)s) and c.relkind in ('i', 'I')
"""
_DROPS = re.compile(r"^(?:drop index|alter table .* drop constraint) ", re.MULTILINE)
_DROP = re.compile(r"drop\s+index\s+(?:concurrently\s+)?(?:if\s+exists\s+)?([^\s;]+)\s*;?", re.IGNORECASE)


@dataclass(frozen=True)
class Proposals:
    """The indexes that would pay for themselves, as the check missing-index measured them; each unfolds."""

    rows: Rows | None

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        template = templates().get_template("proposals.html.j2")
        html = template.render(
            rows=self.rows, size=size, cut=cut, percent="{:.1%}".format, cost="{:,.0f}".format
        ).strip()
        lines = [
            f"{row['statement']}  saves {row['gain']:.0%}, about {size(row['size_bytes'])}" for row in self.rows or ()
        ]
        return {"text/html": html, "text/plain": "\n".join(lines) or "No new index would pay for itself."}


@dataclass(frozen=True)
class Trial:
    """One index tried in the lab: what it saves of the workload, and the statements whose cost it changes.

    ``gain`` and ``write_cost`` are shares of the workload's time, ``statements`` rows with the columns query, calls,
    cost_before, cost_after.
    """

    index: Index
    gain: float
    write_cost: float
    size_bytes: int
    statements: Rows
    seconds: float

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        net = self.gain - self.write_cost
        verdict = "pays for itself" if net > 0 else "does not pay for itself"
        words = (
            f"It {verdict}: it saves {self.gain:.1%} of the workload and costs {self.write_cost:.1%} in writes,"
            f" in about {size(self.size_bytes)}. Answered by the lab in {duration(self.seconds)}."
        )
        columns = ["query", "calls", "cost_before", "cost_after"]
        text = f"{self.index.statement()}\n{words}"
        return {"text/html": f"<p>{words}</p>{table(columns, self.statements)}", "text/plain": printable(text)}


@dataclass(frozen=True)
class Migration:
    """A migration of indexes, up and down; a run leaves its two files in the record."""

    up: str
    down: str

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        files = {"indexes.up.sql": self.up, "indexes.down.sql": self.down}
        html = templates().get_template("migration.html.j2").render(files=files).strip()
        return {FILES: files, "text/html": html, "text/plain": printable(self.up)}


def proposals(verdict: Verdict) -> Proposals:
    """Return the new indexes of a verdict, with the statements that each helps, their costs and plans."""
    return Proposals(verdict.rows.get("missing-index"))


def prove(runbook: Runbook, verdict: Verdict) -> Verdict:
    """Return the verdict with what the lab says of each drop that it suggests; one that the lab refutes goes.

    The finding stays, since it is right about the index; what would cost some statement of the workload is no advice.
    """
    names = [str(name) for name in removable_indexes(verdict)["index"]]
    proofs = _proofs(runbook.session, names)
    return replace(verdict, findings=[_with_proof(it, proofs.get(it.name, "")) for it in verdict.findings])


def _with_proof(finding: Finding, proof: str) -> Finding:
    if finding.kind != "index" or not proof or proof.startswith(_UNTRIED):
        return finding
    if proof == PROVED:
        return replace(finding, impact=f"{finding.impact} The lab: {PROVED}.")
    left = [it for it in finding.remedies if not _DROPS.search(it.sql or "")]
    keep = Remedy(f"Keep it for this workload, says the lab: {proof.removeprefix(_KEEP)}", risk="none")
    return replace(finding, remedies=[keep, *left])


def drops(runbook: Runbook, verdict: Verdict) -> pandas.DataFrame:
    """Return the indexes that a finding says can go, each with what the lab says of the workload without it.

    Columns: those of ``notebook.removable_indexes``, and proof: 'no statement needs it', 'keep: ...' with how many
    statements would be dearer, or why it could not be tried.
    """
    import pandas

    frame = removable_indexes(verdict)
    names = list(frame["index"]) if len(frame) else []
    proofs = _proofs(runbook.session, names)
    columns = list(frame.columns)
    frame = frame.assign(proof=[proofs[name] for name in names])
    return pandas.DataFrame(frame, columns=["index", "because", "proof", *columns[2:]])


def _proofs(session: Session, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    try:
        found = what_if_dropped(session, names)
    except LabError as error:
        return dict.fromkeys(names, f"{_UNTRIED} {error}")
    if isinstance(found, Skip):
        return dict.fromkeys(names, f"{_UNTRIED} {found.reason}")
    return dict.fromkeys(names, f"{_UNTRIED} its table is not in the lab") | {it.name: _in_words(it) for it in found}


def _in_words(drop: Drop) -> str:
    if drop.reason:
        return f"{_KEEP}{drop.reason}"
    if drop.worse:
        factor = drop.worse[0][1]
        what = "a statement" if len(drop.worse) == 1 else f"{len(drop.worse)} statements"
        return f"{_KEEP}{what} would cost up to {factor:.3g} times as much"
    return PROVED


def migration(verdict: Verdict, removable: pandas.DataFrame, *, leave_out: Sequence[str] = ()) -> Migration:
    """Return the migration that creates what pays and drops what was proved to be needed by nobody.

    New indexes come first, so that no statement is ever without. ``leave_out`` names indexes to leave as they are and
    tables to create none on. Each statement stands alone, since CONCURRENTLY runs in no transaction.
    """
    new = [row for row in verdict.rows.get("missing-index") or () if row["table"] not in leave_out]
    old = [row for row in removable.to_dict("records") if row["proof"] == PROVED and row["index"] not in leave_out]
    drops = {it.name: remedy for it in verdict.findings for remedy in it.remedies if _DROPS.search(remedy.sql or "")}
    up: list[str] = []
    down: list[str] = []
    for row in new:
        up.append(row["statement"])
        down.insert(0, row["undo"])
    for drop in (drops[row["index"]] for row in old if row["index"] in drops):
        up.append(drop.sql or "")
        down.insert(0, drop.undo or "")
    head = (
        "-- Run outside a transaction, one statement after the other. Each waits for transactions that are open.\n"
        "-- With CONCURRENTLY nobody is kept from reading or writing. Without it writers are, or everybody.\n"
        "-- Set no lock_timeout: a build that fails leaves an invalid index.\n"
    )
    return Migration(*(head + "".join(f"\n{it}\n" for it in part) if part else "" for part in (up, down)))


def try_index(runbook: Runbook, statement: str) -> Trial:
    """Return what an index would do for the workload, told by the lab; ``statement`` is its CREATE INDEX.

    Raises RunbookError where the statement is none, the lab cannot be had, or PostgreSQL does not build the index.
    """
    start = time.monotonic()
    index = read_index(statement)
    it = kept_study(runbook.session)
    if isinstance(it, Skip):
        raise LabError(": ".join(filter(None, (it.reason, it.remedy))))
    if it is None:
        raise LabError("no statement of the workload reads a table")
    return _trial(it, index, start)


def _trial(it: Study, index: Index, start: float) -> Trial:
    tables = [name for name in it.costs.lab.tables if index.table in (name, name.partition(".")[2])]
    if len(tables) == 1:
        index = replace(index, table=tables[0])
    else:
        known = ", ".join(sorted(it.costs.lab.tables))
        raise LabError(f"{index.table} is not in the lab; the tables of the workload are: {known}")
    if not it.costs.add(index):
        raise LabError(f"PostgreSQL does not build it: {it.costs.refused[index]}")
    changed: list[dict[str, Any]] = []
    gain = 0.0
    for question in it.questions:
        if index.table not in question.parsed.tables:
            continue
        before, after = (
            sum(each.share * it.costs.plan(each, visible).cost for each in question.variants)
            for visible in (frozenset[Index](), frozenset({index}))
        )
        gain += question.weight * (1 - after / before) if before else 0.0
        if before and not _HELPS < after / before < _HARMS:
            row = {"query": mask(question.statement.text), "calls": question.statement.calls}
            changed.append({**row, "cost_before": before, "cost_after": after})
    changed.sort(key=lambda row: (row["cost_after"] / row["cost_before"], row["query"]))
    return Trial(index, gain, it.write_share(index), it.costs.sizes[index], changed, time.monotonic() - start)


def try_drop(runbook: Runbook, name: str) -> Sentence:
    """Return in one line what the lab says of the workload without an index, named with its schema.

    Raises RunbookError where there is no such index or the lab cannot be had.
    """
    if not runbook.session.rows(_IS_INDEX, {"name": name}):
        raise LabError(f"there is no index {name} here")
    return Sentence(f"{name}: {_proofs(runbook.session, [name])[name]}.")


def enable_trials(runbook: Runbook) -> None:
    """Give the notebook the cell magic ``%%whatif``, whose cell is a CREATE INDEX or a DROP INDEX of one index.

    A no-op outside a notebook.
    """
    if shell := get_ipython():
        shell.register_magic_function(lambda line, cell: _tried(runbook, cell), "cell", "whatif")


def form(runbook: Runbook, statement: str) -> Any:
    """Return a form that tries an index when its button is pressed, for whom a mouse is nearer than a cell.

    Needs ipywidgets, which comes with the extra ``lab``; without it the form is a hint.
    """
    try:
        import ipywidgets
    except ImportError:
        return Sentence("The form needs ipywidgets, which the extra 'lab' installs; %%whatif does the same.")
    text = ipywidgets.Textarea(value=statement, layout=ipywidgets.Layout(width="100%", height="4.5em"))
    button = ipywidgets.Button(description="What if?", button_style="primary")
    output = ipywidgets.Output()

    def press(_: object) -> None:
        output.clear_output()
        with output:
            display(_tried(runbook, text.value))

    button.on_click(press)
    return ipywidgets.VBox([text, button, output])


def _tried(runbook: Runbook, statement: str) -> Trial | Sentence:
    """Return a trial, or in one line why there is none: a typing mistake is no traceback."""
    drop = _DROP.fullmatch(statement.strip())
    try:
        return try_drop(runbook, drop[1]) if drop else try_index(runbook, statement)
    except RunbookError as error:
        return Sentence(str(error))
