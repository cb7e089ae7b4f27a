"""Real constants from pg_qualstats: what normalisation took away comes back."""

import pytest

from conftest import OLDEST
from pgrunbooks.advice import advise
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

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
