from dataclasses import replace

import pytest

from conftest import session_row
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.locks.blocking_lock import causes, judge

LIMITS = catalogue()["blocking-lock"].limits()


def waiters(*seconds, behind="1"):
    return [
        session_row(str(number), blocked_by=(behind,), waiting_s=waited, lock_on="shop.orders", lock_type="relation")
        for number, waited in enumerate(seconds, start=10)
    ]


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("blocking-lock")


@pytest.mark.parametrize(
    ("waited", "severity"), [(4.9, []), (5, ["warning"]), (29.9, ["warning"]), (30, ["critical"]), (None, [])]
)
def test_the_longest_wait_decides(waited, severity, context):
    assert severities([session_row("1"), *waiters(waited)], context) == severity


@pytest.mark.parametrize(("number", "severity"), [(4, ["warning"]), (5, ["critical"])])
def test_many_that_waited_long_enough_are_critical(number, severity, context):
    assert severities([session_row("1"), *waiters(*[5.0] * number)], context) == severity


def test_many_that_waited_for_moments_are_life(context):
    assert severities([session_row("1"), *waiters(*[0.2] * 50)], context) == []


def test_the_root_is_blamed_and_not_the_waiter_in_the_middle(context):
    rows = [session_row("1"), *waiters(40), session_row("99", blocked_by=("10",), waiting_s=39)]
    (finding,) = judge(rows, LIMITS, context)
    assert (finding.name, finding.involves) == ("1", {"pid:10", "pid:99"})
    assert [row["depth"] for row in finding.evidence] == [0, 1, 2]


def test_two_roots_are_two_findings(context):
    rows = [session_row("1"), session_row("2"), *waiters(40), session_row("20", blocked_by=("2",), waiting_s=6)]
    assert [(it.name, it.severity) for it in judge(rows, LIMITS, context)] == [("1", "critical"), ("2", "warning")]


def test_a_deadlock_that_the_server_has_not_broken_yet_ends(context):
    rows = [session_row("1", blocked_by=("2",), waiting_s=0.5), session_row("2", blocked_by=("1",), waiting_s=0.5)]
    assert severities(rows, context) == []


def test_a_prepared_transaction_is_a_root_with_both_ways_out(context):
    root = session_row(
        "it's", kind="prepared_transaction", id="prepared_transaction:it's", state="prepared", query=None
    )
    waiter = session_row("10", waiting_s=40, lock_on="shop.orders") | {"blocked_by": ["prepared_transaction:it's"]}
    (finding,) = judge([root, waiter], LIMITS, context)
    assert (finding.kind, finding.name) == ("prepared_transaction", "it's")
    assert [it.sql for it in finding.remedies] == ["rollback prepared 'it''s';", "commit prepared 'it''s';"]


def test_nobody_waiting_is_well(context):
    assert severities([], context) == []


def test_a_root_that_hangs_in_its_commit_is_the_missing_standby_s_doing():
    lock = Finding("critical", "pid", "1", "", "", code="blocking-lock")
    commit = Finding(
        "critical", "cluster", "cluster", "", "", code="sync-replica-missing", involves=frozenset({"pid:1"})
    )
    other = replace(commit, involves=frozenset({"pid:2"}))
    assert list(causes(lock, [commit])) == [commit]
    assert list(causes(lock, [other])) == []
