"""The search for a set of indexes: greedy with lazy updates, several scores side by side, then small steps.

In the manner of Extend (Schlosser et al., 2019) and of the anytime DTA (Chaudhuri and Narasayya, 2020): grow a set by
what saves most for its size, then drop, add, and let what is needed least give way to what saves more; stop at any time
with the best set so far.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pgrunbooks.advice.candidates import covers
from pgrunbooks.advice.costs import Costs, Question, in_order
from pgrunbooks.lab import Index

_SCORES = (0.5, 0.0, 1.0)  # exponents of the size that a saving is divided by
_EPSILON = 1e-6
_FELT = 5  # times the gain that is asked for: what an index must save of one statement at least
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
        taken: dict[frozenset[Index], None] = {}
        self.looked_at = 0
        for question in self.questions:
            if time.monotonic() > deadline:
                break
            taken.update(dict.fromkeys(costs.promising(question, question.candidates, deadline)))
            self.looked_at += 1
        # What one plan takes together may save nothing alone, as with an OR over two columns.
        self._together = [it for it in taken if len(it) > 1]
        self._tried = frozenset().union(*taken)
        self.candidates = in_order(self._tried)
        # What the planner does not take for a statement while all that is better is hidden changes nothing for it.
        self._useful = [
            frozenset().union(*costs.promising(question, question.relevant(self.candidates), deadline))
            for question in self.questions
        ]
        # A set is a number here, with a bit for each index, so that a set which was priced before is found at once.
        self._numbered: list[Index] = []
        self._bits: dict[Index, int] = {}
        self._write_shares: dict[Index, float] = {}
        self._masks = [0] * len(self.questions)
        self._priced: list[dict[int, float]] = [{} for _ in self.questions]
        for index in self.candidates:
            self._bit(index)

    def advised(self, budget_bytes: float, gain: float) -> Found:
        """Return the best set within a budget in which every index saves at least ``gain``, see ``pruned``.

        What pruning gave up leaves room in the budget, which goes to others: to better ones than it could before.
        """
        found = self.best(budget_bytes)
        best = self.pruned(found, gain)
        while best.indexes != found.indexes and not self._late():
            given_up = found.indexes - best.indexes
            self.candidates = [it for it in self.candidates if it not in given_up]
            found = self._improved(best.indexes, budget_bytes)
            best = min(best, self.pruned(found, gain), key=lambda it: it.rank)
        return best

    def best(self, budget_bytes: float = float("inf")) -> Found:
        """Return the best set within a budget that was found in time."""
        best = self.priced(frozenset())
        for exponent in _SCORES if math.isfinite(budget_bytes) else _SCORES[:1]:  # sizes weigh where they are bounded
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

        The least useful part goes first. An index must also save some statement five times that share (a quarter where
        a twentieth of the workload is asked for): estimates are not so exact that less would be seen. One that another
        covers goes too, a little cheaper to read as it is, since it would be dropped again. Either goes even when the
        time is up.
        """
        best = found
        while best.indexes:
            cheapest = min(self._reductions(best, gain), key=lambda it: it.rank, default=None)
            if cheapest is None:
                break
            best = cheapest
        return best

    def _reductions(self, found: Found, gain: float) -> Iterator[Found]:
        for index in in_order(found.indexes):
            rest = found.indexes - {index}
            less = self.priced(rest)
            saves = less.cost - found.cost >= max(gain, _EPSILON) and self._is_felt(index, found.indexes, gain)
            if not saves or any(covers(other, index) for other in rest if other.table == index.table):
                yield less
            if self._late():
                continue
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

    def _is_felt(self, index: Index, indexes: frozenset[Index], gain: float) -> bool:
        rest = indexes - {index}
        felt = max(0.0, 1 - _FELT * gain)
        return any(
            self.costs.cost(question, indexes) <= felt * self.costs.cost(question, rest)
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
            tried = index in self._tried
            for place, question in enumerate(self.questions):
                if index in self._useful[place] if tried else question.relevant([index]):
                    self._masks[place] |= self._bits[index]
        return self._bits[index]

    def _relative(self, place: int, mask: int) -> float:
        """Return the cost of one statement under a set, as a share of what it costs now."""
        own = mask & self._masks[place]
        if own not in self._priced[place]:
            visible = [it for number, it in enumerate(self._numbered) if own >> number & 1]
            self._priced[place][own] = self.costs.relative(self.questions[place], visible)
        return self._priced[place][own]

    def _saves(self, more: frozenset[Index], have: frozenset[Index]) -> float:
        return self.cost(have) - self.cost(have | more)

    def _greedy(self, budget_bytes: float, exponent: float) -> frozenset[Index]:
        """Take what scores best until nothing saves; a score is looked at again only when it comes to the top."""
        have: frozenset[Index] = frozenset()
        left = budget_bytes
        moves = [*(frozenset({it}) for it in self.candidates), *self._together]

        def divisor(move: frozenset[Index]) -> float:
            return max(self.costs.size(move - have), 8192) ** exponent  # type: ignore[no-any-return]

        def score(move: frozenset[Index]) -> float:
            return self._saves(move, have) / divisor(move)

        heap = [(-score(it), place, 0) for place, it in enumerate(moves)]
        heapq.heapify(heap)
        while heap and not self._late():
            value, place, seen = heapq.heappop(heap)
            move = moves[place]
            if value >= -_EPSILON / divisor(move):
                break
            size = self.costs.size(move - have)
            if size > left:
                continue
            if seen < len(have):
                heapq.heappush(heap, (-score(move), place, len(have)))
                continue
            have |= move
            left -= size
        return have

    def _improved(self, start: frozenset[Index], budget_bytes: float) -> Found:
        """Go one step after the other for as long as that makes the set better."""
        best = self.priced(start)
        saved: dict[Index, float] = {}
        while not self._late():
            step = self._step(best, budget_bytes, saved)
            if step.rank >= best.rank:
                break
            best = step
        return best

    def _step(self, found: Found, budget_bytes: float, saved: dict[Index, float]) -> Found:
        """Return the best set that is a step away: an index less, or one more and for it what is then needed least.

        ``saved`` is what each index saved when last looked at. It rarely saves more beside others, so what could not
        make up for what gives way is not looked at again.
        """
        have = found.indexes
        rests = [self.priced(have - {it}) for it in in_order(have)]
        best = min((found, *rests), key=lambda it: it.rank)
        others = [it for it in self.candidates if it not in have and self.costs.sizes[it] <= budget_bytes]
        for index in sorted(others, key=lambda it: -saved.get(it, 1.0)):
            room = self._cost_of_room(found, rests, index, budget_bytes)
            if found.cost - saved.get(index, 1.0) + room > best.cost - _EPSILON:
                continue
            if self._late():
                break
            saved[index] = self._saves(frozenset({index}), have)
            if found.cost - saved[index] + room <= best.cost - _EPSILON:
                best = min(best, self._fitted(have, index, budget_bytes), key=lambda it: it.rank)
        return best

    def _cost_of_room(self, found: Found, rests: Sequence[Found], index: Index, budget_bytes: float) -> float:
        """Return what is lost at least by making room for an index, which may stand in for others of its table."""
        wanted = found.size_bytes + self.costs.sizes[index] - budget_bytes
        lost = 0.0
        bytes_and_costs = []
        for rest in rests:
            (gone,) = found.indexes - rest.indexes
            size = found.size_bytes - rest.size_bytes
            if gone.table == index.table:
                wanted -= size
            else:
                bytes_and_costs.append((size, rest.cost - found.cost))
        for size, cost in sorted(bytes_and_costs, key=lambda it: it[1] / it[0]):
            if wanted <= 0:
                break
            lost += cost * min(1.0, wanted / size)
            wanted -= size
        return lost

    def _fitted(self, have: frozenset[Index], index: Index, budget_bytes: float) -> Found:
        """Return a set with one index more, without those that save nothing beside it, and without those that save
        least for the room that they give until it fits.
        """
        found = self.priced(have | {index})
        while len(found.indexes) > 1:
            wanted = max(found.size_bytes - budget_bytes, 1.0)  # more room than that is worth nothing
            rests = [self.priced(found.indexes - {it}) for it in in_order(found.indexes - {index})]
            least = min(rests, key=lambda it: (it.cost - found.cost) / min(found.size_bytes - it.size_bytes, wanted))
            if found.size_bytes <= budget_bytes and least.cost - found.cost > _EPSILON:
                break
            found = least
        return found
