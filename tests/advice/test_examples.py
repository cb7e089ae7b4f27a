"""Real constants from pg_qualstats: what normalisation took away comes back."""

from dataclasses import replace

import pytest

from conftest import OLDEST
from pgrunbooks.advice import advise
from pgrunbooks.advice.advisor import study
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import read_workload

SETTINGS = {"shared_preload_libraries": "pg_stat_statements, pg_qualstats", "pg_qualstats.sample_rate": "1"}
QUERY = "select id from shop.customers where full_name like 'Ada Novak%' and country = 'NZ'"


@pytest.fixture(scope="module")
def watched():
    """Return a server with pg_qualstats on which one statement reads all customers again and again."""
    with temporary_sandbox(SETTINGS, programs=OLDEST) as sandbox, sandbox.connect() as session:
        session.execute("create extension pg_qualstats; select pg_stat_statements_reset()")
        session.execute(f"explain (costs off) {QUERY}")  # of what is explained first, this is what is kept
        for _ in range(25):
            session.execute(QUERY)
        yield sandbox


def test_a_plan_is_that_of_the_real_constants(watched):
    with open_session(Target.model_validate({"name": "tested", "dsn": watched.url()})) as session:
        helped = advise(session).proposals[0].helped[0]
    assert "$1" in helped.statement.text
    assert helped.variant.text.replace('"', "") == QUERY
    assert not helped.variant.generic


def test_where_there_was_only_one_call_it_is_known(watched):
    with open_session(Target.model_validate({"name": "tested", "dsn": watched.url()})) as session:
        read = read_workload(session)
        once = [replace(it, calls=1) for it in read.statements if "full_name like" in it.text]
        with study(session, replace(read, statements=tuple(once))) as it:
            variants = it.questions[0].variants
    assert [(variant.text.strip(), variant.share) for variant in variants] == [(QUERY, 1.0)]
