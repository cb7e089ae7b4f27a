import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
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
