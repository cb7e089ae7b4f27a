import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.locks.lock_table_exhaustion import judge
from pgrunbooks.drills import Actors, drills

CODE = "lock-table-exhaustion"
LIMITS = catalogue()[CODE].limits()


def holder(used, *, locks=None, **changes):
    table = {"locks": locks or used, "used": used, "capacity": 1000, "max_locks_per_transaction": 64}
    return session_row("1", **changes) | table


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_locks_that_lie_elsewhere_do_not_count(server):
    with Actors(server) as stage:
        stage.enter("readers", "begin isolation level serializable", "select count(*) from shop.orders")
        stage.enter("lookup", "begin", "select count(*) from shop.products")
        (rows,) = diagnose(server, CODE).rows.values()
        held = stage.watcher.execute("select count(*) from pg_locks where fastpath or mode = 'SIReadLock'").fetchone()
    assert held[0] >= 4
    assert [row["application"] for row in rows if row["application"] in ("readers", "lookup")] == []


def test_the_locks_of_a_prepared_transaction_are_the_transactions(server):
    with drills()["orphaned-prepared-transaction"].fault(server) as incident:
        (rows,) = diagnose(server, CODE).rows.values()
    assert [row["name"] for row in rows if row["kind"] == "prepared_transaction"] == [incident.name]


def test_a_role_without_rights_still_learns_who_has_written(server):
    with server.connect() as connection:
        connection.execute("create role drill_stranger login")
        try:
            with drills()["long-transaction"].fault(server) as incident:
                (rows,) = diagnose(server, CODE, dsn=server.url(user="drill_stranger")).rows.values()
        finally:
            connection.execute("drop role drill_stranger")
    assert [row["has_written"] for row in rows if row["name"] == incident.name] == [True]


def test_the_statement_that_shows_the_locks_runs(server):
    drill = drills()[CODE]
    with drill.fault(server), server.connect() as connection:
        (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).findings
        kinds = {row[0] for row in connection.execute(finding.remedies[0].sql)}
    assert "advisory" in kinds


@pytest.mark.parametrize(
    ("used", "severity"), [(699, []), (700, ["warning"]), (899, ["warning"]), (900, ["critical"]), (1300, ["critical"])]
)
def test_the_share_of_the_table_decides(used, severity, context):
    assert severities([holder(used)], context) == severity


def test_the_largest_holder_is_named_and_shown_first(context):
    (finding,) = judge([holder(800, locks=600), holder(800, locks=200)], LIMITS, context)
    assert "Session 1 (role shop, application checkout) holds 75% of it, 600 locks." in finding.impact
    assert [(row["locks"], row["locks_share"]) for row in finding.evidence] == [(600, 0.6), (200, 0.2)]


def test_a_prepared_transaction_is_finished_and_not_terminated(context):
    (finding,) = judge([holder(800, kind="prepared_transaction") | {"name": "it's"}], LIMITS, context)
    statements = [it.sql for it in finding.remedies]
    assert statements[1:3] == ["rollback prepared 'it''s';", "commit prepared 'it''s';"]
    assert "where p.gid = 'it''s')" in statements[0]


def test_the_larger_table_can_be_undone(context):
    (finding,) = judge([holder(800)], LIMITS, context)
    assert "= 128;" in finding.remedies[-1].sql
    assert "= 64;" in finding.remedies[-1].undo


def test_no_lock_is_well(context):
    assert severities([], context) == []
