import pytest

from conftest import diagnose, session_row
from pgrunbooks.checks.connections.sync_replica_missing import judge, parse, relaxed
from pgrunbooks.drills import drills


def answer(setting, synchronous=(), *, streaming=None, waiting=0):
    server = {"standby_names": setting, "synchronous": list(synchronous), "streaming": list(streaming or synchronous)}
    sessions = [session_row(str(pid), wait_event="SyncRep") for pid in range(1, waiting + 1)]
    return [{**session, **server} for session in sessions or [dict.fromkeys(session_row("1"))]]


def severities(rows, context):
    return [it.severity for it in judge(rows, {}, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("sync-replica-missing")


def test_the_remedy_lets_the_waiting_commit_go_on(server):
    with drills()["sync-replica-missing"].fault(server), server.connect() as dba:
        (finding,) = diagnose(server, "sync-replica-missing").findings
        for statement in finding.remedies[1].sql.splitlines():
            dba.execute(statement)
        (state,) = diagnose(server, "sync-replica-missing").findings or [None]
        assert state is None


def test_a_commit_that_hangs_is_its_symptom(server):
    limits = {"long-running-query": {"warning": "0"}, "wait-event-hotspot": {"min_sessions": "1"}}
    with drills()["sync-replica-missing"].fault(server):
        missing, *symptoms = diagnose(server, "sync-replica-missing", *limits, thresholds=limits).findings
    assert {(it.code, it.caused_by) for it in symptoms} == {(code, (missing.id,)) for code in limits}


@pytest.mark.parametrize(
    ("setting", "number", "names"),
    [
        ("", 0, []),
        ("  ", 0, []),
        ("a", 1, ["a"]),
        ("a, b", 1, ["a", "b"]),
        ("*", 1, ["*"]),
        ("2 (a, b, c)", 2, ["a", "b", "c"]),
        ("FIRST 2 (a, b, c)", 2, ["a", "b", "c"]),
        ("any 3(a,b,c)", 3, ["a", "b", "c"]),
        ("ANY 1 (*)", 1, ["*"]),
        ("first\n2\t( a ,b )", 2, ["a", "b"]),
        ('"My ""own"", standby", b', 1, ['My "own", standby', "b"]),
        ('"2 (x)", b', 1, ["2 (x)", "b"]),
        ('FIRST 1 ("first", "any")', 1, ["first", "any"]),
        ("1, 2", 1, ["1", "2"]),
        ("anyone, firstborn", 1, ["anyone", "firstborn"]),
    ],
)
def test_the_setting_is_read_as_the_server_reads_it(setting, number, names):
    assert parse(setting) == (number, names)


@pytest.mark.parametrize(
    ("setting", "synchronous", "missing"),
    [
        ("", [], False),
        (None, [], False),
        ("a", ["a"], False),
        ("a", [], True),
        ("FIRST 2 (a, b, c)", ["a"], True),
        ("FIRST 2 (a, b, c)", ["a", "c"], False),
        ("ANY 2 (a, b, c)", ["a", "b", "c"], False),
        ("ANY 2 (*)", ["x"], True),
    ],
)
def test_more_asked_for_than_streams_is_a_warning(setting, synchronous, missing, context):
    assert severities(answer(setting, synchronous), context) == (["warning"] if missing else [])


def test_a_session_that_waits_makes_it_critical_and_is_counted(context):
    (finding,) = judge(answer("a", waiting=2), {}, context)
    assert (finding.severity, finding.involves) == ("critical", {"pid:1", "pid:2"})
    assert finding.title.startswith("2 commits wait for a synchronous standby")


def test_a_commit_that_waits_for_a_standby_that_streams_is_life(context):
    assert severities(answer("a", ["a"], waiting=3), context) == []


def test_standbys_that_do_not_stream_are_named_whatever_their_case(context):
    (finding,) = judge(answer("FIRST 3 (A, b, c)", ["a"], streaming=["a", "x"]), {}, context)
    assert "Not streaming: b, c." in finding.impact


@pytest.mark.parametrize(
    ("setting", "streaming", "value"),
    [
        ("a", 0, ""),
        ("FIRST 2 (a, b)", 0, ""),
        ("FIRST 2 (a1, b)", 1, "FIRST 1 (a1, b)"),
        ("any 3(a,b,c)", 2, "any 2(a,b,c)"),
    ],
)
def test_the_way_out_asks_for_what_there_is_and_can_be_undone(setting, streaming, value, context):
    assert relaxed(setting, streaming) == value
    (finding,) = judge(answer(setting, ["x"] * streaming), {}, context)
    change = finding.remedies[1]
    assert change.sql == f"alter system set synchronous_standby_names = '{value}';\nselect pg_reload_conf();"
    assert f"= '{setting}';" in change.undo


def test_no_answer_is_well(context):
    assert severities([], context) == []
