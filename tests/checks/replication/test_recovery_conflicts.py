from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.replication.recovery_conflicts import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills.recovery_conflicts import conflict
from pgrunbooks.sandbox import temporary_standby

CODE = "recovery-conflicts"
LIMITS = catalogue()[CODE].limits()
DAY_S = 86400


def counted(days=1, **changes):
    reasons = dict.fromkeys(("snapshot", "lock", "buffer_pin", "deadlock", "tablespace", "logical_slot"), 0)
    row = {
        "database": "shop",
        **reasons,
        "max_standby_streaming_delay": "30s",
        "hot_standby_feedback": "off",
        "counters_age_s": None if days is None else days * DAY_S,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_conflict_is_found_on_the_standby_and_gone_with_its_counters(server):
    drill = drills()[CODE]
    with temporary_standby(server) as standby:

        def found():
            verdict = diagnose(server, CODE, thresholds=drill.thresholds, dsn=standby.url())
            return [(it.kind, it.name, it.severity) for it in verdict.findings if it.code == CODE]

        assert found() == []
        conflict(server, standby)
        assert found() == [("database", "shop", "warning")]
        with standby.connect() as connection:
            connection.execute("select pg_stat_reset()")
        assert found() == []


def test_the_whole_drill_says_whom_to_ask_and_the_primary_is_silent(newest):
    drill = drills()[CODE]
    with drill.fault(newest) as incident:
        found = diagnose(newest, CODE, thresholds=drill.thresholds, **incident.settings).about(CODE)
        assert [(it.kind, it.name, it.severity) for it in found] == [(incident.kind, incident.name, incident.severity)]
        assert diagnose(newest, CODE, thresholds=drill.thresholds).about(CODE) == []


@pytest.mark.parametrize(
    ("snapshot", "days", "severity"),
    [
        (9, 1, []),
        (10, 1, ["warning"]),
        (10, 0.01, ["warning"]),
        (9, 0.01, []),
        (10, 1.01, []),
        (299, 30, []),
        (300, 30, ["warning"]),
        (10, None, ["warning"]),
        (None, 1, []),
    ],
)
def test_cancelled_queries_a_day_decide_over_one_day_at_least(snapshot, days, severity, context):
    assert severities([counted(days, snapshot=snapshot)], context) == severity


def test_every_kind_of_conflict_counts_and_the_commonest_is_named(context):
    row = counted(snapshot=1, lock=5, buffer_pin=1, deadlock=1, tablespace=1, logical_slot=1)
    (finding,) = judge([row], LIMITS, context)
    assert finding.title.startswith("10 conflicts with recovery cancelled what ran in database shop")
    assert "a table that they read was locked or dropped" in finding.impact


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [({"snapshot": 50}, 3), ({"snapshot": 50, "hot_standby_feedback": "on"}, 2), ({"lock": 50}, 2)],
)
def test_feedback_is_proposed_where_it_would_help(changes, remedies, context):
    (finding,) = judge([counted(**changes)], LIMITS, context)
    assert len(finding.remedies) == remedies


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted()], {"warning": 0.0}, context)) == []


def test_a_primary_has_no_rows_and_is_well(context):
    assert severities([], context) == []


THEN = dict.fromkeys(
    ("confl_snapshot", "confl_lock", "confl_bufferpin", "confl_deadlock", "confl_tablespace", "confl_logicalslot"), 50
)
NOW = dict.fromkeys(("snapshot", "lock", "buffer_pin", "deadlock", "tablespace", "logical_slot"), 50)


@pytest.mark.parametrize(
    ("more", "hours", "severity"),
    [
        ({}, 2, []),
        ({"lock": 59}, 2, []),
        ({"lock": 60}, 2, ["warning"]),
        ({"lock": 55, "snapshot": 55}, 240, ["warning"]),
    ],
)
def test_with_a_history_all_since_the_last_snapshot_count(more, hours, severity, context):
    since = replace(context, since=Since(hours * 3600, databases={"shop": THEN}))
    assert severities([counted(1, **{**NOW, **more})], since) == severity


def test_the_commonest_since_the_last_snapshot_is_named(context):
    since = replace(context, since=Since(7200, databases={"shop": {**THEN, "confl_snapshot": 4000}}))
    (finding,) = judge([counted(**{**NOW, "snapshot": 4001, "lock": 70})], LIMITS, since)
    assert "21 conflicts with recovery" in finding.title
    assert finding.title.endswith("of this standby, in 2 h")
    assert "a table that they read was locked or dropped" in finding.impact


@pytest.mark.parametrize("known", [{}, {"crm": THEN}, {"shop": {**THEN, "confl_lock": None}}])
def test_a_database_that_was_reset_since_or_is_not_in_the_snapshot_is_judged_by_its_age(known, context):
    since = replace(context, since=Since(7200, databases=known))
    assert severities([counted(30, lock=299)], since) == []
    assert severities([counted(30, lock=300)], since) == ["warning"]


def test_a_conflict_before_the_snapshot_is_old_news_and_one_after_it_is_found(server, remember):
    drill = drills()[CODE]
    with temporary_standby(server) as standby:

        def found():
            return diagnose(server, CODE, thresholds=drill.thresholds, dsn=standby.url()).about(CODE)

        remember(hours_ago=3, url=standby.url())
        conflict(server, standby)
        (finding,) = found()
        assert finding.title.endswith("of this standby, in 3 h")
        remember(hours_ago=2, url=standby.url())
        assert found() == []
