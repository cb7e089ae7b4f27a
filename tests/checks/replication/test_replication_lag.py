import subprocess

import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.replication.replication_lag import causes, judge
from pgrunbooks.drills.replay_paused import paused
from pgrunbooks.sandbox import temporary_standby, wait_until

CODE = "replication-lag"
LIMITS = catalogue()[CODE].limits()
MB, GB = 1024**2, 1024**3


def looks(behind, lag_s=None, moved=0, *, standby="replica", side="primary", pid=4711, received=0):
    """Return two looks at a standby, which has replayed ``moved`` bytes and received ``received`` in between."""
    row = {
        "side": side,
        "standby": standby,
        "pid": pid,
        "client": "10.0.0.7",
        "state": "streaming",
        "sync_state": "async",
        "lag_s": lag_s,
    }
    position = 100 * GB
    first = {**row, "sample": 0, "available_position": position, "replayed_position": position - behind}
    last = {
        **row,
        "sample": 1,
        "available_position": position + received,
        "replayed_position": position - behind + moved,
    }
    return [first, last]


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_a_healthy_standby_is_silent_seen_from_both_sides_and_an_idle_primary_is_no_lag(server):
    nothing = {CODE: {"warning": "0", "warning_bytes": "1B"}}
    with temporary_standby(server) as standby:
        with standby.connect() as connection:
            wait_until(connection, "select pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()")
        with server.connect() as connection:
            wait_until(connection, "select count(*) > 0 and bool_and(replay_lsn >= sent_lsn) from pg_stat_replication")
        assert diagnose(server, CODE, thresholds=nothing).findings == []
        assert diagnose(server, CODE, thresholds=nothing, dsn=standby.url()).findings == []


def test_the_standby_itself_says_so_and_names_who_paused_it_as_the_cause(server):
    limits = {CODE: {"warning_bytes": "16MB"}}
    with temporary_standby(server) as standby, paused(server, standby, segments=3):
        verdict = diagnose(server, "replication", thresholds=limits, dsn=standby.url())
    assert [(it.code, it.name, it.caused_by) for it in verdict.findings] == [
        ("replay-paused", "walreceiver", ()),
        (CODE, "walreceiver", ("replay-paused:standby:walreceiver",)),
    ]


def test_a_base_backup_and_a_wal_receiver_are_no_standbys(server, tmp_path):
    tmp_path.chmod(0o777)
    program = str(server.programs / "pg_receivewal")
    with (
        subprocess.Popen(
            [program, "-D", str(tmp_path), "-d", server.url("postgres")], stderr=subprocess.DEVNULL
        ) as receiver,
        server.connect() as connection,
    ):
        try:
            wait_until(connection, "select exists (select from pg_stat_replication where state = 'streaming')")
            verdict = diagnose(server, CODE, thresholds={CODE: {"warning": "0", "warning_bytes": "0"}})
        finally:
            receiver.terminate()
    assert (verdict.rows[CODE], verdict.findings) == ([], [])


@pytest.mark.parametrize(
    ("lag_s", "severity"),
    [(29.9, []), (30.0, ["warning"]), (299.9, ["warning"]), (300.0, ["critical"]), (None, [])],
)
def test_the_lag_in_time_decides_while_replay_moves(lag_s, severity, context):
    assert severities(looks(50 * MB, lag_s, moved=MB), context) == severity


@pytest.mark.parametrize(
    ("behind", "severity"),
    [
        (100 * MB - 1, []),
        (100 * MB, ["warning"]),
        (GB - 1, ["warning"]),
        (GB, ["critical"]),
    ],
)
def test_the_bytes_behind_decide_while_replay_stands_still(behind, severity, context):
    assert severities(looks(behind, 0.01), context) == severity


def test_bytes_count_where_no_time_is_reported_and_not_where_replay_moves(context):
    assert severities(looks(9 * GB, None, moved=MB), context) == ["critical"]
    assert severities(looks(9 * GB, 0.5, moved=MB), context) == []


def test_one_look_alone_does_not_say_that_it_stands_still(context):
    assert severities(looks(9 * GB, 0.5)[1:], context) == []


def test_a_standby_that_has_nothing_to_replay_is_never_late(context):
    assert severities(looks(0, 36000.0), context) == []
    assert severities(looks(0, 36000.0, side="standby", pid=None), context) == []


def test_on_the_standby_what_it_had_received_must_be_replayed_by_the_next_look(context):
    late = looks(50 * MB, 36000.0, moved=MB, side="standby", pid=None, received=MB)
    busy = looks(50 * MB, 36000.0, moved=50 * MB, side="standby", pid=None, received=MB)
    assert (severities(late, context), severities(busy, context)) == (["critical"], [])


def test_a_standby_that_is_fed_from_an_archive_cannot_tell(context):
    rows = [{**row, "available_position": None} for row in looks(9 * GB, side="standby", pid=None)]
    assert severities(rows, context) == []


def test_of_two_standbys_with_one_name_the_worst_is_the_finding(context):
    rows = [*looks(200 * MB, pid=1), *looks(3 * GB, pid=2), *looks(MB, pid=3), *looks(2 * GB, standby="other", pid=4)]
    rows.sort(key=lambda row: row["sample"])
    findings = list(judge(rows, LIMITS, context))
    assert [(it.name, it.severity, it.evidence[0]["behind_bytes"]) for it in findings] == [
        ("other", "critical", 2 * GB),
        ("replica", "critical", 3 * GB),
    ]


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        (looks(GB), "Standby replica is 1 GB behind, and its replay stands still"),
        (looks(GB, 60.0, moved=GB // 2), "Standby replica is 512 MB and 60 s behind"),
        (looks(2 * GB, None, moved=GB), "Standby replica is 1 GB behind"),
    ],
)
def test_the_title_says_how_far_and_whether_it_moves(rows, title, context):
    (finding,) = judge(rows, LIMITS, context)
    assert finding.title.replace("1 min", "60 s") == title


def test_only_a_pause_of_the_same_standby_is_blamed(context):
    (finding,) = judge(looks(GB), LIMITS, context)
    others = [Finding("warning", "standby", name, "t", "i", code="replay-paused") for name in ("replica", "other")]
    assert [it.name for it in causes(finding, others)] == ["replica"]


def test_no_standby_is_well(context):
    assert severities([], context) == []
