"""Bloat measured on request: the worst estimates first, one at a time, and never longer than was asked for."""

import time

import pytest

from conftest import diagnose
from pgrunbooks import bloat
from pgrunbooks.drills import drills
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

CODES = ("index-bloat", "table-bloat")
THRESHOLDS = {"index-bloat": {"min_bytes": "1MB"}, "table-bloat": {"min_bytes": "2MB"}}
NAMES = ["shop.clicks", "shop.visits_visitor_idx"]


@pytest.fixture
def bloated(server):
    """Return a server on which an index and a table are bloated, with pgstattuple in an oddly named schema."""
    with drills()["index-bloat"].fault(server), drills()["table-bloat"].fault(server), server.connect() as session:
        session.execute('create schema "A ""b"; create extension pgstattuple schema "A ""b"')
        try:
            yield server
        finally:
            session.execute('drop extension if exists pgstattuple; drop schema "A ""b"')


def target(server, **settings):
    return Target.model_validate({"name": "tested", "dsn": server.url(), "thresholds": THRESHOLDS, **settings})


def measure(server, budget_s=60.0, **settings):
    rows = diagnose(server, *CODES, thresholds=THRESHOLDS).rows
    with open_session(target(server, **settings)) as session:
        return {it.name: it for it in bloat.measure(session, rows, budget_s) if it.name in NAMES}


def reasons(found):
    return {it.not_measured for it in found.values()}


def test_what_is_measured_is_near_the_truth_and_the_worst_comes_first(bloated):
    found = measure(bloated)
    assert list(found) == NAMES
    assert reasons(found) == {None}
    with bloated.connect() as session:
        sizes = "select pg_relation_size('shop.clicks'), pg_relation_size('shop.visits_visitor_idx')"
        before = session.execute(sizes).fetchone()
        session.execute("vacuum full shop.clicks")
        session.execute("reindex index shop.visits_visitor_idx")
        after = session.execute(sizes).fetchone()
    for it, old, new in zip(found.values(), before, after, strict=True):
        assert (it.bytes, it.share) == (old, it.measured)
        assert it.measured == pytest.approx(1 - new / old, abs=0.05), it
        assert it.estimated == pytest.approx(1 - new / old, abs=0.05), it


def test_without_the_extension_it_says_what_to_install(bloated):
    with bloated.connect() as session:
        session.execute("drop extension pgstattuple")
        found = measure(bloated)
        assert reasons(found) == {"needs an extension: create extension pgstattuple;"}
        assert all(it.estimated > 0.5 and it.measured is None for it in found.values())
        session.execute("create extension pgstattuple")
        assert reasons(measure(bloated)) == {None}


def test_the_grant_that_it_asks_for_is_the_one_that_helps(bloated):
    with bloated.connect() as session:
        session.execute('create role "no rights" login; grant usage on schema "A ""b" to "no rights"')
        try:
            dsn = bloated.url(user="no rights")
            (reason,) = reasons(measure(bloated, dsn=dsn))
            assert reason == 'needs a right: grant pg_stat_scan_tables to "no rights";'
            session.execute(reason.partition(": ")[2])
            assert reasons(measure(bloated, dsn=dsn)) == {None}
        finally:
            session.execute('drop owned by "no rights"; drop role "no rights"')


def test_what_is_locked_is_left_alone_and_the_rest_is_measured(bloated):
    with bloated.connect() as other, other.transaction():
        other.execute("lock table shop.visits in access exclusive mode")
        start = time.monotonic()
        found = measure(bloated)
        assert time.monotonic() - start < 10
    assert found["shop.clicks"].measured is not None
    assert found["shop.visits_visitor_idx"].not_measured == "somebody holds a lock on it, or waits for one"


def test_no_time_is_no_statement_at_all(bloated):
    assert reasons(measure(bloated, budget_s=0.0)) == {"no time was left of 0 ms"}


def test_a_statement_that_takes_too_long_is_stopped_and_said_to_be(bloated):
    with bloated.connect() as session:
        session.execute(
            "create table shop.traces with (autovacuum_enabled = off) as select generate_series(1, 500000) as i"
        )
        try:
            session.execute("delete from shop.traces where i > 9")
            session.execute("analyze shop.traces")
            rows = diagnose(bloated, "table-bloat", thresholds=THRESHOLDS).rows["table-bloat"]
            rows = [row for row in rows if row["table"] == "shop.traces"]
            with open_session(target(bloated)) as asked:
                (found,) = bloat.measure(asked, {"table-bloat": rows}, budget_s=0.002)
        finally:
            session.execute("drop table shop.traces")
    assert "canceling statement due to statement timeout" in found.not_measured


def test_small_and_full_relations_are_no_candidates(bloated):
    rows = diagnose(bloated, *CODES, thresholds=THRESHOLDS).rows
    with open_session(Target(name="tested", dsn=bloated.url())) as session:
        assert bloat.measure(session, rows) == []  # the default limits are 50 and 100 MB
        full = [row for row in rows["index-bloat"] if row["index"] == "shop.order_items_pkey"]
    with open_session(target(bloated)) as session:
        assert full
        assert bloat.measure(session, {"index-bloat": full}) == []


def test_the_table_of_a_runbook_has_estimates_and_measures_when_asked(bloated):
    rows = diagnose(bloated, *CODES, thresholds=THRESHOLDS).rows
    with open_session(target(bloated)) as session:
        estimated = bloat.table(session, rows, measured=False).set_index("relation").loc[NAMES]
        measured = bloat.table(session, rows, measured=True).set_index("relation").loc[NAMES]
    assert set(estimated["not_measured"]) == {"not asked for"}
    assert measured["not_measured"].isna().all()
    assert list(estimated["estimated"]) == list(measured["estimated"])
    assert all(text.endswith("%") for text in measured["measured"])
    assert (measured["waste_bytes"] > 1e6).all()


def test_shares_of_what_is_measured():
    leaves = {"index_size": 101 * 8192, "internal_pages": 0, "empty_pages": 0, "deleted_pages": 0, "leaf_pages": 100}
    assert bloat.index_share({**leaves, "avg_leaf_density": 90.0}, 0.9) == pytest.approx(0)
    assert bloat.index_share({**leaves, "avg_leaf_density": 45.0}, 0.9) == pytest.approx(50 / 101)
    assert bloat.index_share({**leaves, "avg_leaf_density": 95.0}, 0.9) == 0
    assert bloat.index_share({**leaves, "leaf_pages": 50, "deleted_pages": 50, "avg_leaf_density": 90.0}, 0.9) > 0.49
    assert bloat.index_share({**leaves, "leaf_pages": 0, "avg_leaf_density": None}, 0.9) is None
    assert bloat.table_share({"table_len": 8192, "approx_free_percent": 60.0, "dead_tuple_percent": 10}, 0.8) == (
        pytest.approx(0.5)
    )
    assert bloat.table_share({"table_len": 8192, "approx_free_percent": 1.0, "dead_tuple_percent": 0}, 0.8) == 0
    assert bloat.table_share({"table_len": 0, "approx_free_percent": 0.0, "dead_tuple_percent": 0}, 1.0) is None
