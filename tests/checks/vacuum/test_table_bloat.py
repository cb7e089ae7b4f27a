import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.vacuum.table_bloat import judge, needed_bytes
from pgrunbooks.drills import drills

CODE = "table-bloat"
LIMITS = catalogue()[CODE].limits()
MB = 2**20


def table(megabytes, full=1.0, **changes):
    """Return a table of two bigints, 157 rows to a page; ``full`` is how full it is."""
    pages = megabytes * MB // 8192
    row = {
        "database": "shop",
        "table": "shop.clicks",
        "is_system": False,
        "rows": round(pages * 185 * full),
        "bytes": pages * 8192,
        "page_bytes": 8192,
        "fillfactor": 1.0,
        "dead_rows": 0,
        "widths": [8, 8],
        "null_shares": [0.0, 0.0],
        "alignments": ["d", "d"],
        "lengths": [8, 8],
        "unread": None,
    }
    assert not set(changes) - set(row)
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_estimate_is_close_to_what_a_rewrite_frees(server, build):
    build(
        "create table fixed as select i as a, i::smallint as b, i::bigint as c, true as d"
        " from generate_series(1, 30000) as i",
        "create table texts as select i::bigint as id, repeat('x', i % 50) as t, case when i % 3 = 0 then now() end as at,"
        " (i * 0.01)::numeric as price, null::int as unused from generate_series(1, 50000) as i",
        "create table half with (autovacuum_enabled = false) as select * from texts",
        "create table tenth with (autovacuum_enabled = false) as select * from fixed",
        "create table loose with (fillfactor = 50) as select * from texts",
        "delete from half where id % 2 = 0",
        "delete from tenth where a % 10 <> 0",
        "vacuum (analyze) fixed, texts, half, tenth, loose",
    )
    rows = {row["table"]: row for row in diagnose(server, CODE).rows[CODE]}
    build("vacuum (full) fixed, texts, half, tenth, loose, shop.orders, shop.order_items")
    names = ["lab.fixed", "lab.texts", "lab.half", "lab.tenth", "lab.loose", "shop.orders", "shop.order_items"]
    with server.connect() as session:
        for name in names:
            row = rows[name]
            rewritten = session.execute("select pg_relation_size(%s::regclass)", [name]).fetchone()[0]
            assert (row["bytes"] - needed_bytes(row)) / row["bytes"] == pytest.approx(
                (row["bytes"] - rewritten) / row["bytes"], abs=0.05
            ), name


def test_who_holds_the_horizon_is_the_cause(server):
    thresholds = {**drills()[CODE].thresholds, **drills()["xmin-horizon-held"].thresholds}
    with drills()["xmin-horizon-held"].fault(server), drills()[CODE].fault(server):
        holder, bloat = diagnose(server, "xmin-horizon-held", CODE, thresholds=thresholds).findings
    assert (bloat.code, bloat.caused_by) == (CODE, (holder.id,))


def test_every_remedy_runs(server):
    drill = drills()[CODE]
    with drill.fault(server), server.connect() as session:
        (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).findings
        for remedy in finding.remedies:
            for statement in (remedy.sql or "").splitlines():
                session.execute(statement)
        session.execute(finding.remedies[0].undo)
        assert diagnose(server, CODE, thresholds=drill.thresholds).findings == []


def test_a_role_that_may_not_read_a_table_says_so_and_the_grant_helps(server, build, powerless):
    drill = drills()[CODE]
    settings = {"thresholds": drill.thresholds, **powerless}
    with drill.fault(server):
        verdict = diagnose(server, CODE, **settings)
        assert (verdict.findings, verdict.checks[0].outcome) == ([], "skipped")
        assert "shop.clicks" in verdict.checks[0].reason
        build(verdict.checks[0].remedy)
        assert [it.name for it in diagnose(server, CODE, **settings).findings] == ["shop.clicks"]


@pytest.mark.parametrize(
    ("megabytes", "full", "severity"),
    [
        (1000, 1.0, []),
        (1000, 0.601, []),
        (1000, 0.599, ["warning"]),
        (1000, 0.0, ["warning"]),
        (99, 0.0, []),
        (100, 0.0, ["warning"]),
        (200, 0.51, []),
        (200, 0.49, ["warning"]),
        (0, 0.0, []),
    ],
)
def test_share_and_bytes_must_both_reach_their_limits(megabytes, full, severity, context):
    assert severities([table(megabytes, full)], context) == severity


def test_the_title_says_that_it_is_an_estimate(context):
    (finding,) = judge([table(1000, 0.5)], LIMITS, context)
    assert finding.title == "About 500 MB of the 1000 MB of shop.clicks are waste (50%, estimated)"
    assert finding.evidence[0]["measured_by"].startswith("estimate")


def test_what_was_never_analyzed_is_left_to_stale_statistics(context):
    assert list(judge([table(1000, 0.0, unread="never analyzed", widths=[None, 8])], LIMITS, context)) == []


def test_statistics_of_the_catalog_that_may_not_be_read_are_no_news(context):
    assert list(judge([table(1000, 0.0, unread="privilege", is_system=True)], LIMITS, context)) == []
    (skip,) = judge([table(1000, 0.0, unread="row security"), table(99, 0.0, unread="privilege")], LIMITS, context)
    assert skip.remedy is None
    assert "row security hides" in skip.reason


def test_a_table_without_columns_is_no_division_by_zero(context):
    empty = {"widths": [], "null_shares": [], "alignments": [], "lengths": []}
    assert severities([table(1000, 1.0, **empty)], context) == []


def test_no_table_is_well(context):
    assert severities([], context) == []
