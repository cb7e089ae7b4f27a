import pytest

from conftest import session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.connections.idle_in_transaction import judge

LIMITS = catalogue()["idle-in-transaction"].limits()


def idle(seconds, **changes):
    return session_row("1", state="idle in transaction", state_s=seconds, **changes)


def test_the_drill_is_found_and_healed(prove):
    prove("idle-in-transaction")


@pytest.mark.parametrize(
    ("seconds", "severity"), [(299.9, None), (300, "warning"), (1799, "warning"), (1800, "critical"), (None, None)]
)
def test_the_idle_time_decides(seconds, severity, context):
    findings = list(judge([idle(seconds)], LIMITS, context))
    assert [it.severity for it in findings] == ([severity] if severity else [])


@pytest.mark.parametrize(("waited", "severity"), [(4.9, None), (5.0, "critical"), (None, None)])
def test_blocking_another_session_is_critical_however_short_it_idles(waited, severity, context):
    rows = [idle(10), session_row("2", blocked_by=("1",), waiting_s=waited)]
    findings = list(judge(rows, LIMITS, context))
    assert [it.severity for it in findings] == ([severity] if severity else [])


def test_an_aborted_transaction_counts_and_an_active_one_does_not(context):
    aborted = session_row("1", state="idle in transaction (aborted)", state_s=400)
    rows = [aborted, session_row("2", state="active", state_s=9999)]
    assert [it.name for it in judge(rows, LIMITS, context)] == ["1"]


def test_the_remedy_hits_no_other_session_that_got_the_pid(context):
    (finding,) = judge([idle(400)], LIMITS, context)
    assert "pid = 1 and backend_start = '2026-11-01T00:00:00+00:00'" in finding.remedies[0].sql


@pytest.mark.parametrize(("has_written", "risk"), [(True, "high"), (False, "low")])
def test_ending_a_session_that_wrote_is_the_greater_risk(has_written, risk, context):
    (finding,) = judge([idle(400, has_written=has_written)], LIMITS, context)
    assert finding.remedies[0].risk == risk


@pytest.mark.parametrize(("waited", "severity"), [(None, "info"), (5, "critical")])
def test_the_leader_of_a_parallel_dump_is_no_fault_unless_it_blocks(waited, severity, context):
    rows = [idle(9999, application="pg_dump"), session_row("2", blocked_by=("1",) if waited else (), waiting_s=waited)]
    assert [it.severity for it in judge(rows, LIMITS, context)] == [severity]


def test_no_session_is_well(context):
    assert list(judge([], LIMITS, context)) == []
