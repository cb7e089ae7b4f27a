import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.connections.orphaned_prepared_transaction import judge
from pgrunbooks.drills import Actors, drills

CODE = "orphaned-prepared-transaction"
LIMITS = catalogue()[CODE].limits()


def prepared(seconds, gid="payment", **changes):
    row = {"kind": "prepared_transaction", "id": f"prepared_transaction:{gid}", "state": "prepared", "query": None}
    return session_row(gid, transaction_s=seconds, state_s=seconds, **{**row, "backend_type": None, **changes})


def waiter(waited_s, gid="payment"):
    return session_row("10", waiting_s=waited_s) | {"blocked_by": [f"prepared_transaction:{gid}"]}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_it_is_critical_once_a_session_waits_and_is_the_cause_of_that(server):
    limits = {CODE: {"blocking": "1s"}, "blocking-lock": {"warning": "1s"}}
    with drills()[CODE].fault(server), Actors(server) as stage:
        checkout = stage.block(
            "checkout", "update shop.orders set status = status where id = (select min(id) from shop.orders)"
        )
        stage.waited(checkout, 1)
        findings = diagnose(server, "connections", "locks", thresholds=limits).findings
        (look,) = [it for it in findings[0].remedies if it.risk == "none"]
        tables = stage.watcher.execute(look.sql).fetchall()
    assert [(it.code, it.severity) for it in findings] == [(CODE, "critical"), ("blocking-lock", "warning")]
    assert findings[1].caused_by == (findings[0].id,)
    assert ("shop.orders", "RowExclusiveLock") in tables


@pytest.mark.parametrize(
    ("seconds", "severity"), [(299.9, []), (300, ["warning"]), (3599, ["warning"]), (3600, ["critical"]), (None, [])]
)
def test_the_time_since_it_was_prepared_decides(seconds, severity, context):
    assert severities([prepared(seconds)], context) == severity


@pytest.mark.parametrize(("waited", "severity"), [(4.9, []), (5.0, ["critical"]), (None, [])])
def test_blocking_a_session_is_critical_however_young_it_is(waited, severity, context):
    assert severities([prepared(6), waiter(waited)], context) == severity


def test_blocking_by_another_one_does_not_count(context):
    assert severities([prepared(6), prepared(6, gid="other"), waiter(4, "payment"), session_row("2")], context) == []


def test_sessions_are_not_its_business(context):
    assert severities([session_row("1", transaction_s=99999)], context) == []


def test_a_gid_is_quoted_in_every_statement(context):
    (finding,) = judge([prepared(400, gid="it's\\here")], LIMITS, context)
    assert finding.name == "it's\\here"
    assert all("E'it''s\\\\here'" in it.sql for it in finding.remedies)


def test_no_prepared_transaction_is_well(context):
    assert severities([], context) == []
