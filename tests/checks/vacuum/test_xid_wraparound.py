import pytest

from conftest import OLDEST, diagnose
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.vacuum.xid_wraparound import causes, judge
from pgrunbooks.drills._server import BILLION, moved_ahead
from pgrunbooks.sandbox import temporary_sandbox

CODE = "xid-wraparound"
LIMITS = catalogue()[CODE].limits()
FORTY, SEVENTY_FIVE = 858_993_460, 1_610_612_736  # of 2^31


def database(ids, **changes):
    row = {
        "database": "shop",
        "is_current": True,
        "allows_connections": True,
        "ids": ids,
        "freeze_max_age": 200_000_000,
        "table": "shop.orders",
        "is_toast": False,
        "is_temporary": False,
        "table_ids": ids,
        "table_bytes": 8192,
    }
    return {**row, **changes}


def elsewhere(ids, **changes):
    return database(ids, database="other", is_current=False, table=None, is_temporary=None, **changes)


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


@pytest.mark.parametrize("programs", [None, OLDEST], ids=["newest", "oldest"])
def test_ids_that_were_really_used_up_reach_the_default_limits(programs):
    with temporary_sandbox(sample=False, programs=programs) as sandbox:
        with sandbox.connect("postgres") as session:
            session.execute("create database shop")
        with sandbox.connect() as session:
            session.execute("create table old as select i as id from generate_series(1, 1000) as i")
        with moved_ahead(sandbox, transactions=BILLION * 17 // 10):
            findings = {it.name: it for it in diagnose(sandbox, CODE).findings}
            assert {it.severity for it in findings.values()} == {"critical"}
            assert set(findings) == {"postgres", "shop", "template0", "template1"}
            assert "its oldest table is" in findings["shop"].title
            with sandbox.connect() as session:
                session.execute("insert into old values (1)")
                session.execute(findings["postgres"].remedies[-1].sql)
            assert "shop" not in {it.name for it in diagnose(sandbox, CODE).findings}
        assert diagnose(sandbox, CODE).findings == []


@pytest.mark.parametrize(
    ("ids", "severity"),
    [
        (0, []),
        (FORTY - 1, []),
        (FORTY, ["warning"]),
        (SEVENTY_FIVE - 1, ["warning"]),
        (SEVENTY_FIVE, ["critical"]),
        (2**31 - 1, ["critical"]),
        (None, []),
    ],
)
def test_the_share_of_the_ids_decides(ids, severity, context):
    assert severities([database(ids)], context) == severity
    assert severities([elsewhere(ids)], context) == severity


def test_a_database_is_one_finding_with_its_oldest_tables(context):
    rows = [database(FORTY, table=f"shop.t{n}") for n in range(5)]
    (finding,) = judge([*rows, elsewhere(5)], LIMITS, context)
    assert finding.title == "Database shop has used 40% of its transaction ids; its oldest table is shop.t0"
    assert len(finding.evidence) == 5
    assert finding.remedies[-1].sql == "vacuum (freeze, verbose) shop.t0, shop.t1, shop.t2;"


def test_a_temporary_table_is_dropped_and_not_vacuumed(context):
    (finding,) = judge([database(FORTY, table="pg_temp_3.t", is_temporary=True)], LIMITS, context)
    assert finding.remedies[-1].sql == "drop table pg_temp_3.t;"


def test_a_database_that_lets_nobody_in_is_left_to_autovacuum(context):
    (finding,) = judge([elsewhere(FORTY, allows_connections=False)], LIMITS, context)
    assert finding.remedies[-1].sql is None


def test_a_holder_of_the_horizon_is_the_cause_where_it_explains_half_of_the_age(context):
    def holding(transactions, database):
        evidence = [{"database": database, "holds": "rows", "transactions": transactions}]
        return Finding("warning", "pid", "1", "", "", evidence=evidence, code="xmin-horizon-held")

    (finding,) = judge([database(FORTY)], LIMITS, context)
    others = [
        holding(FORTY // 2, "shop"),
        holding(FORTY // 2 - 1, "shop"),
        holding(FORTY, "else"),
        holding(FORTY, None),
    ]
    assert causes(finding, others) == [others[0], others[3]]


def test_no_database_is_well(context):
    assert severities([], context) == []
