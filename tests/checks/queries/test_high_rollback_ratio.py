from dataclasses import replace

import pytest

from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.queries.high_rollback_ratio import judge

CODE = "high-rollback-ratio"
LIMITS = catalogue()[CODE].limits()


def counted(committed, rolled_back, database="shop", counters_age_s=7200.0):
    return {
        "database": database,
        "committed": committed,
        "rolled_back": rolled_back,
        "deadlocks": 0,
        "counters_age_s": counters_age_s,
    }


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove, server):
    with server.connect() as connection:  # every query of ours ends with a rollback, and other tests have asked a lot
        connection.execute("select pg_stat_reset()")
    prove(CODE)


@pytest.mark.parametrize(
    ("committed", "rolled_back", "severity"),
    [
        (901, 99, []),
        (900, 100, ["info"]),
        (0, 100_000, ["info"]),
        (899, 100, []),
        (0, 999, []),
        (0, 1000, ["info"]),
        (0, 0, []),
        (None, None, []),
        (2000, None, []),
    ],
)
def test_the_share_of_enough_transactions_is_a_hint_and_no_more(committed, rolled_back, severity, context):
    assert severities([counted(committed, rolled_back)], context) == severity


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted(0, 0)], {**LIMITS, "min_transactions": 0}, context)) == []


def test_each_database_is_judged_by_its_own_counters(context):
    rows = [counted(1000, 1000), counted(5000, 10, "archive"), counted(1000, 500, "o'crm")]
    findings = list(judge(rows, LIMITS, context))
    assert [(it.kind, it.name) for it in findings] == [("database", "shop"), ("database", "o'crm")]
    assert findings[1].remedies[0].sql.endswith("datname = 'o''crm';")


@pytest.mark.parametrize(("age_s", "words"), [(7200.0, "in 2 h"), (None, "since its counters were reset")])
def test_the_title_says_how_many_in_which_time(age_s, words, context):
    (finding,) = judge([counted(1500, 500, counters_age_s=age_s)], LIMITS, context)
    assert finding.title == f"Database shop rolled back 25% of 2000 transactions {words}"


def test_no_database_is_well(context):
    assert severities([], context) == []


def since(context, committed, rolled_back, database="shop"):
    then = {"xact_commit": committed, "xact_rollback": rolled_back, "deadlocks": 0}
    return replace(context, since=Since(7200, databases={database: then}))


@pytest.mark.parametrize(
    ("then", "now", "severity"),
    [
        ((9500, 500), (9500 + 851, 500 + 149), ["info"]),  # 9.9 points above 5 %
        ((9500, 500), (9500 + 850, 500 + 150), ["warning"]),
        ((8000, 2000), (8000 + 700, 2000 + 300), ["warning"]),
        ((8000, 2000), (8000 + 800, 2000 + 200), ["info"]),
        ((0, 10_000), (0, 20_000), ["info"]),  # a driver that always did so
        ((5000, 5000), (5000 + 5000, 5000 + 1), []),  # was bad, is well
        ((9500, 500), (9500 + 500, 500 + 499), []),  # too few since
        ((990, 9), (990 + 500, 9 + 500), ["info"]),  # too few before to tell what is usual
        ((0, 0), (500, 500), ["info"]),
    ],
)
def test_with_a_history_the_rise_above_what_was_usual_is_a_warning(then, now, severity, context):
    assert severities([counted(*now)], since(context, *then)) == severity


def test_a_rise_is_a_warning_even_below_the_limit_of_the_hint(context):
    limits = {**LIMITS, "points": 3}
    (finding,) = judge([counted(10_000 + 950, 100 + 50)], limits, since(context, 10_000, 100))
    assert finding.severity == "warning"
    assert finding.title == "Database shop rolled back 5% of 1000 transactions in 2 h; before that 1%"


def test_a_database_that_was_reset_since_or_is_not_in_the_snapshot_gets_a_hint_over_its_age(context):
    assert severities([counted(500, 500)], since(context, 10_000, 0, database="crm")) == ["info"]
    assert severities([counted(500, 499)], since(context, 10_000, 0, database="crm")) == []
