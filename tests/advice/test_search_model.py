"""The search on a model of a few costs: sets that no greedy rule finds, and what it does with the room that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from pgrunbooks.advice.accesses import Parsed
from pgrunbooks.advice.costs import Question
from pgrunbooks.advice.search import _SCORES, Search
from pgrunbooks.lab import Index
from pgrunbooks.workload import Statement

FAR = float("inf")
MB = 2**20


class Model:
    """Costs where each index saves a share of one statement, the best one there of those on the same column."""

    def __init__(self, savings: Mapping[Index, float], megabytes: Mapping[Index, float]) -> None:
        self.savings = savings
        self.sizes = {index: round(it * MB) for index, it in megabytes.items()}

    def promising(self, question: Question, candidates: Iterable[Index], deadline: float) -> list[frozenset[Index]]:
        return [frozenset({it}) for it in candidates]

    def add(self, index: Index) -> bool:
        return index in self.sizes

    def size(self, indexes: Iterable[Index]) -> int:
        return sum(self.sizes[it] for it in indexes)

    def relative(self, question: Question, indexes: Iterable[Index]) -> float:
        best: dict[str, float] = {}
        for it in question.relevant(indexes):
            best[it.keys[0]] = max(best.get(it.keys[0], 0.0), self.savings[it])
        return 1 - sum(best.values())

    def cost(self, question: Question, indexes: Iterable[Index]) -> float:
        return self.relative(question, indexes)


class Together(Model):
    """Costs where the indexes of a statement save something only when all of them are there."""

    def promising(self, question: Question, candidates: Iterable[Index], deadline: float) -> list[frozenset[Index]]:
        return [frozenset(candidates)]

    def relative(self, question: Question, indexes: Iterable[Index]) -> float:
        return 1 - min(self.savings[it] for it in question.candidates) * (set(question.candidates) <= set(indexes))


class Apart(Model):
    """Costs where each index saves its share whatever else is there."""

    def relative(self, question: Question, indexes: Iterable[Index]) -> float:
        return 1 - sum(self.savings[it] for it in question.relevant(indexes)) / 2

    def variant(self, variant: object, question: Question, indexes: Iterable[Index]) -> float:
        return self.relative(question, indexes)


def on(table: str, *keys: str) -> Index:
    return Index(f"shop.{table}", keys)


A, B, D, E = (on(name, "id") for name in "abde")
MEGABYTES = {A: 6, B: 4, D: 1, E: 9}
SAVINGS = {A: 0.36, B: 0.30, D: 0.20, E: 0.40}


def searched(savings: Mapping[Index, float], megabytes: Mapping[Index, float], model: type[Model] = Model) -> Search:
    """Return a search over one statement a table, all of the same weight."""
    tables = sorted({it.table for it in savings})
    questions = [
        Question(
            Statement(f"select from {table}", number, 100, 1.0),
            Parsed(table, (), (), frozenset({table}), frozenset(), frozenset()),
            (),
            tuple(it for it in savings if it.table == table),
            1 / len(tables),
        )
        for number, table in enumerate(tables)
    ]
    return Search(questions, model(savings, megabytes), lambda index: 0.0, FAR)


@pytest.mark.parametrize("exponent", _SCORES)
def test_no_greedy_rule_finds_the_best_set_here(exponent):
    assert searched(SAVINGS, MEGABYTES)._greedy(10 * MB, exponent) != {A, B}


def test_what_is_needed_least_gives_way_to_what_saves_more():
    assert searched(SAVINGS, MEGABYTES).best(10 * MB).indexes == {A, B}


@pytest.mark.parametrize(("budget", "best"), [(0.5, set()), (1, {D}), (5, {B, D}), (11, {A, B, D}), (20, {A, B, D, E})])
def test_a_budget_is_filled_with_what_saves_most(budget, best):
    assert searched(SAVINGS, MEGABYTES).best(budget * MB).indexes == best


def test_without_a_budget_sizes_do_not_matter():
    assert searched(SAVINGS, MEGABYTES).best().indexes == {A, B, D, E}


def test_a_wider_index_replaces_the_narrower_that_it_makes_needless():
    wide = on("a", "id", "price")
    search = searched({**SAVINGS, wide: 0.5}, {**MEGABYTES, wide: 6.5})
    assert search.best(10.5 * MB).indexes == {wide, B}
    assert A not in search.best().indexes


def test_the_room_of_what_saves_too_little_goes_to_others():
    crumbs = [on(f"crumb_{number}", "id") for number in range(3)]
    search = searched({A: 0.5, B: 0.4, **dict.fromkeys(crumbs, 0.35)}, {A: 6, B: 4, **dict.fromkeys(crumbs, 1.3)})
    assert search.best(10 * MB).indexes == {A, *crumbs}
    assert search.advised(10 * MB, gain=0.075).indexes == {A, B}


def test_an_index_that_saves_too_little_goes_even_when_the_time_is_up():
    search = searched(SAVINGS, MEGABYTES)
    found = search.priced(frozenset({A, D}))
    search.deadline = 0.0
    assert search.pruned(found, gain=0.06).indexes == {A}


@pytest.mark.parametrize(("budget", "found"), [(11, True), (9, False)])
def test_indexes_that_save_only_together_are_found(budget, found):
    pair = on("a", "id"), on("a", "price")
    search = searched(dict.fromkeys(pair, 0.5), dict.fromkeys(pair, 5.0), Together)
    assert search.best(budget * MB).indexes == (set(pair) if found else set())


def test_an_index_that_another_covers_goes_however_little_cheaper_it_is_to_read():
    narrow, wide = on("a", "id"), on("a", "id", "price")
    partial = Index("shop.a", ("id",), where="price > 0")
    search = searched({narrow: 0.36, wide: 0.40, partial: 0.30}, dict.fromkeys((narrow, wide, partial), 1.0), Apart)
    assert search.pruned(search.priced(frozenset({narrow, wide, partial})), gain=0.02).indexes == {wide, partial}
