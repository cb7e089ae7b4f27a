import pytest

from conftest import diagnose
from pgrunbooks.checks.growth.default_partition_filling import judge
from pgrunbooks.drills import Actors


def default(rows, **changes):
    row = {
        "partition": "a.d",
        "table": "a.t",
        "columns": "at",
        "estimated_rows": rows,
        "size_bytes": 8192,
        "inserted_rows": 1,
        "deleted_rows": 0,
    }
    return {**row, **changes}


def asked(server):
    verdict = diagnose(server, "default-partition-filling", "partition-missing-ahead")
    assert {it.outcome for it in verdict.checks} <= {"ok", "found"}
    return {it.name: it for it in verdict.about("default-partition-filling")}


COUNTED = "select pg_stat_force_next_flush()"


def test_the_drill_is_found_and_healed(prove):
    prove("default-partition-filling")


@pytest.mark.parametrize(("rows", "severity"), [(None, []), (0, []), (1, ["warning"]), (10**9, ["warning"])])
def test_any_row_counts(rows, severity, context):
    assert [it.severity for it in judge([default(rows)], {}, context)] == severity


def test_no_default_partition_is_well(context):
    assert list(judge([], {}, context)) == []


def test_where_the_key_is_an_expression_there_is_nothing_to_group_by(context):
    (finding,) = judge([default(1, columns=None)], {}, context)
    assert [it.sql for it in finding.remedies] == [None]


def test_real_rows_are_found_at_every_level_and_gone_ones_forgotten(server, build):
    build(
        "create table t (at date, c text) partition by range (at)",
        "create table t_d partition of t default partition by list (c)",
        "create table t_d_a partition of t_d for values in ('a')",
        "create table t_d_d partition of t_d default",
        "create table near (id integer) partition by list (id)",
        "create table near_1 partition of near for values in (1)",
        "create table near_d partition of near default",
        "insert into t select '2026-01-01', 'a' from generate_series(1, 70)",
        "insert into near select 1 from generate_series(1, 70)",
        COUNTED,
    )
    findings = asked(server)
    assert list(findings) == ["lab.t_d"]
    assert "about 70 rows" in findings["lab.t_d"].title
    assert findings["lab.t_d"].caused_by == ()
    build(findings["lab.t_d"].remedies[0].sql, "analyze t_d_a", "delete from t", COUNTED)
    assert asked(server) == {}


def test_a_reset_of_the_counters_does_not_hide_rows(server, build):
    build(
        "create table t (at date) partition by range (at)",
        "create table t_d partition of t default",
        "insert into t values ('2026-01-01'), ('2026-01-02')",
        "analyze t_d",
        COUNTED,
        "select pg_stat_reset_single_table_counters('t_d'::regclass)",
    )
    assert set(asked(server)) == {"lab.t_d"}
    build("delete from t where at = '2026-01-01'", COUNTED)
    assert set(asked(server)) == {"lab.t_d"}
    build("truncate t_d", COUNTED)
    assert asked(server) == {}


def test_partitions_that_have_ended_are_its_cause(server, build):
    build(
        "create table t (at date) partition by range (at)",
        "create table t_1 partition of t for values from ('2020-01-01') to ('2021-01-01')",
        "create table t_d partition of t default",
        "insert into t values (current_date)",
        COUNTED,
    )
    assert asked(server)["lab.t_d"].caused_by == ("partition-missing-ahead:table:lab.t",)


def test_odd_names_are_named_and_the_look_runs_though_the_table_is_locked(server, build, odd):
    schema, long = odd
    build(
        f"create schema {schema}",
        f'create table {schema}.{long} ("the \'@\'" date, "B""b" integer) partition by range ("the \'@\'", "B""b")',
        f'create table {schema}."D d" partition of {schema}.{long} default',
        f"insert into {schema}.{long} values ('2026-01-01', 1)",
        COUNTED,
    )
    with Actors(server) as stage:
        stage.enter("migration", "begin", f"lock {schema}.{long} in access exclusive mode")
        (finding,) = asked(server).values()
    assert finding.name == f'{schema}."D d"'
    build(finding.remedies[0].sql)
