from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.wal.checkpoint_pressure import judge
from pgrunbooks.drills import drills
from pgrunbooks.sandbox import wait_until

LIMITS = catalogue()["checkpoint-pressure"].limits()


def counted(timed, requested, counters_age_s=7200.0):
    return {
        "timed": timed,
        "requested": requested,
        "max_wal_bytes": 1024**3,
        "checkpoint_timeout_s": 300.0,
        "counters_age_s": counters_age_s,
    }


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove, server):
    with server.connect() as connection:  # other tests drop databases, which takes a checkpoint each
        counters = "checkpointer" if connection.info.server_version >= 170000 else "bgwriter"
        connection.execute(f"select pg_stat_reset_shared('{counters}')")
    prove("checkpoint-pressure")


@pytest.mark.parametrize(
    ("timed", "requested", "severity"),
    [
        (0, 0, []),
        (0, 9, []),
        (0, 10, ["info"]),
        (5, 5, ["info"]),
        (6, 5, []),
        (4, 5, []),
        (1000, 999, []),
        (1000, 1000, ["info"]),
        (None, None, []),
        (None, 10, ["info"]),
    ],
)
def test_as_many_requested_as_timed_is_a_hint_once_there_are_enough(timed, requested, severity, context):
    assert severities([counted(timed, requested)], context) == severity


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted(0, 0)], {"min_checkpoints": 0}, context)) == []


@pytest.mark.parametrize(("age_s", "words"), [(7200.0, "in 2 h"), (None, "since its counters were reset")])
def test_the_title_says_how_many_in_which_time(age_s, words, context):
    (finding,) = judge([counted(5, 15, age_s)], LIMITS, context)
    assert finding.title == f"15 of 20 checkpoints came before they were due, {words}"


def test_the_change_doubles_the_setting_and_can_be_undone(context):
    (finding,) = judge([counted(5, 15)], LIMITS, context)
    assert ("'2048MB'" in finding.remedies[1].sql, "'1024MB'" in finding.remedies[1].undo) == (True, True)


def test_no_row_is_well(context):
    assert severities([], context) == []


def since(context, timed, requested):
    then = {"timed_checkpoints": timed, "requested_checkpoints": requested}
    return replace(context, since=Since(7200, checkpoints=then))


@pytest.mark.parametrize(
    ("timed", "requested", "severity"),
    [(0, 0, []), (0, 9, []), (0, 10, ["warning"]), (5, 5, ["warning"]), (6, 5, []), (900, 10, [])],
)
def test_with_a_history_those_since_the_last_snapshot_decide_and_are_a_warning(timed, requested, severity, context):
    assert severities([counted(70 + timed, 900 + requested)], since(context, 70, 900)) == severity


@pytest.mark.parametrize("then", [None, {"timed_checkpoints": None, "requested_checkpoints": None}])
def test_counters_that_were_reset_since_or_are_not_in_the_snapshot_give_a_hint(then, context):
    known = replace(context, since=Since(7200, checkpoints=then))
    assert severities([counted(0, 10)], known) == ["info"]


def test_checkpoints_before_the_snapshot_are_old_news_and_those_after_it_a_warning(server, remember):
    def found():
        return [it.severity for it in diagnose(server, "checkpoint-pressure").about("checkpoint-pressure")]

    with server.connect() as dba:
        request(dba, 10)
        remember(hours_ago=0.5)
        assert found() == ["info"]  # half an hour is no window
        remember(hours_ago=2)
        assert found() == []
        request(dba, 10)
        assert found() == ["warning"]
        with drills()["checkpoint-pressure"].fault(server):  # which begins with a reset of the counters
            assert found() == ["info"]


def request(dba, number):
    """Request so many checkpoints, more than were due so far, and wait until they were counted."""
    timed, requested, view = "num_timed", "num_requested", "pg_stat_checkpointer"
    if dba.info.server_version < 170000:
        timed, requested, view = "checkpoints_timed", "checkpoints_req", "pg_stat_bgwriter"
    before, due = dba.execute(f"select {requested}, {timed} from {view}").fetchone()
    for _ in range(max(number, due - before)):
        dba.execute("checkpoint")
    wait_until(dba, f"select {requested} >= %s from {view}", [before + number])
