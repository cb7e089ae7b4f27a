import pytest

from pgrunbooks.check import Skip, catalogue
from pgrunbooks.checks.indexes.missing_index import check, deepen, judge
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask

LIMITS = catalogue()["missing-index"].limits()


@pytest.fixture
def row():
    return {
        "table": "shop.orders",
        "index": "shop.orders_customer_id_idx",
        "statement": "create index concurrently orders_customer_id_idx on shop.orders (customer_id);",
        "undo": "drop index concurrently shop.orders_customer_id_idx;",
        "partitions": None,
        "helped": [
            {"queryid": 1, "query": "select", "calls": 100, "cost_before": 9.0, "cost_after": 1.0, "plan_after": ""}
        ],
        "gain": 0.5,
        "saved": 0.5,
        "write_cost": 0.01,
        "size_bytes": 8 * 2**20,
        "calls": 100,
        "replaces": [],
        "planner": 18,
    }


def test_the_drill_is_found_and_healed(prove):
    prove("missing-index")


@pytest.mark.parametrize(("gain", "found"), [(0.049, 0), (0.05, 1), (0.9, 1)])
def test_an_index_must_save_its_share(row, gain, found, context):
    assert len(list(judge([{**row, "gain": gain}], LIMITS, context))) == found


@pytest.mark.parametrize(("calls", "found"), [(19, 0), (20, 1), (21, 1)])
def test_a_statement_that_was_hardly_called_is_no_reason(row, calls, found, context):
    assert len(list(judge([{**row, "calls": calls}], LIMITS, context))) == found


def test_two_indexes_of_a_table_are_one_finding_with_two_remedies(row, context):
    findings = list(judge([row, {**row, "gain": 0.1, "saved": 0.1}], LIMITS, context))
    assert [it.name for it in findings] == ["shop.orders"]
    assert len(findings[0].remedies) == 2
    assert "60%" in findings[0].title


def test_two_indexes_that_pay_together_only_name_each_other_and_count_once(row, context):
    rows = [{**row, "gain": 0.98, "saved": saved, "index": name} for name, saved in (("one", 0.0), ("other", 0.98))]
    (finding,) = judge(rows, LIMITS, context)
    assert ["and other too" in finding.remedies[0].title, "and one too" in finding.remedies[1].title] == [True, True]
    assert "2 indexes on shop.orders would save 98%" in finding.title


def test_an_index_that_the_new_one_makes_needless_is_named(row, context):
    (finding,) = judge([{**row, "replaces": ["shop.orders_old_idx"]}], LIMITS, context)
    assert finding.remedies[0].title.endswith("; it does what shop.orders_old_idx does, which can go then")


def test_it_says_so_where_the_planner_is_not_that_of_the_server(row, context):
    own, other = (next(iter(judge([{**row, "planner": it}], LIMITS, context))) for it in (context.server.major, 17))
    assert "Planned by" not in own.impact
    assert other.impact.endswith(f"Planned by PostgreSQL 17: this machine has no {context.server.major} that could.")


def test_no_row_is_well(context):
    assert list(judge([], LIMITS, context)) == []


def test_without_the_extension_it_says_what_it_needs():
    answer = deepen(None, [], LIMITS, 1.0)
    assert isinstance(answer, Skip)
    assert answer.remedy == "create extension pg_stat_statements;"


def test_a_table_that_the_role_may_not_read_is_named_beside_what_was_looked_at(server):
    with server.connect() as owner:
        owner.execute("create role reader login in role pg_monitor; grant usage on schema shop to reader")
        owner.execute("grant select on shop.orders to reader; select pg_stat_statements_reset()")
        try:
            for number in range(20):
                owner.execute(f"select from shop.orders where id = {number}")
                owner.execute(f"select from shop.payments where id = {number}")
            with open_session(Target(name="tested", dsn=server.url(user="reader"))) as session:
                (outcome,) = ask(session, [check], runbook="check").checks
        finally:
            owner.execute("drop owned by reader; drop role reader")
    assert outcome.outcome == "skipped"
    assert outcome.reason.startswith("shop.payments: reader lacks SELECT, without which its statistics are hidden: ")
    assert outcome.remedy == "grant select on shop.payments to reader;"


def test_an_expression_without_its_constant_is_named_unless_an_index_tells_it(server):
    def reason():
        with server.connect() as client, open_session(Target(name="tested", dsn=server.url())) as session:
            client.execute("select pg_stat_statements_reset()")
            for number in range(20):
                client.execute(f"select from shop.customers where substr(email, 1, 3) = 'a{number}'")
            return ask(session, [check], runbook="check").checks[0].reason

    assert reason() == "pg_stat_statements keeps no constants, so no index was tried on substr(email, $1, $2)"
    with server.connect() as owner:
        owner.execute(
            "create index customers_substr_idx on shop.customers (substr(email, 1, 3)); analyze shop.customers"
        )
        try:
            assert reason() is None
        finally:
            owner.execute("drop index shop.customers_substr_idx")
