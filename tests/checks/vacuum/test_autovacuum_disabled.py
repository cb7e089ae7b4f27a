import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.vacuum.autovacuum_disabled import judge
from pgrunbooks.drills import Actors

CODE = "autovacuum-disabled"
LIMITS = catalogue()[CODE].limits()


def setting(name, is_on):
    return {"switch": name, "kind": "setting", "is_on": is_on, "set_in": "configuration file"}


def table(rows, **changes):
    row = {
        "switch": "shop.orders",
        "kind": "table",
        "relation_type": "table",
        "is_on": False,
        "toast_is_on": True,
        "rows": rows,
        "dead_rows": 0,
        "set_in": None,
    }
    return {**row, **changes}


def found(rows, context):
    return [(it.kind, it.name, it.severity) for it in judge(rows, LIMITS, context)]


def asked(server):
    return {it.name: it for it in diagnose(server, CODE).findings}


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


@pytest.mark.parametrize("name", ["autovacuum", "track_counts"])
def test_switched_off_for_all_is_critical_until_the_remedy_was_run(name, server):
    with Actors(server) as stage:
        stage.heal(f"alter system reset {name}", "select pg_reload_conf()")
        stage.watcher.execute(f"alter system set {name} = off")
        stage.watcher.execute("select pg_reload_conf()")
        stage.wait_until(f"select current_setting('{name}') = 'off'")
        (finding,) = asked(server).values()
        assert (finding.kind, finding.severity) == ("cluster", "critical")
        for statement in finding.remedies[0].sql.splitlines():
            stage.watcher.execute(statement)
        stage.wait_until(f"select current_setting('{name}') = 'on'")
        assert asked(server) == {}


def test_options_are_read_as_the_server_reads_them_and_every_remedy_runs(server, build):
    rows = "select i as id, 'x'::text as t from generate_series(1, 12000) as i"
    build(
        'create schema "Odd ""Schéma"',
        f'create table "Odd ""Schéma"."the %s" with (autovacuum_enabled = no) as {rows}',
        f"create table toast_only with (toast.autovacuum_enabled = 0) as {rows}",
        f"create materialized view seen with (autovacuum_enabled = f) as {rows}",
        f"create table near_on with (autovacuum_enabled, toast.autovacuum_enabled = yes, fillfactor = 90) as {rows}",
        f"create temp table near_gone with (autovacuum_enabled = off) as {rows}",
        "create table near_small with (autovacuum_enabled = off) as select 1 as id",
        "analyze",
    )
    findings = asked(server)
    assert set(findings) == {'"Odd ""Schéma"."the %s"', "lab.seen", "lab.toast_only"}
    for finding in findings.values():
        build(finding.remedies[0].sql, finding.remedies[0].undo, *(it.sql for it in finding.remedies))
    assert asked(server) == {}


@pytest.mark.parametrize(("rows", "number"), [(None, 0), (0, 0), (9_999, 0), (10_000, 1), (10**9, 1)])
def test_a_small_table_is_nobody_s_worry(rows, number, context):
    assert len(found([table(rows)], context)) == number


@pytest.mark.parametrize(
    ("autovacuum", "track_counts", "severity"),
    [
        (True, True, []),
        (None, None, []),
        (False, True, ["critical"]),
        (True, False, ["critical"]),
        (False, False, ["critical"]),
    ],
)
def test_either_switch_is_enough(autovacuum, track_counts, severity, context):
    rows = [setting("autovacuum", autovacuum), setting("track_counts", track_counts)]
    assert [it[2] for it in found(rows, context)] == severity


def test_no_row_is_well(context):
    assert found([], context) == []
