import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.queries.wait_event_hotspot import causes, judge
from pgrunbooks.drills import drills

CODE = "wait-event-hotspot"
LIMITS = catalogue()[CODE].limits()


def sampled(number, event="transactionid", kind="Lock", *, sessions=5, at_it_s=2.0, first_pid=1):
    """Return that many samples of active sessions, spread over some sessions that are all in one event."""
    row = {
        "wait_event_type": kind,
        "wait_event": event,
        "database": "shop",
        "application": "checkout",
        "statement_s": at_it_s,
        "waiting_s": at_it_s if kind == "Lock" else None,
        "query": "select ?",
    }
    return [{**row, "pid": first_pid + it % sessions, "sample": it // sessions} for it in range(number)]


def working(number):
    return sampled(number, None, None, first_pid=1000)


def found(rows, context, limits=LIMITS):
    return [(it.name, it.severity) for it in judge(rows, limits, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_session_that_they_wait_for_is_named_as_the_cause(server):
    drill = drills()[CODE]
    limits = {"blocking-lock": {"warning": "1s", "critical": "1h", "critical_waiters": "99"}}
    with drill.fault(server):
        verdict = diagnose(server, "locks", CODE, thresholds=limits)
    (finding,) = verdict.about(CODE)
    (root,) = verdict.about("blocking-lock")
    assert finding.caused_by == (root.id,)


def test_a_busy_server_whose_waits_are_short_is_no_incident(server, run_pgbench):
    with run_pgbench(server):
        verdicts = [diagnose(server, CODE) for _ in range(5)]
    assert {it.severity for verdict in verdicts for it in verdict.findings} <= {"info"}
    assert {verdict.checks[0].outcome for verdict in verdicts} <= {"ok", "found"}


@pytest.mark.parametrize(
    ("waiting", "share"), [(39, []), (40, [("transactionid", "warning")]), (100, [("transactionid", "warning")])]
)
def test_the_share_of_the_samples_decides(waiting, share, context):
    assert found([*sampled(waiting), *working(100 - waiting)], context) == share


@pytest.mark.parametrize(("samples", "reported"), [(9, False), (10, True)])
def test_a_handful_of_samples_says_nothing(samples, reported, context):
    assert bool(found(sampled(samples, sessions=3), context)) == reported


@pytest.mark.parametrize(("sessions", "reported"), [(2, False), (3, True)])
def test_two_sessions_are_no_hotspot(sessions, reported, context):
    assert bool(found(sampled(30, sessions=sessions), context)) == reported


@pytest.mark.parametrize(
    ("kind", "event"), [("Client", "ClientRead"), ("Activity", "WalSenderMain"), ("Timeout", "PgSleep"), (None, None)]
)
def test_waiting_for_nothing_that_is_the_server_s_is_no_hotspot(kind, event, context):
    assert found(sampled(100, event, kind), context) == []


def test_sessions_that_wait_for_their_client_still_count_as_samples(context):
    assert found([*sampled(39), *sampled(61, "ClientRead", "Client")], context) == []


@pytest.mark.parametrize(("kind", "event"), [("Lock", "tuple"), ("LWLock", "WALWrite"), ("IO", "WALSync")])
@pytest.mark.parametrize(("at_it_s", "severity"), [(0.999, "info"), (1.0, "warning"), (None, "info")])
def test_only_what_holds_sessions_for_a_second_is_a_warning(kind, event, at_it_s, severity, context):
    assert found(sampled(50, event, kind, at_it_s=at_it_s), context) == [(event, severity)]


def test_one_session_that_has_waited_for_long_does_not_make_a_busy_row_an_incident(context):
    rows = [*sampled(10, sessions=1, at_it_s=60.0), *sampled(80, sessions=8, at_it_s=0.01, first_pid=50)]
    assert found(rows, context) == [("transactionid", "info")]


def test_a_long_statement_with_short_lock_waits_is_not_held_up(context):
    rows = [{**row, "statement_s": 600.0} for row in sampled(50, at_it_s=0.01)]
    assert found(rows, context) == [("transactionid", "info")]


def test_two_events_can_be_hot_and_one_name_is_one_finding(context):
    rows = [*sampled(50, "WALWrite", "LWLock"), *sampled(50, "WALWrite", "IO", first_pid=50)]
    assert [it.title.split()[9] for it in judge(rows, LIMITS, context)] == ["IO:WALWrite"]
    rows = [*sampled(50), *sampled(50, "tuple", first_pid=50)]
    assert [name for name, _ in found(rows, context)] == ["transactionid", "tuple"]


@pytest.mark.parametrize(("behind", "blamed"), [((1, 2, 3, 9), True), ((1, 2), False), ((8, 9), False), ((), False)])
@pytest.mark.parametrize("code", ["blocking-lock", "sync-replica-missing"])
def test_what_holds_up_half_of_the_sessions_is_blamed(code, behind, blamed, context):
    (finding,) = judge(sampled(50, sessions=5), LIMITS, context)
    lock = Finding("critical", "pid", "7", "t", "i", code=code, involves=frozenset(f"pid:{it}" for it in behind))
    assert list(causes(finding, [lock])) == ([lock] if blamed else [])


def test_each_session_is_evidence_once_the_longest_first(context):
    rows = [*sampled(40, sessions=4), *sampled(10, sessions=1, at_it_s=9.0, first_pid=77)]
    (finding,) = judge(rows, LIMITS, context)
    assert [row["pid"] for row in finding.evidence] == [77, 1, 2, 3, 4]
    assert finding.title == (
        "Active sessions spend 100% of their time waiting for Lock:transactionid (5 sessions, the longest wait 9 s)"
    )


def test_no_active_session_is_well(context):
    assert found([], context) == []
    assert found([], context, {**LIMITS, "min_samples": 0}) == []
