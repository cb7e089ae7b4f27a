"""The advisor: from a session to a short ranked list of indexes, each with what it helps and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pgrunbooks.advice import drops, scopes, values
from pgrunbooks.advice.candidates import candidates
from pgrunbooks.advice.catalog import Catalog, Existing, read_catalog
from pgrunbooks.advice.costs import Costs, Question, in_order
from pgrunbooks.advice.drops import Drop
from pgrunbooks.advice.search import Found, Search
from pgrunbooks.advice.writes import Writes, writes_of
from pgrunbooks.check import Skip
from pgrunbooks.errors import LabError
from pgrunbooks.lab import Index, Lab, Plan, open_lab
from pgrunbooks.session import Session
from pgrunbooks.workload import Statement, Workload, read_workload

SECONDS = 20.0
GAIN = 0.05
MIN_CALLS = 20
MOST_STATEMENTS = 500  # by time; beyond them is a thousandth of most workloads
_WORTH_NAMING = 0.95  # of the cost: what an index saves less of is not listed with it
_MS_PER_COST = (0.0005, 0.05)  # what a unit of the planner takes on a cached and on a slow disk


@dataclass(frozen=True)
class Helped:
    """A statement under an index: its cost before and after, in the planner's units, and both plans."""

    statement: Statement
    before: float
    after: float
    plan_before: Plan
    plan_after: Plan
    generic: bool


@dataclass(frozen=True)
class Proposal:
    """An index that pays for itself; ``gain`` and ``write_cost`` are shares of the workload's time.

    ``redundant`` are indexes that are there and that this one replaces: proved to make no statement dearer.
    """

    index: Index
    gain: float
    write_cost: float
    size_bytes: int
    helped: tuple[Helped, ...]
    redundant: tuple[str, ...] = ()
    confidence: str = "high"

    @property
    def sql(self) -> str:
        """Return the statement that creates the index without blocking writers."""
        return f"{self.index.statement()};"

    @property
    def calls(self) -> int:
        """Return the calls of all statements that it helps."""
        return sum(it.statement.calls for it in self.helped)


