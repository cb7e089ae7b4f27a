"""The advisor: from a session to a short ranked list of indexes, each with what it helps and what it costs."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pgrunbooks.advice import drops, hypothetical, policies, scopes, values
from pgrunbooks.advice.accesses import AmbiguousName, NotUnderstood, Parsed
from pgrunbooks.advice.candidates import candidates
from pgrunbooks.advice.catalog import Catalog, Existing, read_catalog
from pgrunbooks.advice.costs import Costs, Question, in_order
from pgrunbooks.advice.drops import Drop
from pgrunbooks.advice.expressions import identifiers, quoted, repaired, retyped, split, with_parameter
from pgrunbooks.advice.search import Found, Search
from pgrunbooks.advice.statement import names_for
from pgrunbooks.advice.writes import Writes, writes_of
from pgrunbooks.check import Skip
from pgrunbooks.errors import LabError, UnknownNameError
from pgrunbooks.lab import Index, Plan, open_lab
from pgrunbooks.session import Session
from pgrunbooks.workload import Statement, Workload, read_examples, read_workload

SECONDS = 20.0
GAIN = 0.05
MIN_CALLS = 20
MOST_STATEMENTS = 500  # by time; beyond them is a thousandth of most workloads
_MOST_VARIABLES = 20  # of a function, in one statement
_FAST_MS = 0.1  # a call that takes less asks for no index: most of it is the start of the executor, which none saves
_MANY_ROWS = 25  # a call: fewer are a few visits to the heap, which INCLUDE could save
_REAL_SHARE = 0.5  # of the calls, for one whose constants are known
_WORTH_NAMING = 0.95  # of the cost: what an index saves less of is not listed with it
_MS_PER_COST = (0.0005, 0.05)  # what a unit of the planner takes on a cached and on a slow disk


@dataclass(frozen=True)
class Helped:
    """A statement under the proposed set: its cost before and after, in the planner's units, and both plans.

    The plans are those of ``variant``, the values with which the index helps most; ``on_production`` are its costs
    before and after as production's own planner sees them through HypoPG.
    """

    statement: Statement
    before: float
    after: float
    plan_before: Plan
    plan_after: Plan
    variant: values.Variant
    on_production: tuple[float, float] | None = None


@dataclass(frozen=True)
class Proposal:
    """An index that pays for itself; ``gain`` and ``write_cost`` are shares of the workload's time.

    ``name`` is 'schema.index', quoted and free. ``redundant`` are indexes that are there and that this one replaces:
    proved to make no statement dearer. ``partitions`` has the index that each partition still lacks, by name, where the
    table is partitioned: CONCURRENTLY works on one partition at a time only.
    """

    index: Index
    gain: float
    write_cost: float
    size_bytes: int
    helped: tuple[Helped, ...]
    name: str
    redundant: tuple[str, ...] = ()
    confidence: str = "high"
    partitions: Mapping[str, Index] | None = None

    @property
    def sql(self) -> str:
        """Return the statement that creates the index without blocking writers, or those that do so by partition."""
        steps = [part.statement(_bare(name)) for name, part in (self.partitions or {}).items()]
        steps.append(self.index.statement(_bare(self.name), concurrently=self.partitions is None))
        return "\n".join(f"{it};" for it in steps)

    @property
    def undo(self) -> str:
        """Return the statement that drops it again."""
        return f"drop index {'concurrently ' if self.partitions is None else ''}{self.name};"

    @property
    def calls(self) -> int:
        """Return the calls of all statements that it helps."""
        return sum(it.statement.calls for it in self.helped)


@dataclass(frozen=True)
class Advice:
    """The ranked list, the way to it, and what was left out of it with the reason: text or table -> reason.

    ``unseen`` are the tables among ``left_out``. ``refused`` are candidates that PostgreSQL does not build; ``lost``
    names, by statement that weighs as much as ``gain`` and reads a whole table, the expressions whose constants
    normalisation took away: an index on them can be proposed only where pg_qualstats keeps real calls. ``planner`` is
    the major version of the lab's planner, None where none was asked.
    """

    proposals: tuple[Proposal, ...]
    path: tuple[Found, ...]
    statements: int
    workload: Workload
    left_out: Mapping[str, str]
    seconds: float
    complete: bool
    unseen: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[Index, str] = field(default_factory=dict)
    lost: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    planner: int | None = None

    @property
    def cost(self) -> float:
        """Return what the workload costs with all proposals, writes included, 1 being what it costs now."""
        return self.path[-1].cost if self.path else 1.0


@dataclass(frozen=True)
class Study:
    """A workload in the lab: every statement that could be understood, and what is known around it."""

    workload: Workload
    catalog: Catalog
    costs: Costs
    questions: tuple[Question, ...]
    writes: Writes
    left_out: Mapping[str, str]
    unseen: Mapping[str, str]

    def write_share(self, index: Index) -> float:
        """Return what keeping an index costs, as a share of the workload's time."""
        return self.writes.share(index, index_columns(index, self.catalog))


