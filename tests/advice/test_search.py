"""The search on the lab: what it picks, what it gives up, what it keeps to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgrunbooks.advice.advisor import Study, study
from pgrunbooks.advice.search import Search
from pgrunbooks.lab import Index
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import Statement, Workload

FAR = float("inf")
SCHEMA = """
create schema lab;
create table lab.visits (
    id int primary key, page int not null, visitor int not null, seconds int not null, seen_at timestamptz not null,
    is_bot boolean not null);
insert into lab.visits select i, i %% 5000, (i * 7919) %% 20000, i %% 300, timestamptz '2026-01-01' + i * interval '1 min',
    i %% 100 = 0 from generate_series(1, 200000) as i;
vacuum (analyze) lab.visits;
"""


def said(text: str, number: int, share: float) -> Statement:
    return Statement(text, number, 1000, share * 1000.0, 100_000)


WORKLOAD = Workload(
    (
        said("select sum(seconds) from lab.visits where page = $1", 1, 0.5),
        said("select id from lab.visits where visitor = $1 order by seen_at desc limit $2", 2, 0.3),
        said("select count(*) from lab.visits where is_bot and seen_at > $1", 3, 0.2),
    ),
    total_ms=1000.0,
)


@pytest.fixture(scope="module")
def studied() -> Iterator[Study]:
    with temporary_sandbox(sample=False) as sandbox:
        with sandbox.connect("postgres") as session:
            session.execute("create database shop")
        with sandbox.connect() as session:
            for statement in SCHEMA.replace("%%", "%").split(";\n"):
                if statement.strip():
                    session.execute(statement)
        with (
            open_session(Target.model_validate({"name": "tested", "dsn": sandbox.url()})) as session,
            study(session, WORKLOAD) as it,
        ):
            yield it


def searched(studied: Study, writes: float = 0.0) -> Search:
    return Search(studied.questions, studied.costs, lambda index: writes, FAR)


def keys(found):
    return {it.keys for it in found.indexes}


def test_each_statement_gets_what_helps_it_most(studied):
    search = searched(studied)
    found = search.best()
    assert found.cost < 0.1
    assert {("page",), ("visitor", "seen_at")} <= {it.keys[:2] for it in found.indexes}


def test_a_smaller_budget_is_kept_and_never_better(studied):
    search = searched(studied)
    whole = search.best()
    costs = []
    for share in (0.0, 0.3, 0.6, 1.0):
        found = search.best(whole.size_bytes * share)
        assert found.size_bytes <= whole.size_bytes * share
        costs.append(found.cost)
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == pytest.approx(1.0)
    assert costs[-1] == pytest.approx(whole.cost)


def test_an_index_that_costs_more_than_it_saves_is_not_taken(studied):
    assert searched(studied, writes=0.25).best().cost <= 1.0
    assert searched(studied, writes=1.1).best().indexes == frozenset()


def test_an_include_that_saves_too_little_is_given_up(studied):
    search = searched(studied)
    covering = Index("lab.visits", ("visitor", "seen_at"), include=("id",))
    assert studied.costs.add(covering)
    pruned = search.pruned(search.priced(frozenset({covering})), gain=0.05)
    assert [(it.keys[0], it.include) for it in pruned.indexes] == [("visitor", ())]


def test_an_index_that_saves_too_little_is_given_up(studied):
    search = searched(studied)
    found = search.best()
    assert len(search.pruned(found, gain=0.25).indexes) < len(found.indexes)
    assert search.pruned(found, gain=1.0).indexes == frozenset()


def test_the_way_to_a_set_takes_the_best_step_first(studied):
    search = searched(studied)
    path = search.path(search.best())
    assert path[0].cost == pytest.approx(1.0)
    assert [it.cost for it in path] == sorted((it.cost for it in path), reverse=True)
    assert ("page",) in {key[:1] for key in keys(path[1])}  # half of the workload's time


def test_plans_are_asked_for_once(studied):
    searched(studied).best()
    asked = studied.costs.asked
    searched(studied).best()
    assert studied.costs.asked == asked


def test_an_index_that_postgresql_refuses_is_no_candidate(studied):
    bad = Index("lab.visits", ("(now()::text)",))
    assert not studied.costs.add(bad)
    assert "IMMUTABLE" in studied.costs.refused[bad]
