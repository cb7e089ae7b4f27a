"""What statements cost in the lab under any set of indexes, asked as seldom as can be."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pgrunbooks.advice.accesses import Parsed
from pgrunbooks.advice.values import Variant
from pgrunbooks.errors import LabError
from pgrunbooks.lab import Index, Lab, Plan
from pgrunbooks.workload import Statement

_WORTH_A_LOOK = 0.99  # of the cost: a candidate that saves less than this anywhere is forgotten


@dataclass(frozen=True)
class Question:
    """A statement as the lab is asked about it; ``weight`` is its share of the workload, the sum of all being 1."""

    statement: Statement
    parsed: Parsed
    variants: tuple[Variant, ...]
    candidates: tuple[Index, ...]
    weight: float
    has_example: bool = False

    @cached_property
    def leading(self) -> frozenset[tuple[str, str]]:
        """Return the table and first key of everything that could help."""
        return frozenset((it.table, it.keys[0].split(" ")[0]) for it in self.candidates)

    def relevant(self, indexes: Iterable[Index]) -> frozenset[Index]:
        """Return those of some indexes that may change this statement's plan."""
        return frozenset(it for it in indexes if (it.table, it.keys[0].split(" ")[0]) in self.leading)


class Costs:
    """The cost of each statement under each set of added indexes, from a cache that knows what a plan used.

    A plan found with many indexes visible is the plan for any fewer as long as those that it used are among them.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.sizes: dict[Index, int] = {}
        self.refused: dict[Index, str] = {}
        self.asked = 0
        self._handles: dict[Index, str] = {}
        self._seen: dict[str, list[tuple[frozenset[Index], frozenset[Index], float]]] = {}

    def add(self, index: Index) -> bool:
        """Add an index to the lab where it is not yet; tell whether it could be built."""
        if index not in self._handles and index not in self.refused:
            try:
                self._handles[index] = self.lab.add(index)
                self.sizes[index] = self.lab.size_bytes(self._handles[index])
            except LabError as error:
                self.refused[index] = str(error)
        return index in self._handles

    def size(self, indexes: Iterable[Index]) -> int:
        """Return the bytes of some indexes."""
        return sum(self.sizes[it] for it in indexes)

    def cost(self, question: Question, indexes: Iterable[Index]) -> float:
        """Return the cost of a statement when these indexes were there, its variants weighed by their shares."""
        visible = question.relevant(indexes)
        return sum(variant.share * self._cost(variant.text, visible) for variant in question.variants)

    def variant(self, variant: Variant, question: Question, indexes: Iterable[Index]) -> float:
        """Return the cost of one variant of a statement."""
        return self._cost(variant.text, question.relevant(indexes))

    def relative(self, question: Question, indexes: Iterable[Index]) -> float:
        """Return the cost as a share of what the statement costs now."""
        base = self.cost(question, ())
        return self.cost(question, indexes) / base if base else 1.0

    def plan(self, variant: Variant, indexes: Iterable[Index]) -> Plan:
        """Return the plan of one variant under these indexes."""
        self.asked += 1
        self.lab.show_only([self._handles[it] for it in sorted(indexes, key=_sorted_by)])
        return self.lab.explain(variant.text)

    def used(self, plan: Plan) -> frozenset[Index]:
        """Return those of the added indexes that a plan uses."""
        return frozenset(index for index, handle in self._handles.items() if handle in plan.indexes)

    def promising(self, question: Question, candidates: Iterable[Index], deadline: float) -> list[frozenset[Index]]:
        """Return those of some candidates that lower the cost of a statement, in the sets that a plan takes together:
        all are shown to the planner at once, those that it takes are put aside, until what is left helps no more.
        """
        candidates = frozenset(it for it in candidates if self.add(it))
        found: dict[frozenset[Index], None] = {}
        for variant in question.variants:
            base = self._cost(variant.text, frozenset())
            left = candidates
            while left and time.monotonic() < deadline:
                cost, used = self._look(variant.text, left)
                if not used or cost > base * _WORTH_A_LOOK:
                    break
                found.setdefault(used)
                left -= used
        return list(found)

    def _cost(self, text: str, visible: frozenset[Index]) -> float:
        return self._look(text, visible)[0]

    def _look(self, text: str, visible: frozenset[Index]) -> tuple[float, frozenset[Index]]:
        for seen, used, cost in self._seen.setdefault(text, []):
            if used <= visible <= seen:
                return cost, used
        plan = self.plan(Variant(text, 1.0, False), visible)
        used = self.used(plan)
        self._seen[text].append((visible, used, plan.cost))
        return plan.cost, used


def _sorted_by(index: Index) -> tuple[str, ...]:
    return (index.table, index.method, *index.keys, "|", *index.include, index.where or "")


def in_order(indexes: Iterable[Index]) -> list[Index]:
    """Return indexes in an order that is always the same."""
    return sorted(indexes, key=_sorted_by)
