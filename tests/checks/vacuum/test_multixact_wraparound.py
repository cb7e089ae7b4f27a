import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.vacuum.multixact_wraparound import judge
from pgrunbooks.drills import Actors, drills

CODE = "multixact-wraparound"
LIMITS = catalogue()[CODE].limits()


def database(ids, **changes):
    row = {
        "database": "shop",
        "is_current": True,
        "allows_connections": True,
        "ids": ids,
        "freeze_max_age": 400_000_000,
        "table": "shop.orders",
        "is_toast": False,
        "is_temporary": False,
        "table_ids": ids,
        "table_bytes": 8192,
    }
    return {**row, **changes}


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_multixacts_are_still_made_after_they_were_moved(server):
    lock = "select from shop.products where id = 1 for share"
    with drills()[CODE].fault(server), Actors(server) as stage:
        stage.enter("one", "begin", lock)
        stage.enter("two", "begin", lock)
        row = stage.watcher.execute("select mxid_age(xmax) from shop.products where id = 1").fetchone()
        assert row[0] == 1
        assert [it.severity for it in diagnose(server, CODE).findings if it.name == "shop"] == ["warning"]


@pytest.mark.parametrize(
    ("ids", "severity"),
    [
        (858_993_459, []),
        (858_993_460, ["warning"]),
        (1_610_612_735, ["warning"]),
        (1_610_612_736, ["critical"]),
        (None, []),
    ],
)
def test_the_share_of_the_ids_decides(ids, severity, context):
    assert [it.severity for it in judge([database(ids)], LIMITS, context)] == severity


def test_what_is_due_is_told_from_what_was_put_off(context):
    (late,) = judge([database(10**9)], LIMITS, context)
    assert "something keeps it from that" in late.impact
    (high,) = judge([database(10**9, freeze_max_age=2 * 10**9)], LIMITS, context)
    assert "that is set very high" in high.impact


def test_no_database_is_well(context):
    assert list(judge([], LIMITS, context)) == []
