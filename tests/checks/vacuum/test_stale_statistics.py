import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, Skip, catalogue
from pgrunbooks.checks.vacuum.stale_statistics import judge
from pgrunbooks.drills import drills

CODE = "stale-statistics"
LIMITS = catalogue()[CODE].limits()
OFF = "autovacuum_enabled = false"


def table(rows, changes=0, **more):
    row = {
        "database": "shop",
        "table": "shop.orders",
        "rows": rows,
        "changes": changes,
        "changes_ever": 10**9,
        "analyzed_rows": rows,
        "analyze_trigger": 5_000.0,
        "own_scale_factor": None,
        "analyzed_s": 3600.0,
        "has_estimate": True,
        "has_statistics": None,
        "unread": None,
        "is_analyzed_now": False,
    }
    assert not set(more) - set(row)
    return {**row, **more}


NEVER = {"analyzed_s": None, "has_estimate": False}
RESET = {"analyzed_s": None, "has_statistics": True}
UPGRADED = {"analyzed_s": None, "has_statistics": False}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def asked(server, **settings):
    verdict = diagnose(server, CODE, **settings)
    return {it.name: it for it in verdict.findings if it.code == CODE}, verdict.checks[0]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_real_ones_are_told_from_near_misses_and_every_remedy_runs(server, build):
    rows = "select i as id, 0 as n from generate_series(1, 20000) as i"
    build(
        'create schema "Odd ""Schéma"',
        f'create table "Odd ""Schéma"."the %s" with ({OFF}) as {rows}',
        f"create table changed with ({OFF}) as {rows}",
        f"create table near_patient with ({OFF}, autovacuum_analyze_scale_factor = 0.5) as {rows}",
        f"create table near_high with ({OFF}, autovacuum_analyze_threshold = 9000) as {rows}",
        f"create table near_fresh with ({OFF}) as {rows}",
        f"create table near_small with ({OFF}) as select 1 as id",
        f"create table near_empty (id int) with ({OFF})",
        "create table near_parent (id int, n int) partition by range (id)",
        f"create table near_part partition of near_parent for values from (0) to (100000) with ({OFF})",
        f"insert into near_parent {rows}",
    )
    build(
        "analyze changed, near_patient, near_high, near_fresh, near_part",
        "update changed set n = 1 where id <= 10000",
        "update near_patient set n = 1 where id <= 10000",
        "update near_high set n = 1 where id <= 10000",
        "update near_fresh set n = 1 where id <= 3000",
    )
    findings, _ = asked(server)
    assert set(findings) == {'"Odd ""Schéma"."the %s"', "lab.changed"}
    for finding in findings.values():
        for remedy in finding.remedies[::-1]:
            build(remedy.sql, *([remedy.undo] if remedy.undo else []))
    assert asked(server)[0] == {}


def test_what_a_session_has_loaded_and_analyzed_itself_is_well_until_it_changes(server, build):
    handed_in = "select pg_stat_force_next_flush()"
    build(f"create table t with ({OFF}) as select i as id from generate_series(1, 20000) as i", "analyze t", handed_in)
    assert asked(server)[0] == {}
    build("update t set id = id where id <= 10000", handed_in)
    assert "10,000 of" in asked(server)[0]["lab.t"].title


def test_a_reset_of_the_counters_is_not_taken_for_a_missing_analyze(server, build):
    build(
        f"create table t with ({OFF}) as select i as id from generate_series(1, 20000) as i",
        "analyze t",
    )
    build(
        "select pg_stat_reset_single_table_counters('t'::regclass)",
    )
    assert asked(server)[0] == {}


def test_statistics_that_an_upgrade_left_behind_are_missed(server, build):
    build(
        f"create table t with ({OFF}) as select i as id from generate_series(1, 20000) as i",
        "analyze t",
    )
    build(
        "select pg_stat_reset_single_table_counters('t'::regclass)",
        "delete from pg_statistic where starelid = 't'::regclass",
    )
    assert set(asked(server)[0]) == {"lab.t"}


def test_a_role_that_may_not_read_a_table_says_so_and_the_grant_helps(server, build, powerless):
    build(
        f"create table t with ({OFF}) as select i as id from generate_series(1, 20000) as i",
        "analyze t",
    )
    build(
        "select pg_stat_reset_single_table_counters('t'::regclass)",
    )
    findings, outcome = asked(server, **powerless)
    assert (findings, outcome.outcome) == ({}, "skipped")
    assert "may not read the statistics of 1 table (lab.t)" in outcome.reason
    build(outcome.remedy)
    assert asked(server, **powerless)[1].outcome == "ok"


@pytest.mark.parametrize(("rows", "severity"), [(0, []), (None, []), (9_999, []), (10_000, ["warning"])])
def test_never_analyzed_matters_from_so_many_rows_on(rows, severity, context):
    assert severities([table(rows, **NEVER)], context) == severity
    assert severities([table(rows, **UPGRADED)], context) == severity
    assert severities([table(rows, **RESET)], context) == []


@pytest.mark.parametrize(
    ("rows", "changes", "severity"),
    [
        (50_000, 9_999, []),
        (50_000, 10_000, ["warning"]),
        (50_001, 10_000, []),
        (9_999, 9_999, []),
        (10_000, 10_000, ["warning"]),
        (50_000, None, []),
    ],
)
def test_changes_must_reach_both_the_factor_and_the_share(rows, changes, severity, context):
    assert severities([table(rows, changes)], context) == severity


@pytest.mark.parametrize(
    ("analyzed_s", "ever", "severity"),
    [(0.0, 20_000, []), (3599.0, 29_999, []), (3599.0, 30_000, ["warning"]), (3600.0, 20_000, ["warning"])],
)
def test_soon_after_an_analyze_only_changes_are_believed_that_it_cannot_have_seen(analyzed_s, ever, severity, context):
    row = table(20_000, 20_000, analyzed_s=analyzed_s, changes_ever=ever)
    assert severities([row], context) == severity


def test_what_is_analyzed_now_is_well(context):
    assert (
        severities([table(10**6, 10**6, is_analyzed_now=True), table(10**6, **NEVER, is_analyzed_now=True)], context)
        == []
    )


def test_what_cannot_be_seen_is_said_beside_what_can(context):
    rows = [
        table(20_000, 20_000),
        table(20_000, analyzed_s=None, unread="privilege", has_statistics=False, table="a.b"),
        table(20_000, analyzed_s=None, unread="row security", has_statistics=False, table="c.d"),
        table(9_999, analyzed_s=None, unread="privilege", has_statistics=False, table="e.f"),
    ]
    finding, skip = judge(rows, LIMITS, context)
    assert isinstance(finding, Finding)
    assert isinstance(skip, Skip)
    assert skip.reason == (
        "role watcher may not read the statistics of 1 table (a.b);"
        " row security hides the statistics of 1 table (c.d) from role watcher"
    )
    assert skip.remedy == "grant pg_read_all_data to watcher;"


def test_is_blamed_on_autovacuum_where_that_is_switched_off(server):
    with drills()[CODE].fault(server) as incident:
        verdict = diagnose(server, CODE, "autovacuum-disabled")
    (finding,) = (it for it in verdict.about(CODE) if it.name == incident.name)
    assert finding.caused_by == (f"autovacuum-disabled:table:{incident.name}",)


def test_no_table_is_well(context):
    assert severities([], context) == []
