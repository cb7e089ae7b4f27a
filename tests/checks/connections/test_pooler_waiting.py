import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.connections.pooler_waiting import judge
from pgrunbooks.drills import drills, pooler_waiting
from pgrunbooks.errors import SandboxError

CODE = "pooler-waiting"
LIMITS = catalogue()[CODE].limits()


def pool(maxwait, maxwait_us=0, cl_waiting=1, **changes):
    row = {
        "database": "shop",
        "user": "web",
        "cl_active": 5,
        "cl_waiting": cl_waiting,
        "sv_active": 5,
        "sv_idle": 0,
        "maxwait": maxwait,
        "maxwait_us": maxwait_us,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def found(sandbox, **settings):
    verdict = diagnose(sandbox, CODE, thresholds=drills()[CODE].thresholds, **settings)
    return verdict.checks[0].outcome, [(it.kind, it.name, it.severity) for it in verdict.findings]


def test_the_drill_is_found_and_healed(server):
    with pooler_waiting.pooler(server) as console:
        assert found(server, pooler=console) == ("ok", [])
        with pooler_waiting.queue(console) as incident:
            assert found(server, pooler=console) == ("found", [(incident.kind, incident.name, incident.severity)])
        assert found(server, pooler=console) == ("ok", [])


def test_the_whole_drill_says_which_setting_shows_it_and_leaves_no_pooler_behind(newest):
    with drills()[CODE].fault(newest) as incident:
        assert found(newest, **incident.settings)[1] == [("pool", "shop/postgres", "warning")]
    (outcome,) = diagnose(newest, CODE, **incident.settings).checks
    assert outcome.outcome == "failed"
    assert "cannot connect to the pooler of tested" in outcome.reason


def test_a_target_without_a_pooler_is_skipped(newest):
    assert found(newest) == ("skipped", [])


def test_a_machine_without_pgbouncer_is_told_how_to_get_it(newest, monkeypatch):
    monkeypatch.setattr(pooler_waiting.shutil, "which", lambda *_, **__: None)
    with pytest.raises(SandboxError, match="apt-get install pgbouncer"), drills()[CODE].fault(newest):
        pass


@pytest.mark.parametrize(
    ("maxwait", "maxwait_us", "severity"),
    [(0, 999_999, []), (1, 0, ["warning"]), (9, 999_999, ["warning"]), (10, 0, ["critical"]), (None, None, [])],
)
def test_how_long_the_first_has_waited_decides(maxwait, maxwait_us, severity, context):
    assert severities([pool(maxwait, maxwait_us)], context) == severity


@pytest.mark.parametrize("waiting", [0, None])
def test_a_pool_without_a_queue_is_well(waiting, context):
    assert severities([pool(60, cl_waiting=waiting)], context) == []


def test_each_pool_is_one_finding_the_longest_wait_first(context):
    rows = [pool(2, user="api"), pool(20, cl_waiting=3), pool(0, cl_waiting=0, user="idle")]
    assert [(it.name, it.severity) for it in judge(rows, LIMITS, context)] == [
        ("shop/web", "critical"),
        ("shop/api", "warning"),
    ]


def test_a_pool_that_cannot_reach_the_server_is_told_apart_from_one_that_is_busy(context):
    (busy,), (cut_off,) = judge([pool(5)], LIMITS, context), judge([pool(5, sv_active=0)], LIMITS, context)
    assert "The pool's 5 server connections cannot take more" in busy.impact
    assert "cannot reach the server" in cut_off.impact


def test_no_pool_is_well(context):
    assert severities([], context) == []
