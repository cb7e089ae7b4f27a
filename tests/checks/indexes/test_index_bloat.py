import pytest

from conftest import diagnose
from pgrunbooks.check import Finding, Skip, catalogue
from pgrunbooks.checks._btree import needed_bytes
from pgrunbooks.checks.indexes.index_bloat import judge
from pgrunbooks.drills import drills

CODE = "index-bloat"
LIMITS = catalogue()[CODE].limits()
MB = 2**20


def index(megabytes, full=1.0, **changes):
    """Return a unique btree on one bigint, 366 entries to a page; ``full`` is how full it is."""
    pages = megabytes * MB // 8192
    row = {
        "database": "shop",
        "table_oid": 100,
        "index_oid": 1,
        "index": "shop.visits_idx",
        "table": "shop.visits",
        "rows": round(pages * 364.7 * full),
        "bytes": pages * 8192,
        "page_bytes": 8192,
        "fillfactor": 0.9,
        "is_partial": False,
        "key_columns": 1,
        "deduplicates": False,
        "widths": [8],
        "null_shares": [0.0],
        "alignments": ["d"],
        "lengths": [8],
        "narrowest": [None],
        "widest": [None],
        "distinct_values": [-1.0],
        "common_shares": None,
        "unread": None,
    }
    assert not set(changes) - set(row)
    return {**row, **changes}


def names(rows, context):
    return [it.name for it in judge(rows, LIMITS, context)]


def estimates(server):
    """Return index -> (row of the check, the estimated share of waste) in the schema of the test."""
    rows = [row for row in diagnose(server, CODE).rows[CODE] if row["index"].startswith("lab.")]
    return {row["index"]: (row, 1 - needed_bytes(row) / row["bytes"]) for row in rows}


def rebuilt(server, name):
    """Return the bytes of an index after REINDEX, which is the truth that an estimate is held against."""
    with server.connect() as session:
        session.execute(f"reindex index {name}")
        return session.execute("select pg_relation_size(%s::regclass)", [name]).fetchone()[0]


INDEXES = {
    "plain": "unique index {} on t (id)",
    "copies": "index {} on t (few)",
    "no_lists": "index {} on t (few) with (deduplicate_items = off)",
    "one_value": "index {} on t (same)",
    "digest": "index {} on t (digest)",
    "digest_unique": "unique index {} on t (digest) with (fillfactor = 70)",
    "digits": "index {} on t (price)",
    "words": "index {} on t (word)",
    "nulls": "index {} on t (often_null)",
    "nulls_unique": "unique index {} on t (often_null)",
    "two": "index {} on t (few, digest desc)",
    "two_copies": "index {} on t (same, few)",
    "wide": "index {} on t (few) include (id, digest)",
    "part": "index {} on t (digest) where few < 300",
    "expression": "index {} on t (upper(word))",
    "descending": "index {} on t (few desc nulls last) with (fillfactor = 50)",
    "collated": 'index {} on t (word collate "C" text_pattern_ops)',
    "full": "index {} on t (id, few) with (fillfactor = 100)",
}
TABLE = (
    "create table t with (autovacuum_enabled = off) as select i as id, (hashint4extended(i, 1) & 1023)::int as few,"
    " 7 as same, md5(i::text) as digest, (i % 1000 * 0.01)::numeric(10, 2) as price,"
    " 'w' || repeat('x', i % 40) || i % 500 as word,"
    " case when hashint4extended(i, 2) & 1 = 0 then i::bigint end as often_null from generate_series(1, 60000) as i"
)


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_estimate_of_a_fresh_index_is_near_nothing(server, build):
    build(TABLE, *("create " + text.format(f"i_{name}") for name, text in INDEXES.items()), "analyze t")
    found = estimates(server)
    wastes = {name: found[f"lab.i_{name}"][1] for name in INDEXES}
    assert wastes == {name: pytest.approx(0, abs=0.05) for name in INDEXES}


def test_the_estimate_is_close_to_what_a_rebuild_frees(server, build):
    build(TABLE, *("create " + text.format(f"i_{name}") for name, text in INDEXES.items()))
    build("delete from t where hashint4extended(id, 3) & 3 <> 0", "vacuum (analyze) t")
    found = estimates(server)
    wastes = {name: found[f"lab.i_{name}"][1] for name in INDEXES}
    truths = {name: 1 - rebuilt(server, f"lab.i_{name}") / found[f"lab.i_{name}"][0]["bytes"] for name in INDEXES}
    assert wastes == {name: pytest.approx(truth, abs=0.05) for name, truth in truths.items()}


def test_only_a_key_that_cannot_hide_a_difference_is_stored_once(server, build):
    build(
        "create table t (i int, n numeric, f float8, j jsonb, a int[], t text, d date)",
        "create type mood as enum ('well'); alter table t add m mood",
        *(f"create index on t ({column})" for column in ("i", "n", "f", "j", "a", "t", "d", "m")),
        "create index on t (i, n)",
        "create unique index on t (i)",
        "create index on t (i) include (d)",
        "create index on t (i, d) with (deduplicate_items = off)",
        "create index on t (t text_pattern_ops)",
        "insert into t (i) select generate_series(1, 10)",
        "analyze t",
    )
    rows = {row["index"]: row["deduplicates"] for row in diagnose(server, CODE).rows[CODE] if row["table"] == "lab.t"}
    assert {name for name, deduplicates in rows.items() if deduplicates} == {
        f"lab.t_{name}_idx" for name in ("i", "t", "d", "m")
    } | {"lab.t_t_idx1"}
    assert len(rows) == 13


