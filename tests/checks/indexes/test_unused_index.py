import dataclasses

import pytest

from conftest import diagnose
from pgrunbooks.check import Skip, catalogue
from pgrunbooks.checks.indexes.unused_index import causes, judge
from pgrunbooks.drills import drills

LIMITS = catalogue()["unused-index"].limits()
DAY = 86400.0


def named(rows, context, **standbys):
    context = dataclasses.replace(context, standbys=standbys)
    return [it.name for it in judge(rows, LIMITS, context)]


def aged(context, seconds):
    return dataclasses.replace(context, server=dataclasses.replace(context.server, counters_age_s=seconds))


def test_the_drill_is_found_and_healed(prove):
    prove("unused-index")


def test_no_index_is_well(context):
    assert named([], context) == []


@pytest.mark.parametrize(("age_s", "number"), [(30 * DAY - 1, 0), (30 * DAY, 1), (None, 0)])
def test_the_counters_have_to_be_old_enough(age_s, number, context, index_row):
    assert len(named([index_row()], aged(context, age_s))) == number


@pytest.mark.parametrize(("size", "number"), [(10 * 2**20 - 1, 0), (10 * 2**20, 1)])
def test_small_ones_are_not_worth_a_word(size, number, context, index_row):
    assert len(named([index_row(size_bytes=size)], context)) == number


@pytest.mark.parametrize(
    ("scans", "last_s", "number"),
    [(0, None, 1), (1, None, 0), (1, 30 * DAY - 1, 0), (1, 30 * DAY, 1), (None, None, 0)],
)
def test_no_scan_for_long_enough_decides(scans, last_s, number, context, index_row):
    assert len(named([index_row(scans=scans, last_scan_s=last_s)], context)) == number


@pytest.mark.parametrize(("last_s", "number"), [(DAY - 1, 0), (DAY, 1)])
def test_a_scan_of_the_last_day_is_use_whatever_the_limit(last_s, number, context, index_row):
    row = index_row(scans=1, last_scan_s=last_s)
    assert len(list(judge([row], {**LIMITS, "min_age": 0}, context))) == number


@pytest.mark.parametrize(
    "change",
    [
        {"is_unique": True},
        {"is_unique": True, "constraint_type": "p"},
        {"constraint_type": "x"},
        {"is_replica_identity": True},
        {"referenced_by": 1},
        {"expressions": "({FUNCEXPR})"},
        {"supports": "7"},
        {"state": "invalid"},
        {"extension": "postgis"},
        {"root_index_oid": 9},
    ],
)
def test_some_indexes_work_without_being_scanned(change, context, index_row):
    assert named([index_row(**change)], context) == []


def test_a_partial_index_may_go(context, index_row):
    assert named([index_row(predicate="{OPEXPR}")], context) == ["shop.i1_idx"]


def test_one_of_two_that_support_a_foreign_key_may_go(context, index_row):
    rows = [index_row(1, supports="7"), index_row(2, "1 2", supports="7 8", size_bytes=32 * 2**20)]
    assert named(rows, context) == ["shop.i1_idx"]  # the larger one alone supports 8
    rows[1]["supports"] = "7"
    assert named(rows, context) == ["shop.i1_idx"]  # redundant-index names that one too
    rows[0].update(index_row(1, "1 3", supports="7"))
    assert named(rows, context) == ["shop.i2_idx"]  # either may, the larger does


@pytest.mark.parametrize(("keys", "scans", "found"), [("1", 9, []), ("1 2", 9, []), ("1", 0, ["shop.i1_idx"])])
def test_the_one_that_shall_take_the_scans_of_another_stays(keys, scans, found, context, index_row):
    rows = [index_row(1, keys), index_row(2, "1", scans=scans, size_bytes=0)]
    assert named(rows, context) == found
    on_standby = {"replica": [rows[0], {**rows[1], "scans": 9}]}
    assert named([rows[0], {**rows[1], "scans": 0}], context, **on_standby) == []


def test_of_two_copies_that_support_a_foreign_key_the_staying_one_stays(context, index_row):
    rows = [index_row(1, supports="7"), index_row(2, supports="7")]
    assert named(rows, context) == ["shop.i2_idx"]  # duplicate-index names that one too


