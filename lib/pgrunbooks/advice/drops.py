"""What if these indexes were dropped: every drop is proved against the whole workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgrunbooks.advice.catalog import Existing
from pgrunbooks.advice.costs import Costs, Question
from pgrunbooks.lab import Index
from pgrunbooks.workload import Statement

_DEARER = 1.001  # what EXPLAIN prints is rounded


@dataclass(frozen=True)
class Drop:
    """One index that might go: ``worse`` are the statements that would cost more, with the factor; empty is proof.

    ``reason`` says why it must stay whatever the plans are, such as a constraint.
    """

    name: str
    worse: tuple[tuple[Statement, float], ...] = ()
    reason: str | None = None

    @property
    def proved(self) -> bool:
        """Tell whether no statement of the workload needs the index."""
        return not self.worse and self.reason is None


def replaces(index: Index, existing: Existing) -> bool:
    """Tell whether a new index would do all that one does that is there and bound to nothing."""
    return (
        not existing.is_bound
        and existing.method == index.method == "btree"
        and existing.where == index.where
        and index.keys[: len(existing.keys)] == existing.keys
        and set(existing.include) <= {*index.keys, *index.include}
    )


def prove_drops(
    costs: Costs, questions: Sequence[Question], indexes: Sequence[Existing], added: frozenset[Index] = frozenset()
) -> tuple[Drop, ...]:
    """Hide one index after the other and look at every statement; one that is not needed stays hidden for the next,
    so that two indexes which stand in for each other are never both given up.
    """
    before = {question: _cost(costs, question, added) for question in questions}
    drops, hidden = [], []
    try:
        for index in indexes:
            if index.is_bound:
                drops.append(Drop(index.name, reason="it backs a constraint, a foreign key or replication"))
                continue
            costs.lab.hide(index.name)
            hidden.append(index.name)
            worse = []
            for question in questions:
                if index.table in question.parsed.tables:
                    factor = _cost(costs, question, added) / before[question]
                    if factor > _DEARER:
                        worse.append((question.statement, factor))
            if worse:
                costs.lab.show(index.name)
                hidden.pop()
            drops.append(Drop(index.name, tuple(sorted(worse, key=lambda it: (-it[1], it[0].queryid)))))
    finally:
        for name in hidden:
            costs.lab.show(name)
    return tuple(drops)


def _cost(costs: Costs, question: Question, added: frozenset[Index]) -> float:
    """Return a cost that is asked afresh: the cache knows nothing of hidden indexes."""
    visible = question.relevant(added)
    return sum(it.share * costs.plan(it, visible).cost for it in question.variants) or 1.0
