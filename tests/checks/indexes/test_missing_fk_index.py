import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.indexes.missing_fk_index import judge

LIMITS = catalogue()["missing-fk-index"].limits()


def key(number=1, **changes):
    row = {
        "constraint_oid": number,
        "parent_oid": None,
        "constraint": f"shop.items items_fk{number}",
        "table": "shop.items",
        "schema": "shop",
        "table_name": "items",
        "table_oid": 100,
        "is_partitioned": False,
        "columns": "order_id",
        "column_names": "order_id",
        "is_name_taken": False,
        "table_rows": 50_000,
        "referenced_table": "shop.orders",
        "referenced_oid": 200,
        "on_delete": "a",
        "on_update": "a",
        "referenced_deleted": 0,
        "referenced_updated_not_hot": 0,
        "supporting_indexes": 0,
    }
    assert not set(changes) - set(row)
    return row | changes


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def found(server, rows="0"):
    findings = diagnose(server, "missing-fk-index", thresholds={"missing-fk-index": {"min_rows": rows}}).findings
    return {it.name: it for it in findings}


def test_the_drill_is_found_and_healed(prove):
    prove("missing-fk-index")


def test_no_foreign_key_is_well(context):
    assert severities([], context) == []


@pytest.mark.parametrize(("rows", "number"), [(9_999, 0), (10_000, 1), (0, 0)])
def test_small_tables_stay_silent(rows, number, context):
    assert len(severities([key(table_rows=rows)], context)) == number


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, "info"),
        ({"referenced_deleted": 1}, "warning"),
        ({"referenced_deleted": None}, "info"),
        ({"referenced_updated_not_hot": 10**6}, "info"),
        ({"on_delete": "r"}, "info"),
        *(({event: action}, "warning") for event in ("on_delete", "on_update") for action in "cnd"),
    ],
)
def test_deletes_and_actions_make_it_grave(change, severity, context):
    assert severities([key(**change)], context) == [severity]


def test_one_index_is_enough(context):
    assert severities([key(supporting_indexes=1)], context) == []


def test_a_partition_family_is_one_finding_over_all_its_rows(context):
    root = key(1, is_partitioned=True, table_rows=0, supporting_indexes=0)
    leaves = [key(n, parent_oid=1, table_oid=n, table=f"shop.items_{n}", table_rows=5_000) for n in (2, 3)]
    (finding,) = judge([root, *leaves], LIMITS, context)
    assert (finding.name, [row["table"] for row in finding.evidence]) == (
        "shop.items items_fk1",
        ["shop.items_2", "shop.items_3"],
    )
    leaves[0]["supporting_indexes"] = 1
    (finding,) = judge([root, *leaves], LIMITS, context)
    assert "1 of 2 partitions" in finding.title
    assert "on shop.items (" not in finding.remedies[0].sql
    leaves[1]["supporting_indexes"] = 1
    assert severities([root, *leaves], context) == []


def test_deletes_in_partitions_of_the_parent_are_summed(context):
    rows = [key(1), key(2, parent_oid=1, referenced_oid=201, referenced_deleted=3)]
    (finding,) = judge(rows, LIMITS, context)
    assert (finding.severity, finding.evidence[0]["referenced_deleted_rows"]) == ("warning", 3)


def test_what_serves_a_key_is_told_from_what_does_not(server, build):
    build("create table p (a integer, b integer, primary key (a, b))")
    indexes = {
        "none": None,
        "partial": "(a, b) where a > 0",
        "second": "(c, a, b)",
        "half": "(a, c, b)",
        "twice": "(a, a, b)",
        "included": "(a) include (b)",
        "expression": "((a + 0), b)",
        "brin": "using brin (a, b)",
        "null": "(a, b) where b is null",
        "other": "(a, b, c) where c is not null",
        "present": "(a, b) where b is not null",
        "same": "(a, b)",
        "reversed": "(b desc, a)",
        "wider": "(b, a, c)",
    }
    for name, text in indexes.items():
        build(f"create table {name}_t (c integer, a integer, b integer, foreign key (a, b) references p)")
        if text:
            build(f"create index on {name}_t {text}")
    tables = {name.split()[0] for name in found(server)}
    served = {"same", "reversed", "wider", "present"}
    assert tables == {f"lab.{name}_t" for name in indexes if name not in served}


def test_an_invalid_index_does_not_serve(server, build):
    build(
        "create table p (a integer primary key)",
        "create table f (a integer references p)",
        "create index f_a on f (a)",
    )
    assert found(server) == {}
    build("update pg_index set indisvalid = false where indexrelid = 'lab.f_a'::regclass")
    assert set(found(server)) == {"lab.f f_a_fkey"}


def test_odd_names_are_named_and_the_remedy_and_its_undo_run(server, build):
    long = "Ä" * 31
    build(
        'create schema "Odd ""Schéma"',
        'create table "Odd ""Schéma"."P" (a integer, b integer, primary key (a, b))',
        f'create table "Odd ""Schéma"."{long}" ("select" integer, "B ""b" integer, '
        'constraint "it\'s" foreign key ("select", "B ""b") references "Odd ""Schéma"."P")',
    )
    (finding,) = found(server).values()
    assert finding.name == f'"Odd ""Schéma"."{long}" "it\'s"'
    (remedy,) = finding.remedies
    build(remedy.sql)
    assert found(server) == {}
    build(remedy.undo)
    assert len(found(server)) == 1


def test_the_index_has_the_name_that_postgresql_would_give_it_unless_that_is_taken(server, build):
    build(
        "create table p (a integer primary key)",
        "create table e (a integer references p, b integer references p)",
        "create index e_b_idx on e (b) where b > 7",
    )
    created = [it.remedies[0].sql for _, it in sorted(found(server).items())]
    assert created == [
        "create index concurrently e_a_idx on lab.e (a);",
        "create index concurrently e_b_fk_idx on lab.e (b);",
    ]
    build(*created)


def test_the_remedy_of_a_partitioned_table_builds_before_it_adopts(server, build):
    build(
        "create table p (a integer primary key)",
        "create table e (a integer references p, at integer) partition by range (at)",
        "create table e1 partition of e for values from (1) to (2) partition by range (a)",
        "create table e1a partition of e1 for values from (1) to (2)",
        "create table e2 partition of e for values from (2) to (3)",
    )
    (finding,) = found(server).values()
    assert finding.name == "lab.e e_a_fkey"
    (remedy,) = finding.remedies
    build(*remedy.sql.splitlines())
    assert found(server) == {}
    assert diagnose(server, "duplicate-index").findings == []  # adopted, not built twice
    build(*remedy.undo.splitlines())
    assert len(found(server)) == 1


def test_a_partitioned_parent_is_one_finding(server, build):
    build(
        "create table p (a integer primary key) partition by range (a)",
        "create table p1 partition of p for values from (1) to (9)",
        "create table f (a integer references p)",
    )
    assert set(found(server)) == {"lab.f f_a_fkey"}


def test_a_key_that_is_not_enforced_looks_for_nothing(newest):
    with newest.connect() as session:
        session.execute("create schema lab; create table lab.p (a integer primary key)")
        try:
            session.execute("create table lab.f (a integer references lab.p not enforced)")
            assert found(newest) == {}
        finally:
            session.execute("drop schema lab cascade")