@pytest.mark.parametrize(("scans", "number"), [(0, 1), (1, 0)])
def test_a_standby_that_scans_it_keeps_it(scans, number, context, index_row):
    assert len(named([index_row()], context, replica=[index_row(scans=scans)])) == number


@pytest.mark.parametrize("answer", [None, "young"])
def test_a_standby_that_cannot_be_believed_makes_it_a_skip(answer, context, index_row):
    replica = answer and [index_row(counters_age_s=DAY)]
    context = dataclasses.replace(context, standbys={"replica": replica})
    (skip,) = judge([index_row()], LIMITS, context)
    assert isinstance(skip, Skip)
    assert "replica" in skip.reason
    assert list(judge([index_row(scans=5)], LIMITS, context)) == []


def test_a_partitioned_index_is_judged_with_all_its_children(context, index_row):
    root = index_row(9, is_partitioned=True, size_bytes=0)
    children = [index_row(n, root_index_oid=9, table_oid=100 + n, size_bytes=6 * 2**20) for n in (1, 2)]
    (finding,) = judge([root, *children], LIMITS, context)
    assert finding.name == "shop.i9_idx"
    assert "drop index shop.i9_idx;" in finding.remedies[0].sql
    children[1]["scans"] = 1
    assert named([root, *children], context) == []
    children[1].update(scans=1, supports="7", last_scan_s=31 * DAY)
    assert named([root, *children], context) == []


def test_a_target_that_cannot_ask_its_standby_says_so(server, tmp_path, monkeypatch):
    path = tmp_path / "targets.yml"
    path.write_text(f"targets:\n  here: {{dsn: '{server.url()}'}}\n  gone: {{dsn: 'host={tmp_path}'}}\n")
    monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(path))
    drill = drills()["unused-index"]
    with drill.fault(server) as incident:
        asked = [
            diagnose(server, "unused-index", thresholds=drill.thresholds, standbys=names)
            for names in (("here",), ("here", "gone"))
        ]
    assert [it.checks[0].outcome for it in asked] == ["found", "skipped"]
    (finding,) = asked[0].findings
    assert [row["server"] for row in finding.evidence] == ["tested", "here"]
    assert finding.name == incident.name


def test_a_scan_is_noticed_and_the_undo_makes_it_again(server, build):
    def unused():
        limits = {"unused-index": {"min_age": "0", "min_bytes": "0"}}
        findings = diagnose(server, "unused-index", thresholds=limits).findings
        return {it.name: it for it in findings if it.name.startswith(("lab", '"Odd'))}

    build(
        'create schema "Odd ""Schéma"',
        'create table "Odd ""Schéma"."T" ("B b" integer, c integer)',
        'create index "I\'1" on "Odd ""Schéma"."T" ("B b") include (c) with (fillfactor = 50) where c > 1',
        'create index "I2" on "Odd ""Schéma"."T" (c)',
        "set enable_seqscan to off",
        'select from "Odd ""Schéma"."T" where c = 1',
        "select pg_stat_force_next_flush()",
    )
    name = '"Odd ""Schéma"."I\'1"'
    findings = unused()
    assert set(findings) == {name}
    (remedy,) = findings[name].remedies
    build(remedy.sql)
    assert name not in unused()
    build(remedy.undo)
    assert unused()[name].evidence[0]["definition"] == findings[name].evidence[0]["definition"]


@pytest.mark.parametrize("code", ["duplicate-index", "redundant-index"])
def test_a_copy_is_unused_because_it_is_one(code, context, index_row):
    (unused,) = judge([index_row()], LIMITS, context)
    cause = dataclasses.replace(unused, code=code)
    others = [dataclasses.replace(cause, name="shop.other"), dataclasses.replace(unused, code="index-bloat"), cause]
    assert list(causes(unused, others)) == [cause]


@pytest.mark.parametrize(
    ("is_clustered", "job"), [(False, "(a yearly report)"), (True, "(CLUSTER, for which it is marked)")]
)
def test_the_remedy_names_the_job_that_may_need_it(is_clustered, job, context, index_row):
    (finding,) = judge([index_row(is_clustered=is_clustered)], LIMITS, context)
    assert finding.remedies[0].title.endswith(job)