@contextlib.contextmanager
def study(session: Session, workload: Workload) -> Iterator[Study | None]:
    """Open a lab with the tables of a workload and bring its statements there; None where they read no table.

    Raises LabError where there can be no lab, and psycopg's error where the server refuses to be read.
    """
    catalog = read_catalog(session)
    statements = workload.statements[:MOST_STATEMENTS]
    conditions = policies.read_policies(session, {it.role for it in statements})
    parsed, errors = _parsed(statements, catalog, conditions)
    left_out = {text: str(error) for text, error in errors.items()}
    ambiguous = [error for error in errors.values() if isinstance(error, AmbiguousName)]
    unseen = {it.name: _ambiguous(it, session.server.quoted_role) for it in ambiguous}
    tables = sorted({table for _, it in parsed for table in it.tables})
    if not tables and unseen:
        raise LabError("; ".join(unseen.values()))
    if not tables:
        yield None
        return
    with open_lab(session, tables) as lab:
        costs = Costs(lab)
        left_out |= lab.left_out
        questions = _questions(parsed, catalog, costs, left_out, _examples(session, workload, catalog))
        writes = _writes(questions, parsed, costs, catalog, workload, session.server.counters_age_s)
        yield Study(workload, catalog, costs, tuple(questions), writes, left_out, {**unseen, **lab.left_out})


def kept_study(session: Session) -> Study | Skip | None:
    """Return the study of what pg_stat_statements has, opened once for a session, since the lab takes a second.

    None where no statement reads a table. Raises what ``study`` raises.
    """
    read = read_workload(session)
    return read if isinstance(read, Skip) else session.keep("study", lambda: study(session, read))


