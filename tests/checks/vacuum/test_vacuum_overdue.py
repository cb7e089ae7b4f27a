import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.vacuum.vacuum_overdue import causes, judge
from pgrunbooks.drills import Actors, drills
from pgrunbooks.sample_data import run_workload

CODE = "vacuum-overdue"
LIMITS = catalogue()[CODE].limits()
OFF = "autovacuum_enabled = false"


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def overdue(server, **settings):
    verdict = diagnose(server, CODE, **settings)
    return {it.name: it for it in verdict.findings if it.code == CODE}


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_a_shop_at_work_is_well(server):
    run_workload(server.url(), calls=2000)
    findings = diagnose(server, "vacuum", "integrity").findings
    assert [(it.code, it.name) for it in findings if it.severity != "info"] == []


def test_who_holds_the_horizon_is_the_cause_and_stands_first(server):
    thresholds = drills()["xmin-horizon-held"].thresholds
    with drills()["xmin-horizon-held"].fault(server) as holder, drills()[CODE].fault(server) as incident:
        verdict = diagnose(server, "xmin-horizon-held", CODE, thresholds=thresholds)
        first, second = (it for it in verdict.findings if it.severity == "warning")
    assert (first.name, second.name) == (holder.name, incident.name)
    assert second.caused_by == (first.id,)


def test_a_vacuum_that_runs_silences_it(server):
    with drills()[CODE].fault(server) as incident, Actors(server) as stage:
        vacuum = stage.enter("dba", "set vacuum_cost_delay = 100", "set vacuum_cost_limit = 1")
        vacuum.pgconn.send_query(f"vacuum {incident.name}".encode())
        stage.wait_until("select exists (select from pg_stat_progress_vacuum where pid = %s)", vacuum.info.backend_pid)
        assert overdue(server) == {}


def test_each_table_has_its_own_trigger_and_every_remedy_runs(server, build):
    rows = "select i as id, 0 as n from generate_series(1, 30000) as i"
    build(
        'create schema "Odd ""Schéma"',
        f'create table "Odd ""Schéma"."the %s" with ({OFF}) as {rows}',
        f"create table patient with ({OFF}, autovacuum_vacuum_scale_factor = 0.9) as {rows}",
        f"create table high with ({OFF}, autovacuum_vacuum_threshold = 20000) as {rows}",
        f"create temp table gone with ({OFF}) as {rows}",
        "create table parts (id int, n int) partition by range (id)",
        f"create table part partition of parts for values from (0) to (100000) with ({OFF})",
        f"insert into parts {rows}",
        "analyze",
        'update "Odd ""Schéma"."the %s" set n = 1',
        "update patient set n = 1",
        "update high set n = 1",
        "update gone set n = 1",
        "update parts set n = 1",
    )
    findings = overdue(server)
    assert set(findings) == {'"Odd ""Schéma"."the %s"', "lab.part"}
    for finding in findings.values():
        for remedy in finding.remedies:
            build(remedy.sql)
    assert overdue(server) == {}


def test_a_toast_table_counts_as_its_tables(server, build):
    build(
        f"create table long (id int, t text) with ({OFF})",
        "alter table long alter t set storage external",
        "insert into long select i, repeat('x', 12000) from generate_series(1, 2500) as i",
        "analyze long",
        "delete from long",
    )
    (finding,) = overdue(server).values()
    assert finding.name == "lab.long"
    assert "in the TOAST table of lab.long" in finding.title


def test_since_18_a_large_table_has_a_trigger_with_an_upper_limit(newest):
    with newest.connect() as session:
        session.execute(
            f"create table shop.capped with ({OFF}, autovacuum_vacuum_max_threshold = 5000) as"
            " select i as id from generate_series(1, 200000) as i"
        )
        try:
            session.execute("analyze shop.capped")
            session.execute("delete from shop.capped where id <= 10000")
            session.execute("select pg_stat_force_next_flush()")
            session.execute("select 1")
            assert set(overdue(newest)) == {"shop.capped"}
            session.execute("alter table shop.capped set (autovacuum_vacuum_max_threshold = -1)")
            assert overdue(newest) == {}
        finally:
            session.execute("drop table shop.capped")


@pytest.mark.parametrize(("dead_rows", "severity"), [(None, []), (0, []), (40_099, []), (40_100, ["warning"])])
def test_twice_the_trigger_decides(dead_rows, severity, dead, context):
    assert severities([dead(dead_rows)], context) == severity


@pytest.mark.parametrize(("dead_rows", "severity"), [(9_999, []), (10_000, ["warning"])])
def test_a_few_dead_rows_are_nobody_s_worry(dead_rows, severity, dead, context):
    assert severities([dead(dead_rows, vacuum_trigger=50.0)], context) == severity


def test_what_is_vacuumed_now_is_well(dead, context):
    assert severities([dead(10**6, is_vacuumed_now=True)], context) == []


def test_a_table_and_its_toast_table_are_one_finding(dead, context):
    (finding,) = judge([dead(50_000), dead(90_000, is_toast=True)], LIMITS, context)
    assert finding.title.startswith("90,000 dead rows in the TOAST table of shop.baskets, 4.49 times")


def test_only_who_holds_rows_of_this_database_is_a_cause(dead, context):
    def holder(database, holds):
        evidence = [{"database": database, "holds": holds}]
        return Finding("warning", "pid", "1", "", "", evidence=evidence, code="xmin-horizon-held")

    (finding,) = judge([dead(50_000)], LIMITS, context)
    others = [holder("shop", "rows"), holder(None, "rows"), holder("else", "rows"), holder(None, "catalogs")]
    assert causes(finding, others) == others[:2]
    (catalog,) = judge([dead(50_000, table="pg_catalog.pg_attribute")], LIMITS, context)
    assert causes(catalog, others) == [others[0], others[1], others[3]]


def test_autovacuum_switched_off_is_a_cause_too(dead, context):
    def off(kind, name):
        return Finding("warning", kind, name, "", "", code="autovacuum-disabled")

    (finding,) = judge([dead(50_000)], LIMITS, context)
    others = [off("table", "shop.baskets"), off("cluster", "cluster"), off("table", "shop.orders")]
    assert causes(finding, others) == others[:2]


def test_no_table_is_well(context):
    assert severities([], context) == []
