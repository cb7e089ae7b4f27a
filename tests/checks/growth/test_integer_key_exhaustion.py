import pytest

from conftest import diagnose
from pgrunbooks.check import Skip, catalogue
from pgrunbooks.checks.growth.integer_key_exhaustion import judge
from pgrunbooks.drills import Actors

LIMITS = catalogue()["integer-key-exhaustion"].limits()
INTEGER = 2**31 - 1


def key(value, column_type="integer", **changes):
    row = {
        "column": "a.t (id)",
        "table": "a.t",
        "column_name": "id",
        "column_type": column_type,
        "is_key": True,
        "referenced": [],
        "max_value": value,
        "unread": None,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def asked(server, **settings):
    verdict = diagnose(server, "integer-key-exhaustion", **settings)
    return {it.name: it for it in verdict.findings}, verdict.checks[0]


def found(server):
    findings, outcome = asked(server)
    assert outcome.outcome in ("ok", "found"), outcome.reason
    return findings


def test_the_drill_is_found_and_healed(prove):
    prove("integer-key-exhaustion")


@pytest.mark.parametrize(
    ("value", "column_type", "severity"),
    [
        (None, "integer", []),
        (-INTEGER, "integer", []),
        (0, "integer", []),
        (1503238552, "integer", []),
        (1503238553, "integer", ["warning"]),
        (1932735282, "integer", ["warning"]),
        (1932735283, "integer", ["critical"]),
        (INTEGER, "integer", ["critical"]),
        (22936, "smallint", []),
        (22937, "smallint", ["warning"]),
        (29491, "smallint", ["critical"]),
        (32767, "smallint", ["critical"]),
    ],
)
def test_the_share_of_the_type_decides(value, column_type, severity, context):
    assert severities([key(value, column_type)], context) == severity


def test_no_key_is_well(context):
    assert severities([], context) == []


def test_the_words_tell_a_foreign_key_and_an_end(context):
    (finding,) = judge([key(INTEGER, is_key=False, referenced=["a.p (id)"])], LIMITS, context)
    assert finding.title == "Foreign key a.t (id) is at 100% of integer: none is left"
    assert finding.impact == "Now, inserts of larger values that follow a.p (id) fail with 'integer out of range'."


def test_what_cannot_be_read_is_said_beside_what_can(context):
    rows = [
        key(INTEGER),
        *(key(None, column=f"b.t{n} (id)", unread="privilege") for n in range(4)),
        key(None, column="c.t (id)", unread="row security"),
        key(None, column="d.t (id)", unread="locked"),
        key(None, column="e.t (id)", unread="room"),
    ]
    finding, skip = judge(rows, LIMITS, context)
    assert finding.name == "a.t (id)"
    for words in (
        "role watcher may not read 4 key columns (b.t0 (id), b.t1 (id), b.t2 (id), ...)",
        "row security hides rows from role watcher in 1 key column (c.t (id))",
        "locked just now: 1 key column (d.t (id))",
        "no room for all: 1 key column (e.t (id))",
    ):
        assert words in skip.reason
    assert skip.remedy == "grant pg_read_all_data to watcher;"


def test_only_a_grant_is_a_remedy(context):
    (skip,) = judge([key(None, unread="locked"), key(None, unread="row security")], LIMITS, context)
    assert isinstance(skip, Skip)
    assert skip.remedy is None


def test_real_keys_are_told_from_real_near_misses(server, build):
    build(
        "create domain small as smallint",
        "create table near_1 (id serial primary key, n integer, m integer)",
        "create table near_2 (id integer generated always as identity primary key, t text unique)",
        "create table near_3 (a integer, b integer, primary key (a, b))",
        "create table near_4 (id bigint primary key)",
        "create table near_5 (id integer, h integer references near_1)",
        "create unique index on near_5 (id) where id > 0",
        "create index on near_5 using hash (h)",
        "create table near_6 (id integer references near_4)",
        "create temp table near_7 (id integer primary key)",
        "create table full_1 (id integer primary key default 5)",
        "create table full_2 (s small)",
        "create unique index on full_2 (s desc)",
        "create table full_3 (f integer references near_4, n smallint references near_1, same integer references near_1)",
        "create index on full_3 (f, n)",
        "create index on full_3 (n)",
        "create index on full_3 (same)",
        "create table full_4 (g integer references full_1 primary key)",
        "insert into near_1 (id, n) values (2000000000, 2000000000), (32000, 1), (2, null)",
        "insert into near_2 values (default, 2000000000)",
        "insert into near_3 values (2000000000, 2000000000)",
        "insert into near_4 values (2000000000)",
        "insert into near_5 values (2000000000, 2000000000)",
        "insert into near_6 values (2000000000)",
        "insert into near_7 values (2000000000)",
        "insert into full_1 values (2000000000), (-7)",
        "insert into full_2 values (null), (32000)",
        "insert into full_3 values (2000000000, 32000, 2000000000)",
        "insert into full_4 values (2000000000)",
    )
    names = ("full_1 (id)", "full_2 (s)", "full_3 (f)", "full_3 (n)", "full_4 (g)")
    assert set(found(server)) == {f"lab.{name}" for name in names}


def test_a_partitioned_table_is_judged_once(server, build):
    build(
        "create table p (id integer, at date, primary key (at, id)) partition by range (at)",
        "create index on p (id)",
        "create table p1 partition of p for values from ('2026-01-01') to ('2026-02-01')",
        "create table p2 partition of p for values from ('2026-02-01') to ('2026-03-01') partition by list (id)",
        "create table p21 partition of p2 for values in (2000000000)",
        "insert into p values (1, '2026-01-01'), (2000000000, '2026-02-01')",
        "create table h (id integer primary key) partition by hash (id)",
        "create table h1 partition of h for values with (modulus 1, remainder 0)",
        "insert into h values (2000000000)",
    )
    assert set(found(server)) == {"lab.p (id)", "lab.h (id)"}


def test_a_legacy_parent_does_not_answer_for_its_children(server, build):
    build(
        "create table parent (id integer primary key)",
        "create table child (primary key (id)) inherits (parent)",
        "insert into child values (2000000000)",
    )
    assert set(found(server)) == {"lab.child (id)"}


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("lock lab.t in access exclusive mode", "lab.t (id)"),
        ("lock lab.p21 in access exclusive mode", "lab.p (id)"),
        ("lock lab.p in access exclusive mode", "lab.p (id)"),
        ("reindex index lab.t_pkey", "lab.t (id)"),
    ],
)
def test_what_is_locked_is_left_out_and_named(statement, name, server, build):
    build(
        "create table t (id integer primary key)",
        "create table p (id integer primary key) partition by range (id)",
        "create table p2 partition of p default partition by range (id)",
        "create table p21 partition of p2 default",
        "insert into t values (2000000000)",
        "insert into p values (2000000000)",
    )
    both = {"lab.t (id)", "lab.p (id)"}
    with Actors(server) as stage:
        stage.enter("migration", "begin", statement)
        findings, outcome = asked(server)
        assert (set(findings), outcome.outcome) == (both - {name}, "found")
        assert outcome.reason == f"being locked just now: 1 key column ({name})"
        assert outcome.duration_ms < 400
    assert set(found(server)) == both


