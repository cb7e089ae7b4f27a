import pytest

from conftest import diagnose
from pgrunbooks.checks.indexes.redundant_index import judge

LOWER, UPPER = "{FUNCEXPR :funcid 870 :location 1}", "{FUNCEXPR :funcid 871 :location 2}"


def dropped(rows, context):
    return [it.name for it in judge(rows, {}, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("redundant-index")


def test_no_index_is_well(context):
    assert dropped([], context) == []


def test_the_prefix_is_covered_and_the_evidence_shows_both(context, index_row):
    (finding,) = judge([index_row(1), index_row(2, "1 2", scans=7)], {}, context)
    assert (finding.name, finding.severity) == ("shop.i1_idx", "warning")
    assert [(it["index"], it["scans"]) for it in finding.evidence] == [("shop.i1_idx", 0), ("shop.i2_idx", 7)]
    assert "covered" in finding.title
    assert "duplicate" not in finding.title


@pytest.mark.parametrize("wide", [{"keys": "2 1"}, {"keys": "2"}, {"keys": "1"}])
def test_only_a_longer_index_that_begins_alike_covers(wide, context, index_row):
    narrow = index_row(1, "1 3") if wide == {"keys": "1"} else index_row(1)
    covered = dropped([narrow, index_row(2, **wide)], context)
    assert covered == (["shop.i2_idx"] if wide == {"keys": "1"} else [])


@pytest.mark.parametrize(
    "change",
    [
        {"table_oid": 101},
        {"method": "gist"},
        {"opclasses": "2 1978"},
        {"collations": "950 0"},
        {"options": "3 0"},
        {"predicate": "{OPEXPR}"},
        {"state": "invalid"},
    ],
)
def test_a_wider_one_of_another_make_does_not_cover(change, context, index_row):
    assert dropped([index_row(1), index_row(2, "1 2", **change)], context) == []


@pytest.mark.parametrize(
    "change",
    [
        {"is_unique": True},
        {"is_unique": True, "constraint_type": "u"},
        {"constraint_type": "x"},
        {"referenced_by": 1},
        {"is_replica_identity": True},
        {"is_clustered": True},
        {"root_index_oid": 9},
        {"extension": "postgis"},
        {"method": "hash"},
        {"state": "invalid"},
    ],
)
def test_one_that_does_more_than_find_rows_is_left_alone(change, context, index_row):
    assert dropped([index_row(1, **change), index_row(2, "1 2")], context) == []


def test_what_it_includes_has_to_be_in_the_wider_one(context, index_row):
    assert dropped([index_row(1, included="3"), index_row(2, "1 2")], context) == []
    assert dropped([index_row(1, included="2"), index_row(2, "1 2")], context) == ["shop.i1_idx"]
    assert dropped([index_row(1, included="3"), index_row(2, "1 2", included="4 3")], context) == ["shop.i1_idx"]
    assert dropped([index_row(1), index_row(2, included="2")], context) == ["shop.i1_idx"]


def test_expressions_are_compared_one_by_one(context, index_row):
    narrow = index_row(1, "0", expressions=f"({LOWER})")
    assert dropped([narrow, index_row(2, "0 0", expressions=f"({LOWER} {UPPER})")], context) == ["shop.i1_idx"]
    assert dropped([narrow, index_row(2, "0 0", expressions=f"({UPPER} {LOWER})")], context) == []


def test_of_a_chain_only_the_widest_stays(context, index_row):
    rows = [index_row(1), index_row(2, "1 2"), index_row(3, "1 2 3")]
    findings = list(judge(rows, {}, context))
    assert [(it.name, it.evidence[1]["index"]) for it in findings] == [
        ("shop.i1_idx", "shop.i3_idx"),
        ("shop.i2_idx", "shop.i3_idx"),
    ]


def test_a_duplicate_is_not_reported_again(context, index_row):
    rows = [index_row(1), index_row(2), index_row(3, "1 2")]
    assert dropped(rows, context) == ["shop.i1_idx"]  # the other is duplicate-index's


def test_real_prefixes_are_told_from_real_near_misses(server, build):
    build(
        "create table t (a text, b integer, c integer, primary key (a, b))",
        "create index t_lower on t (lower(a), b) where b > 1",
        "create index near_1 on t (b)",
        "create index near_2 on t (a desc)",
        "create index near_3 on t (a text_pattern_ops)",
        "create index near_4 on t (a) where b > 1",
        "create unique index near_5 on t (a)",
        "create index near_6 on t (lower(a))",
        "create index same_1 on t (lower(a)) where b > 1",
        "create index same_2 on t (a) include (b)",
    )
    findings = diagnose(server, "redundant-index").findings
    assert {it.name for it in findings} == {"lab.same_1", "lab.same_2"}
    for finding in findings:
        build(finding.remedies[0].sql)
    assert diagnose(server, "redundant-index").findings == []
    for finding in findings:
        build(finding.remedies[0].undo)
    assert len(diagnose(server, "redundant-index").findings) == 2
