import pytest

from conftest import diagnose
from pgrunbooks.checks.wal.replication_slot_lost import judge
from pgrunbooks.drills import drills


def slot(**changes):
    row = {
        "slot": "replica",
        "slot_type": "physical",
        "plugin": None,
        "database": None,
        "active": False,
        "wal_status": "lost",
        "invalidation_reason": None,
    }
    return {**row, **changes}


def test_the_drill_is_found_and_healed(prove):
    prove("replication-slot-lost")


def test_the_same_slot_is_not_called_inactive_as_well(server):
    drill = drills()["replication-slot-lost"]
    limits = {"inactive-replication-slot": {"warning_bytes": "0", "warning": "0"}}
    with drill.fault(server):
        assert [it.code for it in diagnose(server, "wal", thresholds=limits).findings if it.kind == "slot"] == [
            "replication-slot-lost"
        ]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (None, "the WAL that it needs was removed"),
        ("wal_removed", "the WAL that it needs was removed"),
        ("idle_timeout", "it was idle for longer than idle_replication_slot_timeout"),
        ("a reason of PostgreSQL 20", "a reason of PostgreSQL 20"),
    ],
)
def test_the_title_says_why_it_is_lost(reason, words, context):
    (finding,) = judge([slot(invalidation_reason=reason)], {}, context)
    assert (finding.severity, finding.title) == ("critical", f"Replication slot replica is lost: {words}")


def test_a_subscriber_is_told_something_else_than_a_standby(context):
    physical, logical = judge([slot(), slot(slot_type="logical", slot="subscriber")], {}, context)
    assert (physical.impact[:11], logical.impact[:14]) == ("Its standby", "Its subscriber")
    assert physical.remedies[1].sql == "select pg_drop_replication_slot('replica');"


def test_no_slot_is_well(context):
    assert list(judge([], {}, context)) == []
