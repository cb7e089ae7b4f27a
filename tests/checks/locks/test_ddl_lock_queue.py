import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.locks.ddl_lock_queue import judge
from pgrunbooks.drills import drills

LIMITS = catalogue()["ddl-lock-queue"].limits()


def queue(waited, readers, mode="AccessExclusiveLock", lock_type="relation"):
    ddl = session_row(
        "2",
        blocked_by=("1",),
        waiting_s=waited,
        lock_mode=mode,
        lock_type=lock_type,
        lock_on="shop.orders",
        query="alter table shop.orders add column x int",
    )
    behind = [session_row(str(pid), blocked_by=("2",), waiting_s=0.1) for pid in range(10, 10 + readers)]
    return [session_row("1"), ddl, *behind]


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("ddl-lock-queue")


def test_the_forgotten_transaction_stands_first_and_the_rest_follows_from_it(server):
    drill = drills()["ddl-lock-queue"]
    with drill.fault(server):
        verdict = diagnose(server, "troubleshooting", thresholds=drill.thresholds)
    grave = [it for it in verdict.findings if it.severity != "info"]
    codes = [it.code for it in grave]
    assert codes == ["idle-in-transaction", "blocking-lock", "ddl-lock-queue", "wait-event-hotspot"]
    idle, blocking, *symptoms = grave
    assert (idle.caused_by, blocking.caused_by) == ((), (idle.id,))
    assert {it.caused_by for it in symptoms} == {(blocking.id,)}


@pytest.mark.parametrize(
    ("waited", "severity"), [(4.9, []), (5, ["warning"]), (29, ["warning"]), (30, ["critical"]), (None, [])]
)
def test_its_own_wait_decides(waited, severity, context):
    assert severities(queue(waited, readers=1), context) == severity


@pytest.mark.parametrize(("readers", "severity"), [(0, []), (4, ["warning"]), (5, ["critical"])])
def test_how_many_queue_behind_it_decides(readers, severity, context):
    assert severities(queue(6, readers), context) == severity


@pytest.mark.parametrize("change", [{"mode": "RowExclusiveLock"}, {"lock_type": "transactionid"}])
def test_only_strong_requests_for_a_relation_count(change, context):
    assert severities(queue(60, 9, **change), context) == []


def test_the_remedy_cancels_the_migration_and_not_the_readers(context):
    (finding,) = judge(queue(6, 3), LIMITS, context)
    assert [it.sql.split("(")[0] for it in finding.remedies] == ["select pg_cancel_backend"]
    assert "pid = 2 " in finding.remedies[0].sql


def test_nobody_waiting_is_well(context):
    assert severities([], context) == []
