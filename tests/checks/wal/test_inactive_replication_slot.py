from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.wal.inactive_replication_slot import judge
from pgrunbooks.drills import drills

CODE = "inactive-replication-slot"
LIMITS = catalogue()[CODE].limits()
GB = 1024**3


def slot(retained_bytes=0, inactive_s=None, **changes):
    row = {
        "slot": "replica",
        "slot_type": "physical",
        "plugin": None,
        "database": None,
        "wal_status": "reserved",
        "safe_wal_bytes": None,
        "unlimited": True,
        "inactive_since": None,
        "inactive_s": inactive_s,
        "retained_bytes": retained_bytes,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_remedy_drops_the_slot(server):
    drill = drills()[CODE]
    with drill.fault(server), server.connect() as dba:
        (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).findings
        dba.execute(finding.remedies[1].sql)
        assert diagnose(server, CODE, thresholds=drill.thresholds).findings == []


def test_a_logical_slot_is_judged_and_one_that_reserves_nothing_or_is_temporary_is_not(server):
    with server.connect() as connection:
        connection.execute("select pg_create_logical_replication_slot('logical', 'test_decoding')")
        connection.execute("select pg_create_physical_replication_slot('nothing')")
        connection.execute("select pg_create_physical_replication_slot('passing', true, true)")
        try:
            findings = diagnose(server, CODE, thresholds={CODE: {"warning_bytes": "0"}}).findings
        finally:
            connection.execute("select pg_drop_replication_slot('logical'), pg_drop_replication_slot('nothing')")
    assert [(it.name, it.severity) for it in findings] == [("logical", "warning")]
    assert "logical replication slot logical of database shop" in findings[0].title


@pytest.mark.parametrize(
    ("row", "severity"),
    [
        (slot(), []),
        (slot(None, None), []),
        (slot(GB - 1), []),
        (slot(GB), ["warning"]),
        (slot(900 * GB), ["warning"]),
        (slot(0, 3599.9), []),
        (slot(0, 3600.0), ["warning"]),
    ],
)
def test_what_is_retained_and_for_how_long_decides(row, severity, context):
    assert severities([row], context) == severity


@pytest.mark.parametrize(
    ("wal_status", "unlimited", "severity"),
    [
        ("reserved", True, []),
        ("extended", False, []),
        ("extended", True, ["critical"]),
        ("unreserved", False, ["critical"]),
        (None, True, []),
    ],
)
def test_wal_that_is_given_up_or_kept_without_limit_is_critical(wal_status, unlimited, severity, context):
    assert severities([slot(wal_status=wal_status, unlimited=unlimited)], context) == severity


def test_a_limit_for_slots_is_proposed_only_where_there_is_none(context):
    unlimited, limited = (next(iter(judge([slot(3 * GB, unlimited=it)], LIMITS, context))) for it in (True, False))
    assert [len(it.remedies) for it in (unlimited, limited)] == [3, 2]
    assert unlimited.remedies[2].sql.startswith("alter system set max_slot_wal_keep_size = '6144MB';")


def test_no_slot_is_well(context):
    assert severities([], context) == []


@pytest.mark.parametrize(
    ("inactive_s", "slots", "severity"),
    [
        (None, {}, []),
        (None, {"other": 7200.0}, []),
        (None, {"replica": 3599.9}, []),
        (None, {"replica": 3600.0}, ["warning"]),
        (60.0, {"replica": 7200.0}, []),  # the server knows better
    ],
)
def test_where_the_server_does_not_tell_since_when_the_history_does(inactive_s, slots, severity, context):
    assert severities([slot(0, inactive_s)], replace(context, since=Since(3600.0, slots=slots))) == severity


def test_since_the_first_snapshot_that_saw_it_so_before_17_and_since_the_server_says_so_later(server, remember):
    with server.connect() as dba:
        dba.execute("select pg_create_physical_replication_slot('forgotten', true)")
        try:
            remember(hours_ago=30)
            remember(hours_ago=2)
            remember(hours_ago=0.9)
            titles = [it.title for it in diagnose(server, CODE).about(CODE)]
            assert len(titles) == (dba.info.server_version < 170000)
            assert all(it.endswith("and has been inactive for 1 d 6 h") for it in titles)
            dba.execute("select pg_logical_emit_message(true, 'test', 'an order'), pg_switch_wal()")
            dba.execute("select pg_replication_slot_advance('forgotten', pg_current_wal_lsn())")
            assert diagnose(server, CODE).about(CODE) == []
        finally:
            dba.execute("select pg_drop_replication_slot('forgotten')")
