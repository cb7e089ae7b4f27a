import pytest

from conftest import diagnose
from pgrunbooks.checks.integrity.collation_version_mismatch import judge
from pgrunbooks.drills import drills

CODE = "collation-version-mismatch"


def version(recorded, actual, **changes):
    row = {
        "kind": "collation",
        "name": "shop.names",
        "quoted_name": "shop.names",
        "provider": "i",
        "recorded_version": recorded,
        "actual_version": actual,
        "indexes": 1,
        "index_bytes": 8192,
        "examples": ["shop.a_idx"],
    }
    return {**row, **changes}


def found(rows, context):
    return [(it.kind, it.name, it.severity) for it in judge(rows, {}, context)]


def names(server, **settings):
    return [(it.kind, it.name) for it in diagnose(server, CODE, **settings).findings]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_remedies_heal_it(server):
    with drills()[CODE].fault(server), server.connect() as session:
        (finding,) = diagnose(server, CODE).findings
        assert finding.evidence[1] == {"index": "shop.customers_sorted_idx"}
        for remedy in finding.remedies:
            session.execute(remedy.sql)
        assert names(server) == []


def test_a_collation_that_no_index_uses_is_well(server):
    with drills()[CODE].fault(server), server.connect() as session:
        session.execute("drop index shop.customers_sorted_idx")
        assert names(server) == []


def test_a_collation_within_an_expression_or_a_predicate_counts(server):
    with drills()[CODE].fault(server), server.connect() as session:
        session.execute("drop index shop.customers_sorted_idx")
        session.execute(
            "create index customers_sorted_idx on shop.customers (id) where full_name < 'm' collate shop.names"
        )
        assert names(server) == [("collation", "shop.names")]


def test_the_default_of_a_database_is_found_and_healed_by_its_remedies(server):
    name = 'odd "Sorted"'
    quoted = '"odd ""Sorted"""'
    with server.connect("postgres") as session:
        is_new = session.info.server_version >= 170000
        provider = "builtin builtin_locale 'C.UTF-8'" if is_new else "icu icu_locale 'de'"
        session.execute(f"create database {quoted} template template0 locale_provider {provider}")
        try:
            with server.connect(name) as inside:
                inside.execute("create table t (name text primary key)")
                assert names(server, dsn=server.url(name)) == []
                inside.execute("update pg_database set datcollversion = '0.1' where datname = current_database()")
                (finding,) = diagnose(server, CODE, dsn=server.url(name)).findings
                assert (finding.kind, finding.name, finding.severity) == ("database", name, "critical")
                assert {"index": "public.t_pkey"} in finding.evidence
                assert names(server) == []
                for remedy in finding.remedies:
                    inside.execute(remedy.sql)
                assert names(server, dsn=server.url(name)) == []
        finally:
            session.execute(f"drop database {quoted} with (force)")


@pytest.mark.parametrize(
    ("recorded", "actual", "number"),
    [("153.14", "153.14", 0), ("153.14", "153.120", 1), (None, "153.14", 0), ("153.14", None, 0), (None, None, 0)],
)
def test_two_different_versions_are_a_mismatch(recorded, actual, number, context):
    assert len(found([version(recorded, actual)], context)) == number
    assert len(found([version(recorded, actual, kind="database", name="shop")], context)) == number


def test_a_remedy_names_no_more_indexes_than_a_person_reads(context):
    many = {"indexes": 70, "examples": [f"shop.i{n}" for n in range(70)]}
    (finding,) = judge([version("1", "2", **many)], {}, context)
    assert len(finding.remedies[0].sql.splitlines()) == 20
    assert "(the largest 20 of 70)" in finding.remedies[0].title


def test_a_database_without_an_index_on_text_has_nothing_to_build_again(context):
    empty = {"kind": "database", "name": "shop", "quoted_name": "shop", "indexes": 0, "examples": []}
    (finding,) = judge([version("1", "2", **empty)], {}, context)
    assert [it.sql for it in finding.remedies] == ["alter database shop refresh collation version;"]


def test_no_row_is_well(context):
    assert found([], context) == []
