"""Production's own planner beside the lab's, where HypoPG is installed."""

import pytest

from pgrunbooks.advice import advise
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

QUERY = "select id from shop.payments where order_id = {}"


@pytest.fixture
def slow(oldest):
    """Return a server on which the payments of an order are read without an index, and HypoPG is installed."""
    with oldest.connect() as session:
        session.execute("create schema hypo; create extension hypopg schema hypo; create role advisor login")
        session.execute("grant usage on schema hypo, shop to advisor; grant pg_monitor, pg_read_all_data to advisor")
        session.execute("drop index shop.payments_order_id_idx; select pg_stat_statements_reset()")
        try:
            for order in range(1, 30):
                session.execute(QUERY.format(order))
            yield oldest
        finally:
            session.execute("create index payments_order_id_idx on shop.payments (order_id)")
            session.execute("drop schema hypo cascade; drop owned by advisor; drop role advisor")


def test_both_planners_see_the_same_gain(slow):
    with open_session(Target.model_validate({"name": "tested", "dsn": slow.url(user="advisor")})) as session:
        proposal = advise(session).proposals[0]
        left = session.rows("select count(*)::int as n from hypo.hypopg()")
    assert proposal.index.keys == ("order_id",)
    before, after = proposal.helped[0].on_production
    assert after < before / 10
    assert before == pytest.approx(proposal.helped[0].before, rel=0.05)
    assert left == [{"n": 0}]


def test_without_the_extension_there_is_no_second_opinion(slow):
    with slow.connect() as session:
        session.execute("drop extension hypopg")
    with open_session(Target.model_validate({"name": "tested", "dsn": slow.url(user="advisor")})) as session:
        assert advise(session).proposals[0].helped[0].on_production is None


def test_a_superuser_does_not_plan_what_others_wrote(slow):
    with open_session(Target.model_validate({"name": "tested", "dsn": slow.url()})) as session:
        assert advise(session).proposals[0].helped[0].on_production is None
