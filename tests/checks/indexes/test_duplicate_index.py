import pytest

from conftest import diagnose
from pgrunbooks.checks.indexes.duplicate_index import judge

CONSTRAINT = {"is_unique": True, "constraint_type": "u", "constraint_name": "k"}


def dropped(rows, context):
    return [it.name for it in judge(rows, {}, context)]


def found(server):
    return {it.name: it for it in diagnose(server, "duplicate-index").findings}


def test_the_drill_is_found_and_healed(prove):
    prove("duplicate-index")


def test_no_index_is_well(context):
    assert dropped([], context) == []


def test_of_three_copies_two_are_to_drop_and_the_oldest_stays(context, index_row):
    findings = list(judge([index_row(3), index_row(1), index_row(2)], {}, context))
    assert [it.name for it in findings] == ["shop.i2_idx", "shop.i3_idx"]
    assert {it.evidence[1]["index"] for it in findings} == {"shop.i1_idx"}


@pytest.mark.parametrize(
    "change",
    [
        {"table_oid": 101},
        {"method": "hash"},
        {"keys": "2"},
        {"keys": "1 2"},
        {"opclasses": "2"},
        {"collations": "950"},
        {"options": "3"},
        {"parameters": "1:{siglen=32}"},
        {"expressions": "({OPEXPR :opno 1 :location 5})"},
        {"predicate": "{OPEXPR :opno 1 :location 5}"},
        {"state": "invalid"},
    ],
)
def test_any_difference_makes_it_another_index(change, context, index_row):
    assert dropped([index_row(1), index_row(2, **change)], context) == []


def test_included_columns_count_and_their_order_does_not(context, index_row):
    rows = [index_row(1, included="2 3"), index_row(2, included="3 2"), index_row(3, included="2")]
    assert dropped(rows, context) == ["shop.i2_idx"]


def test_where_an_expression_was_written_does_not_count(context, index_row):
    rows = [index_row(n, "0", expressions=f"({{FUNCEXPR :funcid 870 :location {n}}})") for n in (1, 2)]
    assert dropped(rows, context) == ["shop.i2_idx"]


@pytest.mark.parametrize(
    "needed",
    [
        CONSTRAINT,
        CONSTRAINT | {"constraint_type": "p"},
        {"is_unique": True, "referenced_by": 1},
        {"is_unique": True, "is_replica_identity": True},
        {"is_unique": True},
        {"is_clustered": True},
        {"root_index_oid": 9},
        {"constraint_type": "x"},
    ],
)
def test_the_one_that_is_needed_stays_though_it_is_younger(needed, context, index_row):
    assert dropped([index_row(1), index_row(2, **needed)], context) == ["shop.i1_idx"]


@pytest.mark.parametrize(
    "other",
    [
        {"is_unique": True, "referenced_by": 1},
        {"is_unique": True, "is_replica_identity": True},
        CONSTRAINT | {"is_immediate": False},
        {"is_unique": True, "nulls_not_distinct": True},
    ],
)
def test_a_unique_index_that_does_something_of_its_own_is_no_copy(other, context, index_row):
    assert dropped([index_row(1, **CONSTRAINT), index_row(2, **other)], context) == []


def test_a_second_constraint_goes_as_a_constraint(context, index_row):
    primary = index_row(2, **CONSTRAINT | {"constraint_type": "p"})
    (finding,) = judge([index_row(1, **CONSTRAINT), primary], {}, context)
    assert finding.name == "shop.i1_idx"
    assert "alter table shop.orders drop constraint k;" in finding.remedies[0].sql
    assert "add constraint k unique using index i1_idx" in finding.remedies[0].undo


def test_real_copies_are_told_from_real_near_misses(server, build):
    build(
        "create table p (id integer primary key, a text, b integer, c point, unique (a, b))",
        "create unique index p_target on p (b)",
        "create table f (b integer references p (b))",
        "create index near_1 on p (a, b desc)",
        "create index near_2 on p (b, a)",
        'create index near_3 on p (a collate "C", b) where b > 1',
        "create index near_4 on p (a text_pattern_ops, b)",
        "create index near_5 on p (a, b) include (c)",
        "create index near_6 on p using hash (a)",
        "create unique index near_7 on p (b) nulls not distinct",
        "create index near_8 on p (lower(a)) where b > 1",
        "create index near_9 on p (lower(a))",
        "create index same_1 on p (a, b)",
        "create index same_2 on p (  lower( a ) ) where  (b > 1)",
        "create unique index same_3 on p (b)",
    )
    assert set(found(server)) == {"lab.same_1", "lab.same_2", "lab.same_3"}


def test_a_partitioned_index_and_its_children_are_one_copy(server, build):
    build(
        "create table e (id integer, at integer) partition by range (at)",
        "create table e1 partition of e for values from (1) to (2)",
        "create table e2 partition of e for values from (2) to (3)",
        "create index e_first on e (at)",
        "create index e_second on e (at)",
        "create index e1_own on e1 (at)",
    )
    findings = found(server)
    assert set(findings) == {"lab.e_second", "lab.e1_own"}
    build("set search_path to public", findings["lab.e_second"].remedies[0].sql, findings["lab.e1_own"].remedies[0].sql)
    assert found(server) == {}
    build(findings["lab.e_second"].remedies[0].undo)
    assert set(found(server)) == {"lab.e_second"}


def test_the_second_constraint_of_a_partitioned_table_goes_and_comes_back(server, build):
    build(
        "create table e (id integer, at integer, primary key (at, id)) partition by range (at)",
        "create table e1 partition of e for values from (1) to (2)",
        "alter table e add constraint again unique (at, id)",
    )
    (finding,) = found(server).values()
    assert finding.name == "lab.again"
    build(finding.remedies[0].sql)
    assert found(server) == {}
    build(finding.remedies[0].undo)
    assert set(found(server)) == {"lab.again"}


def test_odd_names_are_named_and_dropped_and_made_again(server, build):
    long = "x" * 61 + "é"
    build(
        'create schema "Odd ""Schéma"',
        'create table "Odd ""Schéma"."Order Items" ("select" text, "B b" integer)',
        'create index first on "Odd ""Schéma"."Order Items" ("select" desc, "B b") where "B b" > 0',
        f'create index "{long}" on "Odd ""Schéma"."Order Items" ("select" desc, "B b") where "B b" > 0',
        'create unique index "K;" on "Odd ""Schéma"."Order Items" ("B b") include ("select")',
        'alter table "Odd ""Schéma"."Order Items" add constraint "K;" unique using index "K;"',
        'alter table "Odd ""Schéma"."Order Items" add constraint "L\'s" unique ("B b") include ("select")',
    )
    names = {f'"Odd ""Schéma"."{long}"', '"Odd ""Schéma"."L\'s"'}
    findings = found(server)
    assert set(findings) == names
    for finding in findings.values():
        build(finding.remedies[0].sql)
    assert found(server) == {}
    for finding in findings.values():
        build(*finding.remedies[0].undo.replace(';"', "\0").split("; "))
    assert set(found(server)) == names
