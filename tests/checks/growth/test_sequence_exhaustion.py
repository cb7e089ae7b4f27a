import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, Skip, catalogue
from pgrunbooks.checks.growth.sequence_exhaustion import judge
from pgrunbooks.drills import Actors

LIMITS = catalogue()["sequence-exhaustion"].limits()
BILLION = 10**9
INTEGER, BIGINT = 2**31 - 1, 2**63 - 1
SERIAL = {"max_value": INTEGER, "table": "a.t", "column": "id", "column_type": "integer", "sequence_type": "integer"}
DOWN = {"increment": -1, "start_value": -1, "max_value": -1, "min_value": -1000}


def numbers(last, **changes):
    row = {
        "sequence": "a.s",
        "schema": "a",
        "sequence_type": "bigint",
        "last_value": last,
        "start_value": 1,
        "increment": 1,
        "min_value": 1,
        "max_value": 1000,
        "table": None,
        "column": None,
        "column_type": None,
        "unread": None,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def asked(server, **settings):
    verdict = diagnose(server, "sequence-exhaustion", **settings)
    return {it.name: it for it in verdict.findings}, verdict.checks[0]


def found(server):
    findings, outcome = asked(server)
    assert outcome.outcome in ("ok", "found"), outcome.reason
    return findings


def test_the_drill_is_found_and_healed(prove):
    prove("sequence-exhaustion")


@pytest.mark.parametrize(
    ("last", "severity"),
    [(None, []), (1, []), (699, []), (700, ["warning"]), (899, ["warning"]), (900, ["critical"]), (1000, ["critical"])],
)
def test_the_share_of_the_range_decides(last, severity, context):
    assert severities([numbers(last)], context) == severity


def test_no_sequence_is_well(context):
    assert list(judge([], LIMITS, context)) == []


@pytest.mark.parametrize(
    ("last", "changes", "severity"),
    [
        (2 * BILLION, {"max_value": BIGINT}, []),
        (2 * BILLION, {"max_value": BIGINT, "column_type": "bigint"}, []),
        (2 * BILLION, {"max_value": BIGINT, "column_type": "integer"}, ["critical"]),
        (3 * BILLION, {"max_value": BIGINT, "column_type": "integer"}, ["critical"]),
        (2 * BILLION, {"max_value": INTEGER, "column_type": "bigint"}, ["critical"]),
        (30_000, {"max_value": INTEGER, "column_type": "smallint"}, ["critical"]),
        (900, {"column_type": "smallint"}, ["critical"]),
    ],
)
def test_the_smaller_range_of_sequence_and_column_counts(last, changes, severity, context):
    changes = {"table": "a.t", "column": "id", **changes} if "column_type" in changes else changes
    assert severities([numbers(last, **changes)], context) == severity


@pytest.mark.parametrize(
    ("last", "severity"),
    [(-1, []), (-699, []), (-700, ["warning"]), (-900, ["critical"]), (-1000, ["critical"])],
)
def test_a_descending_sequence_runs_out_below(last, severity, context):
    assert severities([numbers(last, **DOWN)], context) == severity


def test_a_descending_sequence_ends_with_its_column(context):
    row = numbers(-30_000, **DOWN | {"min_value": -BIGINT, "table": "a.t", "column": "id", "column_type": "smallint"})
    assert severities([row], context) == ["critical"]


@pytest.mark.parametrize(
    ("last", "severity"), [(900, []), (969, []), (970, ["warning"]), (699, []), (700, ["warning"])]
)
def test_counted_from_its_start_unless_it_was_set_below(last, severity, context):
    assert severities([numbers(last, start_value=900)], context) == severity


def test_an_increment_may_step_over_the_end(context):
    assert severities([numbers(51, max_value=100, increment=50)], context) == ["critical"]
    (finding,) = judge([numbers(51, max_value=100, increment=50)], LIMITS, context)
    assert "none is left" in finding.title
    assert finding.impact.startswith("Now")


def test_the_title_says_what_ends_it_and_how_many_are_left(context):
    (finding,) = judge([numbers(INTEGER - 1, **SERIAL)], LIMITS, context)
    assert finding.title == "Sequence a.s has used 99% of integer column a.t (id): 1 is left"
    (finding,) = judge([numbers(750)], LIMITS, context)
    assert finding.title == "Sequence a.s has used 75% of its own range (bigint): 250 are left"


def test_at_the_end_of_bigint_there_is_nothing_wider(context):
    (finding,) = judge([numbers(BIGINT - 1, max_value=BIGINT)], LIMITS, context)
    assert [it.sql for it in finding.remedies] == [None]


def test_what_cannot_be_read_is_said_beside_what_can(context):
    rows = [
        numbers(950),
        *(numbers(None, sequence=f"b.s{n}", schema="b", unread="privilege") for n in range(4)),
        numbers(None, sequence='"C c".s', schema='"C c"', unread="privilege"),
        numbers(None, sequence="a.busy", unread="locked"),
        numbers(None, sequence="a.far", unread="room"),
    ]
    finding, skip = judge(rows, LIMITS, context)
    assert isinstance(finding, Finding)
    assert isinstance(skip, Skip)
    assert "role watcher may not read 5 sequences (b.s0, b.s1, b.s2, ...)" in skip.reason
    assert "just now: 1 sequence (a.busy)" in skip.reason
    assert "no room for all: 1 sequence (a.far)" in skip.reason
    assert skip.remedy == 'grant select on all sequences in schema b, "C c" to watcher;'


def test_many_schemas_want_one_grant(context):
    rows = [numbers(None, sequence=f"s{n}.s", schema=f"s{n}", unread="privilege") for n in range(6)]
    (skip,) = judge(rows, LIMITS, context)
    assert skip.remedy == "grant pg_read_all_data to watcher;"
    (skip,) = judge([numbers(None, unread="locked")], LIMITS, context)
    assert skip.remedy is None


def test_real_ones_are_told_from_real_near_misses(server, build):
    build(
        "create sequence near_unused maxvalue 2",
        "create sequence near_cycle maxvalue 10 cycle",
        "create sequence near_far",
        "create temp sequence near_gone maxvalue 10",
        "create table near_wide (id bigserial, n numeric)",
        "alter sequence near_far owned by near_wide.n",
        "create domain small as smallint",
        "create table full_1 (id smallserial, d small)",
        "create sequence full_2 owned by full_1.d",
        "create table full_3 (id integer generated always as identity)",
        "create sequence full_4 increment -1 minvalue -10",
        "create unlogged table full_5 (id serial)",
        "create table p (id serial, at date) partition by range (at)",
        "select setval(name, value) from (values ('near_cycle', 10), ('near_gone', 10), ('near_far', 3000000000),"
        " ('near_wide_id_seq', 3000000000), ('full_1_id_seq', 32000), ('full_2', 32000), ('full_3_id_seq', 2000000000),"
        " ('full_4', -8), ('full_5_id_seq', 2000000000), ('p_id_seq', 1700000000)) as v (name, value)",
    )
    names = [*(f"full_{n}" for n in (2, 4)), *(f"full_{n}_id_seq" for n in (1, 3, 5)), "p_id_seq"]
    findings = found(server)
    assert set(findings) == {f"lab.{name}" for name in names}
    assert {name for name, it in findings.items() if it.severity == "warning"} == {"lab.full_4", "lab.p_id_seq"}


def test_a_role_without_rights_gets_a_skip_and_the_grant_that_heals_it(server, build, powerless):
    build("create sequence worn maxvalue 10", "create sequence fresh", "select setval('worn', 10)")
    findings, outcome = asked(server, **powerless)
    assert (findings, outcome.outcome) == ({}, "skipped")
    build('grant usage on sequence "worn" to "no rights"')
    findings, outcome = asked(server, **powerless)
    assert (set(findings), outcome.outcome) == ({"lab.worn"}, "found")
    assert outcome.remedy == 'grant select on all sequences in schema lab, shop to "no rights";'
    build(outcome.remedy)
    findings, outcome = asked(server, **powerless)
    assert (set(findings), outcome.reason) == ({"lab.worn"}, None)


@pytest.mark.parametrize(
    "statement",
    ["alter sequence lab.t_id_seq increment 2", "truncate lab.t restart identity", "drop table lab.t"],
)
def test_a_sequence_that_is_changed_just_now_is_left_out_and_named(statement, server, build):
    build(
        "create table t (id serial)",
        "create sequence worn maxvalue 10",
        "select setval('worn', 10), setval('t_id_seq', 2147483647)",
    )
    with Actors(server) as stage:
        stage.enter("migration", "begin", statement)
        findings, outcome = asked(server)
        assert (set(findings), outcome.outcome) == ({"lab.worn"}, "found")
        assert "just now: 1 sequence (lab.t_id_seq)" in outcome.reason
        assert outcome.duration_ms < 400
    assert set(found(server)) == {"lab.worn", "lab.t_id_seq"}


def test_a_sequence_that_somebody_waits_to_change_is_left_out_too(server, build):
    build("create sequence worn maxvalue 10", "select setval('worn', 10)")
    with Actors(server) as stage:
        stage.enter("worker", "begin", "select nextval('shop.orders_id_seq')")
        stage.block("migration", "alter sequence shop.orders_id_seq increment 1")
        findings, outcome = asked(server)
    assert (set(findings), outcome.outcome) == ({"lab.worn"}, "found")
    assert "(shop.orders_id_seq)" in outcome.reason


def test_a_locked_table_hides_nothing(server, build):
    build("create table t (id serial)", "select setval('t_id_seq', 2147483647)")
    with Actors(server) as stage:
        stage.enter("migration", "begin", "lock lab.t in access exclusive mode")
        assert set(found(server)) == {"lab.t_id_seq"}


def test_odd_names_are_named_and_every_remedy_runs(server, build, odd):
    schema, long = odd
    build(
        f"create schema {schema}",
        f'create table {schema}.{long} ("I""d %s" serial, "of" smallint generated always as identity)',
        f"create sequence {schema}.\"the 'S'\" as smallint maxvalue 1000",
        f"select setval('{schema}.\"the ''S''\"', 1000)",
        "select setval(c.oid, case seqtypid::regtype when 'integer'::regtype then 2147483647 else 32767 end)"
        " from pg_class c join pg_sequence on oid = seqrelid where relname like 'xxx%'",
    )
    findings = found(server)
    assert len(findings) == 3
    assert all(name.startswith(f"{schema}.") for name in findings)
    for finding in findings.values():
        for remedy in finding.remedies[::-1]:
            if remedy.sql:
                build(remedy.sql, remedy.undo, remedy.sql)
    assert found(server) == {}


def test_the_negative_half_wins_time(server, build):
    build("create table t (id serial)", "select setval('t_id_seq', 2147483647)")
    (finding,) = found(server).values()
    stopgap = finding.remedies[-1]
    build(stopgap.sql, "insert into t default values", "do $$ begin assert (select id from lab.t) < -2e9; end $$")
    assert found(server) == {}
    build(stopgap.undo)
    assert set(found(server)) == {"lab.t_id_seq"}
