import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.replication.replay_paused import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills.replay_paused import paused
from pgrunbooks.sandbox import temporary_standby

CODE = "replay-paused"
LIMITS = catalogue()[CODE].limits()


def pause(state="paused", waiting_bytes=16 * 1024**2, replayed_s=10.0, **changes):
    row = {
        "standby": "replica",
        "pause_state": state,
        "has_target": False,
        "waiting_bytes": waiting_bytes,
        "replayed_s": replayed_s,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_pause_is_found_on_the_standby_and_healed_by_its_remedy(server):
    with temporary_standby(server) as standby:

        def found():
            return diagnose(server, CODE, dsn=standby.url()).findings

        assert found() == []
        with paused(server, standby) as name, standby.connect() as dba:
            (finding,) = found()
            assert (finding.kind, finding.name, finding.severity) == ("standby", name, "warning")
            assert "16 MB of WAL wait" in finding.title
            (late,) = diagnose(server, CODE, dsn=standby.url(), thresholds={CODE: {"critical": "1ms"}}).findings
            assert late.severity == "critical"  # though it has replayed no transaction since its start
            dba.execute(finding.remedies[0].sql)
            assert found() == []


def test_the_whole_drill_says_whom_to_ask_and_the_primary_is_silent(newest):
    with drills()[CODE].fault(newest) as incident:
        found = diagnose(newest, CODE, **incident.settings).findings
        assert [(it.kind, it.name, it.severity) for it in found] == [(incident.kind, incident.name, incident.severity)]
        assert diagnose(newest, CODE).findings == []


@pytest.mark.parametrize(
    ("state", "severity"), [("not paused", []), ("pause requested", ["warning"]), ("paused", ["warning"]), (None, [])]
)
def test_the_standby_says_whether_it_is_paused(state, severity, context):
    assert severities([pause(state)], context) == severity


@pytest.mark.parametrize(
    ("waiting_bytes", "replayed_s", "severity"),
    [
        (1, 299.9, "warning"),
        (1, 300.0, "critical"),
        (0, 36000.0, "warning"),
        (None, 36000.0, "warning"),
        (1, None, "warning"),
    ],
)
def test_wal_that_waits_and_grows_old_is_critical(waiting_bytes, replayed_s, severity, context):
    assert severities([pause(waiting_bytes=waiting_bytes, replayed_s=replayed_s)], context) == [severity]


def test_where_a_target_was_set_resuming_ends_the_recovery(context):
    plain, target = (next(iter(judge([pause(has_target=it)], LIMITS, context))) for it in (False, True))
    assert (plain.remedies[0].risk, target.remedies[0].risk) == ("low", "high")


def test_a_primary_has_no_row_and_is_well(context):
    assert severities([], context) == []