@dataclass(frozen=True)
class Advice:
    """The ranked list, the way to it, and what was left out of it with the reason: text or table -> reason."""

    proposals: tuple[Proposal, ...]
    path: tuple[Found, ...]
    statements: int
    workload: Workload
    left_out: Mapping[str, str]
    seconds: float
    complete: bool
    drops: tuple[Drop, ...] = ()
    refused: Mapping[Index, str] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Return what the workload costs with all proposals, writes included, 1 being what it costs now."""
        return self.path[-1].cost if self.path else 1.0


def advise(
    session: Session,
    *,
    workload: Workload | None = None,
    budget_bytes: float = float("inf"),
    seconds: float = SECONDS,
    gain: float = GAIN,
    min_calls: int = MIN_CALLS,
) -> Advice | Skip:
    """Return the indexes that lower the cost of the session's workload by ``gain`` each, or why nothing can be said.

    ``workload`` replaces what pg_stat_statements has; ``seconds`` bounds the search, not the building of the lab.
    Raises LabError where there can be no lab, and psycopg's error where the server refuses to be read.
    """
    start = time.monotonic()
    read = workload or read_workload(session, min_calls=min_calls)
    if isinstance(read, Skip):
        return read
    catalog = read_catalog(session)
    parsed, left_out = _parsed(read.statements[:MOST_STATEMENTS], catalog)
    tables = frozenset(table for _, it in parsed for table in it.tables)
    if not tables:
        return Advice((), (), 0, read, left_out, time.monotonic() - start, True)
    with open_lab(session, sorted(tables)) as lab:
        left_out |= lab.left_out
        costs = Costs(lab)
        questions = _questions(parsed, catalog, costs, left_out)
        writes = _writes(questions, parsed, costs, catalog, read, session.server.counters_age_s)

        def write_share(index: Index) -> float:
            return writes.share(index, index_columns(index, catalog))

        search = Search(questions, costs, write_share, time.monotonic() + seconds)
        found = search.without(search.best(budget_bytes), gain)
        proposals = [_proposal(it, found, search, catalog, write_share) for it in in_order(found.indexes)]
        proposals.sort(key=lambda it: (-it.gain, it.size_bytes, it.sql))
        return Advice(
            proposals=tuple(proposals),
            path=tuple(search.path(found)),
            statements=search.looked_at,
            workload=read,
            left_out=left_out,
            seconds=time.monotonic() - start,
            complete=found.complete and search.looked_at == len(questions),
            refused=costs.refused,
        )


def index_columns(index: Index, catalog: Catalog) -> frozenset[str]:
    """Return the columns whose change an index must see: of its keys, of INCLUDE and of its predicate."""
    text = " ".join((*index.keys, *index.include, index.where or ""))
    table = catalog.tables[index.table]
    words = scopes.identifiers(text)
    return frozenset(name for name in table.columns if name in words)


def _parsed(
    statements: Iterable[Statement], catalog: Catalog
) -> tuple[list[tuple[Statement, scopes.Parsed]], dict[str, str]]:
    found, left_out = [], {}
    for statement in statements:
        try:
            text = values.restored(scopes.repaired(statement.text), catalog)
            parsed = scopes.parse(text, catalog.find)
        except scopes.NotUnderstood as error:
            left_out[statement.text] = str(error)
        else:
            if parsed.tables:
                found.append((statement, parsed))
    return found, left_out


def _questions(
    parsed: Sequence[tuple[Statement, scopes.Parsed]], catalog: Catalog, costs: Costs, left_out: dict[str, str]
) -> list[Question]:
    """Return what the lab is asked; a statement that it cannot explain is left out, with its reason."""
    questions = []
    total = sum(statement.total_ms for statement, _ in parsed) or 1.0
    for statement, it in parsed:
        rows = statement.rows / statement.calls if statement.calls else 0.0
        found = dict.fromkeys(index for access in it.accesses for index in candidates(access, catalog))
        usable = tuple(index for index in found if index.table in costs.lab.tables)
        variants = tuple(values.variants(it, catalog, rows))
        question = Question(statement, it, variants, usable, statement.total_ms / total)
        try:
            costs.cost(question, ())
        except LabError:
            question = replace(question, variants=(values.Variant(it.text, 1.0, True),))
            try:
                costs.cost(question, ())
            except LabError as error:
                left_out[statement.text] = str(error)
                continue
        questions.append(question)
    return questions


def _writes(
    questions: Sequence[Question],
    parsed: Sequence[tuple[Statement, scopes.Parsed]],
    costs: Costs,
    catalog: Catalog,
    workload: Workload,
    counters_age_s: float | None,
) -> Writes:
    units = sum(costs.cost(it, ()) * it.statement.calls for it in questions)
    total_ms = sum(statement.total_ms for statement, _ in parsed)
    low, high = _MS_PER_COST
    window = workload.window_s / counters_age_s if workload.window_s and counters_age_s else 1.0
    updates = (
        (write.table, write.columns, float(statement.rows or statement.calls))
        for statement, it in parsed
        for write in it.writes
        if write.command == "update"
    )
    return writes_of(
        catalog,
        updates,
        window_share=min(window, 1.0),
        ms_per_cost=min(max(total_ms / units, low), high) if units else low,
        total_ms=total_ms,
    )


def _proposal(
    index: Index, found: Found, search: Search, catalog: Catalog, write_share: Any
) -> Proposal:
    without = found.indexes - {index}
    helped = [it for it in (_helped(q, found.indexes, index, search.costs) for q in search.questions) if it]
    helped.sort(key=lambda it: (it.after / it.before * it.statement.total_ms - it.statement.total_ms, it.statement.queryid))
    return Proposal(
        index=index,
        gain=search.cost(without) - search.cost(found.indexes),
        write_cost=write_share(index),
        size_bytes=search.costs.sizes[index],
        helped=tuple(helped),
        redundant=tuple(it.name for it in catalog.tables[index.table].indexes if drops.replaces(index, it)),
        confidence="lower" if any(it.generic for it in helped) else "high",
    )


def _helped(question: Question, indexes: frozenset[Index], index: Index, costs: Costs) -> Helped | None:
    """Return what an index does for a statement, by the variant that it helps most."""
    if not question.relevant([index]):
        return None
    before, after = costs.cost(question, ()), costs.cost(question, indexes)
    if after > before * _WORTH_NAMING or costs.cost(question, indexes - {index}) * _WORTH_NAMING < after:
        return None
    variant = min(question.variants, key=lambda it: costs.variant(it, question, indexes) / costs.variant(it, question, ()))
    return Helped(
        question.statement,
        before,
        after,
        costs.plan(variant, ()),
        costs.plan(variant, question.relevant(indexes)),
        variant.generic,
    )


def replaced(index: Index, catalog: Catalog) -> list[Existing]:
    """Return the indexes that are there and that an index would make redundant."""
    return [it for it in catalog.tables[index.table].indexes if drops.replaces(index, it)]


__all__ = ["Advice", "Helped", "Lab", "Proposal", "advise"]
