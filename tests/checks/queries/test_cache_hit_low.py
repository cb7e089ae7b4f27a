from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.queries.cache_hit_low import judge
from pgrunbooks.drills import drills

CODE = "cache-hit-low"
LIMITS = catalogue()[CODE].limits()
M = 1_000_000


def counted(hits, reads, database="shop", counters_age_s=7200.0):
    return {
        "database": database,
        "hits": hits,
        "reads": reads,
        "reading_s": None,
        "shared_buffers_bytes": 128 * 1024**2,
        "block_bytes": 8192,
        "counters_age_s": counters_age_s,
    }


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_remedy_runs_where_the_finding_points(server):
    drill = drills()[CODE]
    with drill.fault(server) as incident, server.connect(incident.name) as dba:
        (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).about(CODE)
        (table,) = dba.execute(finding.remedies[0].sql).fetchall()
    assert table[0] == "readings"


@pytest.mark.parametrize(
    ("hits", "reads", "severity"),
    [
        (9_501_000, 499_000, []),
        (9_500_000, 500_000, ["warning"]),
        (0, 5 * M, ["warning"]),
        (0, M - 1, []),
        (0, M, ["warning"]),
        (5 * M, 0, []),
        (0, 0, []),
        (None, None, []),
        (None, 2 * M, ["warning"]),
    ],
)
def test_the_share_of_hits_among_enough_requests_decides(hits, reads, severity, context):
    assert severities([counted(hits, reads)], context) == severity


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted(0, 0)], {"warning": 1.0, "min_requests": 0}, context)) == []


def test_each_database_is_judged_by_its_own_counters(context):
    rows = [counted(M, M), counted(9 * M, 1000, "crm"), counted(M, M, "archive")]
    assert [(it.kind, it.name) for it in judge(rows, LIMITS, context)] == [
        ("database", "shop"),
        ("database", "archive"),
    ]


def test_the_title_says_how_much_in_which_time(context):
    (finding,) = judge([counted(3 * M, M)], LIMITS, context)
    assert finding.title == "Database shop finds 75.0% of its pages in memory; 7.6 GB came from beyond in 2 h"


def test_no_database_is_well(context):
    assert severities([], context) == []


def since(context, hits, reads, database="shop"):
    return replace(context, since=Since(7200, databases={database: {"blks_hit": hits, "blks_read": reads}}))


@pytest.mark.parametrize(
    ("hits", "reads", "severity"),
    [(0, 0, []), (950_001, 49_999, []), (950_000, 50_000, ["warning"]), (950_000, 49_999, []), (0, M, ["warning"])],
)
def test_with_a_history_the_requests_since_the_last_snapshot_count(hits, reads, severity, context):
    assert severities([counted(M + hits, 9 * M + reads)], since(context, M, 9 * M)) == severity


def test_what_fell_out_of_memory_lately_does_not_hide_behind_a_good_year(context):
    row = {**counted(901 * M, 2 * M), "reading_s": 4711.0}
    assert severities([row], context) == []
    (finding,) = judge([row], LIMITS, since(context, 900 * M, M))
    assert finding.title == "Database shop finds 50.0% of its pages in memory; 7.6 GB came from beyond in 2 h"
    assert "reading_s" not in finding.evidence[0]


def test_a_database_that_was_reset_since_or_is_not_in_the_snapshot_is_judged_by_all_that_was_counted(context):
    assert severities([counted(M, M)], since(context, M, M, database="crm")) == ["warning"]
