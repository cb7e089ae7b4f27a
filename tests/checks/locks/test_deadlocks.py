from dataclasses import replace

import pytest

from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.locks.deadlocks import judge

LIMITS = catalogue()["deadlocks"].limits()
DAY_S = 86400


def counted(deadlocks, days, database="shop"):
    return {"database": database, "deadlocks": deadlocks, "counters_age_s": None if days is None else days * DAY_S}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("deadlocks")


@pytest.mark.parametrize(
    ("deadlocks", "days", "severity"),
    [
        (39, 40, []),
        (40, 40, ["warning"]),
        (4000, 40, ["warning"]),
        (0, 40, []),
        (0, 0.01, []),
        (1, 0.01, ["warning"]),
        (1, 1, ["warning"]),
        (1, 1.01, []),
        (1, None, ["warning"]),
        (None, 40, []),
    ],
)
def test_deadlocks_a_day_decide_over_one_day_at_least(deadlocks, days, severity, context):
    assert severities([counted(deadlocks, days)], context) == severity


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted(0, 40)], {"warning": 0.0}, context)) == []


def test_each_database_is_judged_by_its_own_counters(context):
    rows = [counted(90, 30), counted(10, 30, "archive"), counted(2, 1, "crm")]
    assert [(it.kind, it.name) for it in judge(rows, LIMITS, context)] == [("database", "shop"), ("database", "crm")]


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (30, "60 deadlocks in 30 d (2 a day)"),
        (0.5, "60 deadlocks in 12 h"),
        (None, "60 deadlocks since its counters were reset"),
    ],
)
def test_the_title_says_how_many_in_which_time(days, words, context):
    (finding,) = judge([counted(60, days)], LIMITS, context)
    assert finding.title == f"Database shop has had {words}"


def test_no_database_is_well(context):
    assert severities([], context) == []


@pytest.mark.parametrize(("deadlocks", "hours", "severity"), [(7, 1, []), (8, 1, ["warning"]), (8, 49, [])])
def test_with_a_history_those_since_the_last_snapshot_count(deadlocks, hours, severity, context):
    since = replace(context, since=Since(hours * 3600, databases={"shop": {"deadlocks": 7}}))
    assert severities([counted(deadlocks, 40)], since) == severity


@pytest.mark.parametrize("known", [{}, {"other": {"deadlocks": 39}}, {"shop": {"deadlocks": None}}])
def test_a_database_that_was_reset_since_or_is_not_in_the_snapshot_is_judged_by_its_age(known, context):
    since = replace(context, since=Since(3600, databases=known))
    assert severities([counted(39, 40)], since) == []
    assert severities([counted(40, 40)], since) == ["warning"]
