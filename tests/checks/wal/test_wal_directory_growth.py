import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.wal.wal_directory_growth import causes, judge
from pgrunbooks.drills import drills

CODE = "wal-directory-growth"
LIMITS = catalogue()[CODE].limits()
GB = 1024**3


def directory(wal_bytes, slot=None, retained=None, **changes):
    row = {
        "wal_bytes": wal_bytes,
        "wal_files": 10,
        "max_wal_bytes": GB,
        "wal_keep_bytes": 0,
        "unarchived_bytes": 0,
        "slot": slot,
        "slot_type": "physical" if slot else None,
        "active": False if slot else None,
        "retained_bytes": retained,
    }
    return {**row, **changes}


def held_by(*rows, context):
    (finding,) = judge(rows, LIMITS, context)
    return finding.evidence[0].get("holder"), finding.evidence[0].get("held_by")


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_slot_that_holds_it_is_named_as_its_cause(server):
    drill = drills()[CODE]
    with drill.fault(server):
        verdict = diagnose(server, "wal", thresholds=drill.thresholds)
    (finding,) = verdict.about(CODE)
    assert "the replication slot drill_cdc keeps" in finding.title
    assert finding.caused_by == ("inactive-replication-slot:slot:drill_cdc",)
    assert next(it.code for it in verdict.findings) == "inactive-replication-slot"


@pytest.mark.parametrize(
    ("wal_bytes", "severity"),
    [(0, []), (None, []), (2 * GB - 1, []), (2 * GB, ["warning"]), (5 * GB - 1, ["warning"]), (5 * GB, ["critical"])],
)
def test_the_multiple_of_what_is_meant_decides(wal_bytes, severity, context):
    assert [it.severity for it in judge([directory(wal_bytes)], LIMITS, context)] == severity


def test_what_wal_keep_size_asks_for_is_meant_too(context):
    assert list(judge([directory(2 * GB, wal_keep_bytes=GB)], LIMITS, context)) == []
    assert len(list(judge([directory(4 * GB, wal_keep_bytes=GB)], LIMITS, context))) == 1


@pytest.mark.parametrize(
    ("row", "holder"),
    [
        (directory(4 * GB), (None, None)),
        (directory(4 * GB, "cdc", 2 * GB), ("slot", "cdc")),
        (directory(4 * GB, "cdc", 2 * GB - 1), (None, None)),
        (directory(4 * GB, unarchived_bytes=3 * GB), ("archiver", "cluster")),
        (directory(4 * GB, "cdc", 2 * GB, unarchived_bytes=3 * GB), ("archiver", "cluster")),
        (directory(4 * GB, max_wal_bytes=0, wal_keep_bytes=2 * GB), ("setting", "wal_keep_size")),
    ],
)
def test_the_holder_keeps_the_most_and_at_least_half(row, holder, context):
    assert held_by(row, context=context) == holder


def test_every_slot_is_evidence_and_the_first_is_judged(context):
    rows = [directory(9 * GB, "cdc", 8 * GB), directory(9 * GB, "replica", GB, active=True)]
    (finding,) = judge(rows, LIMITS, context)
    assert [it.get("slot") for it in finding.evidence] == [None, "cdc", "replica"]


def other(code, kind, name):
    return Finding("critical", kind, name, "t", "i", code=code)


@pytest.mark.parametrize(
    ("row", "blamed"),
    [
        (directory(4 * GB, "cdc", 3 * GB), [("inactive-replication-slot", "cdc"), ("replication-slot-lost", "cdc")]),
        (directory(4 * GB, unarchived_bytes=3 * GB), [("wal-archiving-failing", "cluster")]),
        (directory(4 * GB), []),
    ],
)
def test_only_the_holder_is_blamed(row, blamed, context):
    (finding,) = judge([row], LIMITS, context)
    others = [
        other("inactive-replication-slot", "slot", "cdc"),
        other("inactive-replication-slot", "slot", "replica"),
        other("replication-slot-lost", "slot", "cdc"),
        other("xmin-horizon-held", "slot", "cdc"),
        other("wal-archiving-failing", "cluster", "cluster"),
    ]
    assert [(it.code, it.name) for it in causes(finding, others)] == blamed


def test_all_that_keep_half_of_it_are_named_and_blamed_since_each_has_to_let_go(context):
    rows = [directory(4 * GB, slot, 3 * GB, unarchived_bytes=2 * GB) for slot in ("cdc", "replica")]
    (finding,) = judge([*rows, directory(4 * GB, "near", GB)], LIMITS, context)
    assert finding.title.endswith(
        "the replication slot cdc keeps 3 GB, and nobody reads it; the replication slot replica keeps 3 GB, and nobody"
        " reads it; 2 GB wait for the archiver"
    )
    others = [other("inactive-replication-slot", "slot", name) for name in ("cdc", "replica", "near")]
    others.append(other("wal-archiving-failing", "cluster", "cluster"))
    assert [it.name for it in causes(finding, others)] == ["cdc", "replica", "cluster"]


def test_no_row_is_well(context):
    assert list(judge([], LIMITS, context)) == []