def test_texts_that_are_equal_and_differ_are_not_stored_once(oldest):  # the embedded server has no such collations
    with oldest.connect() as session:
        session.execute("create schema lab")
        try:
            session.execute(
                "create collation lab.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
                "create table lab.t as select i::text as a, i::text collate lab.loose as b from generate_series(1, 9) as i;"
                "create index a on lab.t (a); create index b on lab.t (b); analyze lab.t"
            )
            assert {name: row["deduplicates"] for name, (row, _) in estimates(oldest).items()} == {
                "lab.a": True,
                "lab.b": False,
            }
        finally:
            session.execute("drop schema lab cascade")


def test_statistics_of_an_expression_come_from_the_index_and_their_lack_is_said(server, build):
    thresholds = {CODE: {"min_bytes": "8kB"}}
    build(
        "create table t with (autovacuum_enabled = off) as select i from generate_series(1, 20000) as i",
        "create index t_expression on t ((i % 100))",
    )
    verdict = diagnose(server, CODE, thresholds=thresholds)
    assert verdict.checks[0].outcome == "skipped"
    assert "1 table (lab.t)" in verdict.checks[0].reason
    build(verdict.checks[0].remedy)
    assert diagnose(server, CODE, thresholds=thresholds).checks[0].outcome == "ok"
    assert estimates(server)["lab.t_expression"][1] == pytest.approx(0, abs=0.06)  # of 19 pages


def test_an_index_whose_table_is_locked_is_judged_all_the_same(server):
    drill = drills()[CODE]
    with drill.fault(server) as incident, server.connect() as other, other.transaction():
        other.execute("lock table shop.visits in access exclusive mode")
        verdict = diagnose(server, CODE, thresholds=drill.thresholds)
        assert [it.name for it in verdict.findings] == [incident.name]
        assert verdict.checks[0].duration_ms < 2000


def test_who_holds_the_horizon_is_the_cause(server):
    thresholds = {**drills()[CODE].thresholds, **drills()["xmin-horizon-held"].thresholds}
    with drills()["xmin-horizon-held"].fault(server), drills()[CODE].fault(server):
        holder, bloat = diagnose(server, "xmin-horizon-held", CODE, thresholds=thresholds).findings
    assert (bloat.code, bloat.caused_by) == (CODE, (holder.id,))


def test_every_remedy_runs_on_odd_names(server, build, odd):
    schema, long = odd
    build(
        f"create schema {schema}",
        f'create table {schema}.{long} with (autovacuum_enabled = off) as select md5(i::text) as "B b"'
        " from generate_series(1, 20000) as i",
        f'create index "I\'1" on {schema}.{long} ("B b")',
        f'delete from {schema}.{long} where ascii("B b") % 4 > 0 or ascii(right("B b", 1)) % 2 > 0',
        f"vacuum (analyze) {schema}.{long}",
    )
    thresholds = {CODE: {"min_bytes": "500kB"}}
    (finding,) = diagnose(server, CODE, thresholds=thresholds).findings
    assert finding.name == f'{schema}."I\'1"'
    rebuild, measure = finding.remedies
    build(*measure.sql.split("\n"), *measure.sql.split("\n"), measure.undo)  # again for the next index
    build(rebuild.sql)
    assert diagnose(server, CODE, thresholds=thresholds).findings == []


def test_a_role_that_may_not_read_a_table_says_so_and_the_grant_helps(server, build, powerless):
    drill = drills()[CODE]
    settings = {"thresholds": drill.thresholds, **powerless}
    with drill.fault(server) as incident:
        verdict = diagnose(server, CODE, **settings)
        assert (verdict.findings, verdict.checks[0].outcome) == ([], "skipped")
        assert "role no rights may not read the statistics of" in verdict.checks[0].reason
        build(verdict.checks[0].remedy)
        assert [it.name for it in diagnose(server, CODE, **settings).findings] == [incident.name]


@pytest.mark.parametrize(
    ("megabytes", "full", "found"),
    [
        (200, 1.0, 0),
        (200, 0.51, 0),
        (200, 0.49, 1),
        (200, 0.0, 1),
        (99, 0.45, 1),
        (80, 0.49, 0),
        (49, 0.0, 0),
        (51, 0.0, 1),
        (0, 0.0, 0),
    ],
)
def test_share_and_bytes_must_both_reach_their_limits(megabytes, full, found, context):
    assert len(names([index(megabytes, full)], context)) == found


def test_the_title_says_that_it_is_an_estimate(context):
    (finding,) = judge([index(200, 0.25)], LIMITS, context)
    assert finding.title == "About 150 MB of the 200 MB of index shop.visits_idx are waste (75%, estimated)"
    assert finding.evidence[0]["measured_by"].startswith("estimate")


def test_what_cannot_be_known_is_not_guessed(context):
    unknown = {"widths": [None], "null_shares": [None], "distinct_values": [None]}
    for unread in ("never analyzed", "width"):
        assert list(judge([index(200, 0.0, unread=unread, **unknown)], LIMITS, context)) == []
    (skip,) = judge([index(200, 0.0, unread="expression never analyzed", **unknown)], LIMITS, context)
    assert isinstance(skip, Skip)
    assert skip.remedy == "analyze shop.visits;"
    assert list(judge([index(49, 0.0, unread="privilege", **unknown)], LIMITS, context)) == []


def test_a_table_is_named_once_beside_what_was_found(context):
    closed = [index(200, unread="privilege", index=f"shop.i{n}") for n in range(3)]
    finding, skip = judge([index(200, 0.1), *closed], LIMITS, context)
    assert isinstance(finding, Finding)
    assert "1 table (shop.visits)" in skip.reason


def test_no_index_is_well(context):
    assert names([], context) == []
