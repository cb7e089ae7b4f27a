"""The search for a set of indexes: greedy with lazy updates, several scores side by side, then small steps.

In the manner of Extend (Schlosser et al., 2019) and of the anytime DTA (Chaudhuri and Narasayya, 2020): grow a set by
what saves most for its size, widen, exchange and drop, and stop at any time with the best set so far.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pgrunbooks.advice.costs import Costs, Question, in_order
from pgrunbooks.lab import Index

_SCORES = (0.5, 0.0, 1.0)  # exponents of the size that a saving is divided by
_EPSILON = 1e-6
_FELT = 0.75
_KEY_GAIN = 0.002
_SAME = 1.05

WriteShare = Callable[[Index], float]


@dataclass(frozen=True)
class Found:
    """A set of indexes and what the workload costs with it, writes included, 1 being what it costs now."""

    indexes: frozenset[Index]
    cost: float
    size_bytes: int
    complete: bool = True

    @property
    def rank(self) -> tuple[float, int, int]:
        """Return what makes one set better than another: cost, then size, then number."""
        return (round(self.cost, 5), self.size_bytes, len(self.indexes))


class Search:
    """One search over the candidates of a workload; every answer of the lab is kept, so budgets can follow quickly."""

    def __init__(self, questions: Sequence[Question], costs: Costs, write_share: WriteShare, deadline: float) -> None:
        self.questions = list(questions)
        self.costs = costs
        self.write_share = write_share
        self.deadline = deadline
        promising: dict[Index, None] = {}
        self.looked_at = 0
        for question in self.questions:
            if time.monotonic() > deadline:
                break
            promising.update(dict.fromkeys(costs.promising(question, deadline)))
            self.looked_at += 1
        self.candidates = in_order(promising)
        # A set is a number here, with a bit for each index, so that a set which was priced before is found at once.
        self._numbered: list[Index] = []
        self._bits: dict[Index, int] = {}
        self._write_shares: dict[Index, float] = {}
        self._masks = [0] * len(self.questions)
        self._priced: list[dict[int, float]] = [{} for _ in self.questions]
        for index in self.candidates:
            self._bit(index)

    def best(self, budget_bytes: float = float("inf")) -> Found:
        """Return the best set within a budget that was found in time."""
        best = self.priced(frozenset())
        for exponent in _SCORES:
            found = self._improved(self._greedy(budget_bytes, exponent), budget_bytes)
            best = min(best, found, key=lambda it: it.rank)
            if self._late():
                break
        return best

    def path(self, found: Found) -> list[Found]:
        """Return the sets from nothing to a set, each with the index more that saves most."""
        steps = [self.priced(frozenset())]
        while len(steps[-1].indexes) < len(found.indexes):
            have = steps[-1].indexes
            steps.append(
                min((self.priced(have | {it}) for it in in_order(found.indexes - have)), key=lambda it: it.rank)
            )
        return steps

    def cost(self, indexes: frozenset[Index]) -> float:
        """Return what the workload costs with a set of indexes, writes included."""
        mask = 0
        for index in indexes:
            mask |= self._bit(index)
        reads = (question.weight * self._relative(place, mask) for place, question in enumerate(self.questions))
        return math.fsum((*reads, *(self._write_shares[it] for it in indexes)))  # exact, so in any order

    def pruned(self, found: Found, gain: float) -> Found:
        """Return a set in which every index saves at least ``gain``, every INCLUDE too, and every last key something.

        The least useful part goes first. An index must also make some statement cheaper by a quarter: estimates are
        not so exact that less would be seen.
        """
        best = found
        while best.indexes and not self._late():
            cheapest = min(self._reductions(best, gain), key=lambda it: it.rank, default=None)
            if cheapest is None:
                break
            best = cheapest
        return best

    def _reductions(self, found: Found, gain: float) -> Iterator[Found]:
        for index in in_order(found.indexes):
            rest = found.indexes - {index}
            less = self.priced(rest)
            if less.cost - found.cost < max(gain, _EPSILON) or not self._is_felt(index, found.indexes):
                yield less
            shorter = [(replace(index, include=()), gain)] if index.include else []
            if not index.include and len(index.keys) > 1 and index.method == "btree":
                shorter.append((replace(index, keys=index.keys[:-1]), min(gain, _KEY_GAIN)))
            for it, limit in shorter:
                if it not in found.indexes and self.costs.add(it):
                    smaller = self.priced(rest | {it})
                    kept = index.include or not self._dearer(found.indexes, smaller.indexes)
                    if kept and smaller.cost - found.cost < max(limit, _EPSILON):
                        yield smaller

    def _dearer(self, before: frozenset[Index], after: frozenset[Index]) -> bool:
        cost = self.costs.variant
        return any(
            cost(variant, it, after) > _SAME * cost(variant, it, before)
            for it in self.questions
            for variant in it.variants
        )

    def _is_felt(self, index: Index, indexes: frozenset[Index]) -> bool:
        rest = indexes - {index}
        return any(
            self.costs.cost(question, indexes) <= _FELT * self.costs.cost(question, rest)
            for question in self.questions
            if question.relevant([index])
        )

    def priced(self, indexes: frozenset[Index]) -> Found:
        """Return a set with its cost and size."""
        return Found(indexes, self.cost(indexes), self.costs.size(indexes), not self._late())

    def _late(self) -> bool:
        return time.monotonic() > self.deadline

    def _bit(self, index: Index) -> int:
        if index not in self._bits:
            self._bits[index] = 1 << len(self._numbered)
            self._numbered.append(index)
            self._write_shares[index] = self.write_share(index)
            for place, question in enumerate(self.questions):
                if question.relevant([index]):
                    self._masks[place] |= self._bits[index]
        return self._bits[index]

    def _relative(self, place: int, mask: int) -> float:
        """Return the cost of one statement under a set, as a share of what it costs now."""
        own = mask & self._masks[place]
        if own not in self._priced[place]:
            visible = [it for number, it in enumerate(self._numbered) if own >> number & 1]
            self._priced[place][own] = self.costs.relative(self.questions[place], visible)
        return self._priced[place][own]

    def _saves(self, index: Index, have: frozenset[Index]) -> float:
        return self.cost(have) - self.cost(have | {index})

    def _greedy(self, budget_bytes: float, exponent: float) -> frozenset[Index]:
        """Take what scores best until nothing saves; a score is looked at again only when it comes to the top."""
        have: frozenset[Index] = frozenset()
        left = budget_bytes

        def score(index: Index) -> float:
            size: float = max(self.costs.sizes[index], 8192) ** exponent
            return self._saves(index, have) / size

        heap = [(-score(it), place, 0) for place, it in enumerate(self.candidates)]
        heapq.heapify(heap)
        while heap and not self._late():
            value, place, seen = heapq.heappop(heap)
            index = self.candidates[place]
            if value >= -_EPSILON / max(self.costs.sizes[index], 8192) ** exponent:
                break
            if self.costs.sizes[index] > left:
                continue
            if seen < len(have):
                heapq.heappush(heap, (-score(index), place, len(have)))
                continue
            have |= {index}
            left -= self.costs.sizes[index]
        return have

    def _improved(self, start: frozenset[Index], budget_bytes: float) -> Found:
        """Drop, exchange and add one index at a time for as long as that makes the set better."""
        best = self.priced(start)
        while not self._late():
            step = min(self._steps(best.indexes, budget_bytes), key=lambda it: it.rank, default=best)
            if step.rank >= best.rank:
                break
            best = step
        return best

    def _steps(self, have: frozenset[Index], budget_bytes: float) -> Sequence[Found]:
        tables = {
            it: [other for other in self.candidates if other.table == it.table and other not in have] for it in have
        }
        sets = [have - {it} for it in in_order(have)]
        sets += [have - {it} | {other} for it in in_order(have) for other in tables[it]]
        sets += [have | {it} for it in self.candidates if it not in have]
        steps = []
        for indexes in sets:
            if self._late():
                break
            if self.costs.size(indexes) <= budget_bytes:
                steps.append(self.priced(indexes))
        return steps
