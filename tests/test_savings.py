"""What would win room: held against what the disk really gets back."""

import pytest

from conftest import YEAR_END
from pgrunbooks import growth, history, savings
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

LIMITS = {"table-bloat": {"min_bytes": "1MB", "waste": "30%"}}


@pytest.fixture
def session(year):
    with open_session(Target(name="tested", dsn=year.url, thresholds=LIMITS)) as session:
        yield session


@pytest.fixture
def rows(year, session, monkeypatch):
    monkeypatch.setattr(savings, "LEAST", 1000)
    found = savings.savings(session, savings.ask_others(session), year.taken, retention_days=90)
    return {(row["action"], row["object"]): row for row in found}


def test_an_index_that_can_go_wins_its_size(year, session, rows):
    (size,) = session.rows("select pg_relation_size('orders_again') as bytes")
    row = rows["drop the index", "public.orders_again"]
    assert (row["won_bytes"], row["goes_to"]) == (pytest.approx(size["bytes"], rel=0.02), "disk")
    assert row["statement"] == "drop index concurrently public.orders_again;"


def test_old_partitions_win_what_they_hold(year, rows):
    row = rows["drop old partitions", "public.log"]
    names = row["statement"].replace("drop table public.", "").rstrip(";").split(";\n")
    assert names == [f"log_{number}" for number in range(1, len(names) + 1)]
    assert row["won_bytes"] == sum(year.after[name] for name in names)


def test_rows_of_a_table_that_is_only_inserted_into_win_what_it_held_then(year, rows):
    row = rows["delete old rows", "public.orders"]
    then = [it for it in year.taken if (YEAR_END - it.at).days >= 90][-1]
    held = {it["relation"]: it["total_bytes"] for it in history.read_rows(then, "relation")}
    assert (row["won_bytes"], row["goes_to"], row["statement"]) == (held["public.orders"], "new rows", None)
    assert row["because"] == f"there on {then.at:%Y-%m-%d}, none changed since; by placed_at"
    assert ("delete old rows", "public.stock") not in rows


def test_retention_says_nothing_where_the_history_is_too_short(year, session):
    found = savings.savings(session, savings.ask_others(session), year.taken[-2:], retention_days=90)
    assert "delete old rows" not in {row["action"] for row in found}


def test_compression_is_no_more_than_a_bound(year, session, rows):
    (size,) = session.rows(
        "select pg_total_relation_size(reltoastrelid) as bytes from pg_class where oid = 'documents'::regclass"
    )
    row = rows["compress", "public.documents"]
    a_page_or_two = 3 * 8192  # autovacuum may have come by since the snapshot
    assert (row["won_bytes"], row["goes_to"]) == (pytest.approx(size["bytes"], abs=a_page_or_two), "disk, at most")
    assert row["statement"] == "alter table public.documents alter column body set storage extended;"


def test_vacuum_wins_room_for_new_rows(year, session, rows):
    (heap,) = session.rows("select pg_relation_size('stock') as bytes")
    row = rows["vacuum", "public.stock"]
    assert (row["won_bytes"], row["goes_to"]) == (pytest.approx(heap["bytes"] / 2, rel=0.02), "new rows")


def test_days_are_those_of_the_growth_of_the_whole_database(year, rows):
    row = rows["vacuum", "public.stock"]
    first, last = growth.database_sizes(year.taken)[:: len(year.taken) - 1]
    daily = (last["database_bytes"] - first["database_bytes"]) / 364
    assert row["days"] == pytest.approx(row["won_bytes"] / daily, rel=0.2)


def test_a_rewrite_wins_what_the_disk_really_gets_back(newest, empty_database, tmp_path):
    with (
        open_session(Target(name="tested", dsn=empty_database, thresholds=LIMITS)) as session,
        newest.connect(session.server.database) as owner,
    ):
        owner.execute("create table holes as select i, repeat('h', 100) as note from generate_series(1, 50000) as i")
        owner.execute("delete from holes where i % 3 > 0")
        owner.execute("vacuum analyze holes")
        history.record_snapshot(session, folder=tmp_path)
        taken, _ = history.snapshots(session, folder=tmp_path)
        (row,) = savings.savings(session, savings.ask_others(session), taken, retention_days=90)
        (before,) = owner.execute("select pg_relation_size('holes')").fetchone()
        owner.execute(row["statement"])
        (after,) = owner.execute("select pg_relation_size('holes')").fetchone()
    assert (row["action"], row["object"], row["days"]) == ("rewrite the table", "public.holes", None)
    assert row["won_bytes"] == pytest.approx(before - after, rel=0.05)


def test_nothing_is_won_without_a_snapshot(session):
    assert savings.savings(session, savings.ask_others(session), [], retention_days=90) == []


def test_old_partitions_of_the_shop_are_found_on_every_supported_server(server, tmp_path):
    with open_session(Target(name="tested", dsn=server.url())) as session:
        history.record_snapshot(session, folder=tmp_path)
        taken, _ = history.snapshots(session, folder=tmp_path)
        found = savings.savings(session, savings.ask_others(session), taken, retention_days=30)
    (row,) = [it for it in found if it["action"] == "drop old partitions"]
    assert (row["object"], row["goes_to"]) == ("shop.events", "disk")
    assert row["won_bytes"] > 1_000_000