@contextlib.contextmanager
def _studied(session: Session, workload: Workload | None) -> Iterator[Study | Skip | None]:
    if workload:
        with study(session, workload) as it:
            yield it
    else:
        yield kept_study(session)


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
    Where production has HypoPG, its planner is asked about the final set once.
    Raises LabError where there can be no lab, and psycopg's error where the server refuses to be read.
    """
    start = time.monotonic()
    with _studied(session, workload) as it:
        if isinstance(it, Skip):
            return it
        often = [question for question in it.questions if question.statement.calls >= min_calls] if it else []
        if not it or not often:
            seconds = time.monotonic() - start
            if not it:
                return Advice((), (), 0, Workload(()), {}, seconds, True)
            return Advice((), (), 0, it.workload, it.left_out, seconds, True, it.unseen)
        whole = sum(question.weight for question in often)
        questions = [replace(question, weight=question.weight / whole) for question in often]

        def write_share(index: Index) -> float:
            return it.write_share(index) / whole

        search = Search(questions, it.costs, write_share, time.monotonic() + seconds)
        found = search.advised(budget_bytes, gain)
        parts = {index: _on_partitions(index, it.catalog) for index in in_order(found.indexes)}
        every = [each for index, some in parts.items() for each in (*(some or ()), index)]
        names = names_for(every, it.catalog.names)
        proposals = [
            replace(
                _proposal(index, names[index], found, search, it, write_share(index)),
                partitions=None if some is None else {names[part]: part for part in some},
            )
            for index, some in parts.items()
        ]
        proposals.sort(key=lambda each: (-each.gain, each.size_bytes, each.sql))
        return Advice(
            proposals=hypothetical.checked(session, proposals),
            path=tuple(search.path(found)),
            statements=search.looked_at,
            workload=it.workload,
            left_out=it.left_out,
            seconds=time.monotonic() - start,
            complete=found.complete and search.looked_at == len(questions),
            unseen=it.unseen,
            refused=it.costs.refused,
            lost={
                question.statement.text: tuple(sorted(question.parsed.lost))
                for question in questions
                if question.weight >= gain and _reads_all_for_want_of_a_constant(question, found.indexes, it.costs)
            },
            planner=it.costs.lab.major,
        )


def what_if_dropped(
    session: Session, names: Sequence[str], *, workload: Workload | None = None
) -> tuple[Drop, ...] | Skip:
    """Return, for each index ('schema.index'), whether every statement of the workload does as well without it.

    They are given up in this order, so that of two which stand in for each other one stays. An index on a table that no
    statement reads is needed by none. Raises LabError as ``advise`` does.
    """
    with _studied(session, workload) as it:
        if isinstance(it, Skip):
            return it
        tables = {name: table for name, table in it.catalog.tables.items() if name in it.costs.lab.tables} if it else {}
        read = [index for table in tables.values() for index in table.indexes if index.name in names]
        unread = [name for name in names if name not in {index.name for index in read}]
        proved = (
            drops.prove_drops(it.costs, it.questions, sorted(read, key=lambda index: names.index(index.name)))
            if it
            else ()
        )
        return (*proved, *(Drop(name) for name in unread))


def index_columns(index: Index, catalog: Catalog) -> frozenset[str]:
    """Return the columns whose change an index must see: of its keys, of INCLUDE and of its predicate."""
    text = " ".join((*index.keys, *index.include, index.where or ""))
    table = catalog.tables[index.table]
    words = identifiers(text)
    return frozenset(name for name in table.columns if name in words)


def _ambiguous(error: AmbiguousName, role: str) -> str:
    cure = f"alter role {role} set search_path = {quoted(error.schemas[0])};"
    return f"{error}, and none of them is on the search path of the role that asked or of {role}: {cure}"


def _parsed(
    statements: Iterable[Statement], catalog: Catalog, conditions: Mapping[str, Mapping[str, str]]
) -> tuple[list[tuple[Statement, Parsed]], dict[str, NotUnderstood]]:
    """Return what could be read, as row level security lets its role read it, and text -> why of the others."""
    found, errors = [], {}
    for statement in statements:
        try:
            text = values.restored(repaired(statement.text), catalog)
            parsed = _read(text, catalog, statement.search_path)
            if not parsed.tables.isdisjoint(conditions[statement.role]):
                parsed = _guarded(parsed, catalog, conditions[statement.role])
        except NotUnderstood as error:
            errors[statement.text] = error
        else:
            if parsed.tables:
                found.append((statement, parsed))
    return found, errors


def _read(text: str, catalog: Catalog, path: Sequence[str] = ()) -> Parsed:
    """Return a statement that is read, with what it asks of tables that inherit from those that it names."""
    it = scopes.parse(text, catalog.find, path)
    inherited = [replace(access, table=heir) for access in it.accesses for heir in catalog.heirs.get(access.table, ())]
    tables = it.tables.union(access.table for access in inherited)
    return replace(it, accesses=(*it.accesses, *inherited), tables=tables)


def _guarded(it: Parsed, catalog: Catalog, conditions: Mapping[str, str]) -> Parsed:
    first = 1 + max(values.parameters(it.text), default=0)
    read = _read(policies.guarded(it.text, conditions), catalog)
    visible = (
        policies.visible(each, catalog.tables[each.table], first) if each.table in conditions else each
        for each in read.accesses
    )
    return replace(read, accesses=tuple(visible))


def _examples(session: Session, workload: Workload, catalog: Catalog) -> dict[int, Parsed]:
    """Return query id -> one real call of it, for those that pg_qualstats has and that can be read."""
    paths = {it.queryid: it.search_path for it in workload.statements}
    found = {}
    for queryid, text in read_examples(session).items():
        try:
            found[queryid] = _read(text, catalog, paths.get(queryid, ()))
        except NotUnderstood:
            continue  # the statement itself is left out with its reason
    return found


def _questions(
    parsed: Sequence[tuple[Statement, Parsed]],
    catalog: Catalog,
    costs: Costs,
    left_out: dict[str, str],
    examples: Mapping[int, Parsed],
) -> list[Question]:
    """Return what the lab is asked; a statement that it cannot explain is left out, with its reason."""
    questions = []
    total = sum(statement.total_ms for statement, _ in parsed) or 1.0
    for statement, original in parsed:
        example = examples.get(statement.queryid)
        try:
            it, variants = _understood(original, example, catalog, costs, statement)
        except LabError as error:
            left_out[statement.text] = str(error)
            continue
        covering = it.condenses or statement.mean_rows >= _MANY_ROWS
        accesses = (*it.accesses, *(example.accesses if example else ()))
        found = dict.fromkeys(index for access in accesses for index in candidates(access, catalog, covering=covering))
        usable = tuple(index for index in found if index.table in costs.lab.tables)
        weight = statement.total_ms / total
        questions.append(Question(statement, it, variants, usable, weight, has_example=bool(example)))
    wanted = {index for it in questions if it.statement.mean_ms >= _FAST_MS for index in it.candidates}
    return [replace(it, candidates=tuple(index for index in it.candidates if index in wanted)) for it in questions]


def _understood(
    it: Parsed, example: Parsed | None, catalog: Catalog, costs: Costs, statement: Statement
) -> tuple[Parsed, tuple[values.Variant, ...]]:
    """Return a statement with its variants; one of a function has parameters where it names variables of it."""
    for _ in range(_MOST_VARIABLES):
        try:
            return it, _explained(it, example, catalog, costs, statement)
        except UnknownNameError:
            text = _without_a_variable(it.text.strip(), costs)
            if text is None:
                raise
            it = _read(text, catalog)
    return it, _explained(it, example, catalog, costs, statement)


def _without_a_variable(text: str, costs: Costs) -> str | None:
    try:
        costs.lab.explain(text)
    except UnknownNameError as error:
        return with_parameter(text, error.place)
    except LabError:
        return None
    return None


def _explained(
    it: Parsed, example: Parsed | None, catalog: Catalog, costs: Costs, statement: Statement
) -> tuple[values.Variant, ...]:
    """Return the variants that the lab can explain; where a value does not fit, the statement as it stands.

    A real call stands for half of the calls: others may have other constants, which a partial index must not forget.
    Where there was only one call, it is known.
    """
    guessed = _guessed(it, catalog, costs, statement.mean_rows)
    if not example:
        return guessed
    real = values.Variant(example.text, max(_REAL_SHARE, 1 / max(statement.calls, 1)), generic=False)
    with contextlib.suppress(LabError):
        costs.plan(real, ())
        others = (replace(variant, share=variant.share * (1 - real.share)) for variant in guessed)
        guessed = (*(variant for variant in others if variant.share), real)
    return tuple(guessed)


def _guessed(it: Parsed, catalog: Catalog, costs: Costs, rows_per_call: float) -> tuple[values.Variant, ...]:
    refused: list[LabError] = []
    for text in itertools.chain((it.text,), retyped(it.text)):
        generic = values.Variant(text, 1.0, True)
        for guessed in (values.variants(replace(it, text=text), catalog, rows_per_call), (generic,)):
            try:
                return values.weighed(guessed, [costs.plan(variant, ()).rows for variant in guessed], rows_per_call)
            except LabError as error:
                refused.append(error)
    raise refused[0]


def _writes(
    questions: Sequence[Question],
    parsed: Sequence[tuple[Statement, Parsed]],
    costs: Costs,
    catalog: Catalog,
    workload: Workload,
    counters_age_s: float | None,
) -> Writes:
    # a row that is written takes what no planner counts
    reading = [it for it in questions if not it.parsed.writes] or questions
    units = sum(costs.cost(it, ()) * it.statement.calls for it in reading)
    read_ms = sum(it.statement.total_ms for it in reading)
    low, high = _MS_PER_COST
    window = workload.window_s / counters_age_s if workload.window_s and counters_age_s else 1.0
    written = (
        (write, statement.calls, float(max(statement.rows, statement.calls)))
        for statement, it in parsed
        for write in it.writes
    )
    return writes_of(
        catalog,
        written,
        window_share=min(window, 1.0),
        ms_per_cost=min(max(read_ms / units, low), high) if units else low,
        total_ms=sum(statement.total_ms for statement, _ in parsed),
    )


def _proposal(index: Index, name: str, found: Found, search: Search, study: Study, write_cost: float) -> Proposal:
    without = found.indexes - {index}
    helped = [it for it in (_helped(q, found.indexes, index, search.costs) for q in search.questions) if it]
    helped.sort(
        key=lambda it: (it.after / it.before * it.statement.total_ms - it.statement.total_ms, it.statement.queryid)
    )
    return Proposal(
        index=index,
        gain=search.cost(without) - search.cost(found.indexes),
        write_cost=write_cost,
        size_bytes=search.costs.sizes[index],
        helped=tuple(helped),
        name=name,
        redundant=_redundant(index, found, study),
        confidence="lower" if any(it.variant.generic for it in helped) else "high",
    )


def _helped(question: Question, indexes: frozenset[Index], index: Index, costs: Costs) -> Helped | None:
    """Return what an index does for a statement, by the variant that it helps most."""
    if not question.relevant([index]):
        return None
    before, after = costs.cost(question, ()), costs.cost(question, indexes)
    if after > before * _WORTH_NAMING or costs.cost(question, indexes - {index}) * _WORTH_NAMING < after:
        return None
    variant = min(
        question.variants, key=lambda it: costs.variant(it, question, indexes) / costs.variant(it, question, ())
    )
    return Helped(
        question.statement,
        before,
        after,
        costs.plan(variant, ()),
        costs.plan(variant, question.relevant(indexes)),
        variant,
    )


def _reads_all_for_want_of_a_constant(question: Question, indexes: frozenset[Index], costs: Costs) -> bool:
    if not question.parsed.lost or question.has_example:
        return False
    plans = (costs.plan(variant, question.relevant(indexes)) for variant in question.variants)
    return any("Seq Scan" in plan.outline() for plan in plans)


def _on_partitions(index: Index, catalog: Catalog) -> list[Index] | None:
    """Return an index as each partition that has none like it would have it; None where the table has no partitions."""
    partitions = catalog.partitions(index.table)
    if partitions is None:
        return None
    wanted = [replace(index, table=table) for table in partitions]
    return [it for it in wanted if not any(_is_like(it, other) for other in catalog.tables[it.table].indexes)]


def _is_like(index: Index, existing: Existing) -> bool:
    names = ("method", "keys", "include", "where")
    return all(getattr(index, name) == getattr(existing, name) for name in names)


def _bare(name: str) -> str:
    return split(name)[1]


def _redundant(index: Index, found: Found, study: Study) -> tuple[str, ...]:
    """Return the indexes that are there and that the new one replaces, each proved against the workload."""
    there = [it for it in study.catalog.tables[index.table].indexes if drops.replaces(index, it)]
    proved = drops.prove_drops(study.costs, study.questions, there, found.indexes)
    return tuple(it.name for it in proved if it.proved)