def test_a_table_that_somebody_waits_to_lock_is_left_out_too(server, build):
    build("create table t (id integer primary key)", "insert into t values (2000000000)")
    with Actors(server) as stage:
        stage.enter("report", "begin", "select from lab.t")
        stage.block("migration", "alter table lab.t add n integer")
        findings, outcome = asked(server)
    assert (findings, outcome.outcome) == ({}, "skipped")
    assert outcome.duration_ms < 400


def test_a_role_without_rights_gets_a_skip_and_the_grant_that_heals_it(server, build, powerless):
    build("create table t (id integer primary key, n integer unique)", "insert into t values (2000000000, 5)")
    findings, outcome = asked(server, **powerless)
    assert (findings, outcome.outcome) == ({}, "skipped")
    build('grant usage on schema lab to "no rights"', 'grant select (id) on t to "no rights"')
    findings, outcome = asked(server, **powerless)
    assert (set(findings), outcome.outcome) == ({"lab.t (id)"}, "found")
    assert "(lab.t (n))" in outcome.reason
    build(outcome.remedy)
    findings, outcome = asked(server, **powerless)
    assert (set(findings), outcome.reason) == ({"lab.t (id)"}, None)
    build("alter table t enable row level security")
    findings, outcome = asked(server, **powerless)
    assert (findings, outcome.outcome, outcome.remedy) == ({}, "skipped", None)


def test_odd_names_are_named_and_the_remedy_runs(server, build, odd):
    schema, long = odd
    build(
        f"create schema {schema}",
        f'create table {schema}.{long} ("I""d \'%s\' \\" integer primary key, "select" smallint unique)',
        f"insert into {schema}.{long} values (2000000000, 32767)",
    )
    findings = found(server)
    assert set(findings) == {f'{schema}.{long} ("I""d \'%s\' \\")', f'{schema}.{long} ("select")'}
    for finding in findings.values():
        build(finding.remedies[0].sql)
    assert found(server) == {}
    for finding in findings.values():
        build(finding.remedies[0].undo)
    assert set(found(server)) == set(findings)
