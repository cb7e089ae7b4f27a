import pytest

from pgrunbooks.check import catalogue
from pgrunbooks.checks.wal.wal_archiving_failing import judge

LIMITS = catalogue()["wal-archiving-failing"].limits()


def archiver(ready_files=0, failed=False, **changes):
    row = {
        "archive_mode": "on",
        "in_recovery": False,
        "last_attempt_failed": failed,
        "failed_count": 3 if failed else 0,
        "last_failed_wal": "00000001000000000000000F" if failed else None,
        "last_failed_time": None,
        "archived_count": 7,
        "last_archived_wal": "00000001000000000000000E",
        "last_archived_time": None,
        "last_archived_s": 7200.0,
        "ready_files": ready_files,
        "ready_bytes": ready_files * 16 * 1024**2,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("wal-archiving-failing")


@pytest.mark.parametrize(
    ("ready_files", "severity"), [(0, []), (31, []), (32, ["warning"]), (5000, ["warning"]), (None, [])]
)
def test_segments_that_wait_are_counted(ready_files, severity, context):
    row = archiver() if ready_files is None else archiver(ready_files)
    assert severities([{**row, "ready_files": ready_files}], context) == severity


@pytest.mark.parametrize(("failed", "severity"), [(True, ["critical"]), (False, []), (None, [])])
def test_a_last_attempt_that_failed_is_critical_however_few_wait(failed, severity, context):
    assert severities([archiver(1, failed)], context) == severity


@pytest.mark.parametrize(
    ("mode", "in_recovery", "judged"),
    [("off", False, False), ("on", False, True), ("on", True, False), ("always", True, True)],
)
def test_only_a_server_that_archives_is_judged(mode, in_recovery, judged, context):
    rows = [archiver(99, True, archive_mode=mode, in_recovery=in_recovery)]
    assert severities(rows, context) == (["critical"] if judged else [])


@pytest.mark.parametrize(
    ("row", "title"),
    [
        (archiver(1, True), "WAL archiving fails at segment 00000001000000000000000F; the last one arrived 2 h ago"),
        (archiver(40, last_archived_s=None), "40 WAL segments wait to be archived; no segment was ever archived"),
    ],
)
def test_the_title_says_where_it_stands(row, title, context):
    (finding,) = judge([row], LIMITS, context)
    assert finding.title == title


def test_no_row_is_well(context):
    assert severities([], context) == []
