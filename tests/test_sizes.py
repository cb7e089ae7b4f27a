"""The size inventory: exact where nobody locks, estimated and still fast where somebody does."""

import threading
import time

import matplotlib.pyplot as plt
import psycopg
import pytest

from conftest import session_on
from pgrunbooks import plots, sizes
from pgrunbooks.sandbox import wait_until


def inventory(session):
    """Return relation -> record, and how long the inventory took in seconds."""
    start = time.monotonic()
    rows = sizes.size_inventory(session)
    return {row["relation"]: row for row in rows}, time.monotonic() - start


def total(session, relation):
    (row,) = session.rows("select pg_total_relation_size(%(relation)s::regclass) as bytes", {"relation": relation})
    return row["bytes"]


def test_the_parts_sum_up_to_what_the_server_says_of_every_table(session):
    rows, _ = inventory(session)
    for relation, row in rows.items():
        parts = sum(row[part] for part in ("heap_bytes", "toast_bytes", "index_bytes", "fsm_vm_bytes"))
        assert (row["total_bytes"], row["estimated"]) == (total(session, relation), False), relation
        assert parts == row["total_bytes"], relation
    known = session.rows("select relid::regclass::text as relation from pg_stat_user_tables where relid <> 0")
    known = {row["relation"] for row in known if "." in row["relation"]}
    assert {relation for relation in rows if relation.startswith("shop.")} == known - {"shop.events"}


def test_each_part_is_what_the_server_says(session):
    row = inventory(session)[0]["shop.audit_log"]
    (facts,) = session.rows(
        "select pg_relation_size(c.oid) as heap, pg_indexes_size(c.oid) as index,"
        " pg_total_relation_size(c.reltoastrelid) as toast, reltuples::int8 as rows"
        " from pg_class c where oid = 'shop.audit_log'::regclass"
    )
    measured = {name: row[f"{name}_bytes"] for name in ("heap", "index", "toast")}
    assert {**measured, "rows": row["rows"]} == facts
    assert (row["kind"], row["parent"]) == ("table", None)


class TestALockInTheWay:
    def test_held_on_a_table_costs_no_time_and_leaves_an_estimate(self, server, session):
        with server.connect() as other, other.transaction():
            other.execute("lock table shop.orders in access exclusive mode")
            rows, seconds = inventory(session)
        (pages,) = session.rows(
            "select sum(relpages) * 8192 as bytes from pg_class c where c.oid = 'shop.orders'::regclass"
            " or c.oid in (select indexrelid from pg_index where indrelid = 'shop.orders'::regclass)"
        )
        assert seconds < 2
        assert [relation for relation, row in rows.items() if row["estimated"]] == ["shop.orders"]
        assert rows["shop.orders"]["heap_bytes"] + rows["shop.orders"]["index_bytes"] == pages["bytes"] > 0

    def test_merely_waited_for_counts_as_well(self, server, session):
        with server.connect() as reader, server.connect() as migration, reader.transaction():
            reader.execute("select from shop.orders limit 1")
            pid = migration.info.backend_pid

            def migrate():
                with pytest.raises(psycopg.errors.QueryCanceled):
                    migration.execute("alter table shop.orders add column note text")

            thread = threading.Thread(target=migrate)
            thread.start()
            try:
                with server.connect() as watcher:
                    waits = "select count(*) > 0 from pg_locks where pid = %s and not granted"
                    wait_until(watcher, waits, [pid])
                rows, seconds = inventory(session)
            finally:
                migration.cancel_safe()
                thread.join()
        assert seconds < 2
        assert [relation for relation, row in rows.items() if row["estimated"]] == ["shop.orders"]

    def test_on_a_partitioned_table_covers_its_partitions(self, server, session):
        with server.connect() as other, other.transaction():
            other.execute("lock table only shop.events in access exclusive mode")
            rows, _ = inventory(session)
        estimated = {row["parent"] for row in rows.values() if row["estimated"]}
        assert estimated == {"shop.events"}
        assert all(row["estimated"] for row in rows.values() if row["parent"] == "shop.events")

    def test_on_one_index_leaves_the_table_itself_exact(self, server, session):
        exact, _ = inventory(session)
        with server.connect() as other, other.transaction():
            other.execute("reindex index shop.orders_pkey")
            rows, seconds = inventory(session)
        assert seconds < 2
        assert rows["shop.orders"]["estimated"]
        assert rows["shop.orders"]["heap_bytes"] == exact["shop.orders"]["heap_bytes"]

    def test_that_comes_in_between_is_narrowed_down_by_halving(self, server, session, monkeypatch):
        exact, _ = inventory(session)
        monkeypatch.setattr(sizes, "_LOCKED", "select 0::int8 as oid where %(modes)s::text[] is null")
        with server.connect() as other, other.transaction():
            other.execute("lock table shop.orders in access exclusive mode")
            rows, seconds = inventory(session)
        assert seconds < 10
        assert [relation for relation, row in rows.items() if row["estimated"]] == ["shop.orders"]
        assert {**rows, "shop.orders": None} == {**exact, "shop.orders": None}


def test_a_table_that_is_dropped_meanwhile_is_left_out(empty_database, monkeypatch):
    with psycopg.connect(empty_database, autocommit=True) as owner, session_on(empty_database) as session:
        owner.execute("create table stays (a int primary key); create table goes (a int primary key)")
        ask = session.rows

        def ask_and_drop(sql, *arguments, **options):
            rows = ask(sql, *arguments, **options)
            if sql == sizes._TABLES:
                owner.execute("drop table if exists goes")
            return rows

        monkeypatch.setattr(session, "rows", ask_and_drop)
        rows, _ = inventory(session)
    assert "public.stays" in rows
    assert "public.goes" not in rows


def test_rows_that_nobody_counted_are_the_live_tuples(empty_database):
    with psycopg.connect(empty_database, autocommit=True) as owner, session_on(empty_database) as session:
        owner.execute("create table fresh (a int) with (autovacuum_enabled = off)")
        owner.execute("insert into fresh select generate_series(1, 500)")
        wait_until(owner, "select n_live_tup = 500 from pg_stat_user_tables where relname = 'fresh'")
        row = inventory(session)[0]["public.fresh"]
    assert (row["rows"], row["n_live"], row["inserted"], row["last_vacuum"]) == (500, 500, 500, None)


def test_odd_names_are_quoted_as_the_server_would(empty_database):
    names = ["Order Items", 'with "quotes"', "select", "a.b", "größe_$x$", "y" * 63, "100%"]
    with psycopg.connect(empty_database, autocommit=True) as owner, session_on(empty_database) as session:
        owner.execute('create schema "Weird Schema"')
        for name in names:
            quoted = psycopg.sql.Identifier("Weird Schema", name)
            owner.execute(psycopg.sql.SQL("create table {} (a text)").format(quoted))
        rows, _ = inventory(session)
        answer = session.rows("select quote_ident(relname) as name from pg_class where relkind = 'r'")
        known = {row["name"] for row in answer}
        odd = [row for row in rows.values() if row["schema"] == '"Weird Schema"']
        assert len(odd) == len(names)
        assert {row["name"] for row in odd} <= known
        assert all(row["total_bytes"] == total(session, row["relation"]) for row in odd)
        axes = plots.size_by_kind(odd)
        axes.figure.canvas.draw()
        plt.close(axes.figure)


def test_kinds_tell_tables_materialized_views_partitions_and_temporary_tables_apart(empty_database):
    with psycopg.connect(empty_database, autocommit=True) as owner, session_on(empty_database) as session:
        owner.execute("create materialized view summary as select 1 as one; create temp table scratch (a int)")
        owner.execute("create table root (a int) partition by list (a)")
        owner.execute("create table middle partition of root for values in (1, 2) partition by list (a)")
        owner.execute("create table leaf partition of middle for values in (1)")
        rows, _ = inventory(session)
    kinds = {row["name"]: (row["kind"], row["parent"]) for row in rows.values()}
    assert kinds["summary"] == ("matview", None)
    assert kinds["scratch"] == ("temporary", None)
    assert kinds["leaf"] == ("partition", "public.root")
    assert not {"root", "middle"} & set(kinds)


def test_pages_hold_every_relation_once(session):
    whole = session.rows(sizes._TABLES, {"after": 0, "most": 10_000})
    paged = [row for page in sizes.pages(session, sizes._TABLES, 7) for row in page]
    assert [row["oid"] for row in paged] == [row["oid"] for row in whole]


class TestRolledUp:
    def test_partitions_count_for_their_root(self, session):
        tables = {row["relation"]: row for row in sizes.rolled_up(sizes.size_inventory(session))}
        (facts,) = session.rows(
            "select count(*) as partitions, sum(pg_total_relation_size(relid)) as total_bytes"
            " from pg_partition_tree('shop.events') where isleaf"
        )
        assert {name: tables["shop.events"][name] for name in facts} == facts

    def test_nothing_is_lost_and_the_rest_is_one_line(self, session):
        rows = sizes.size_inventory(session)
        everything = sum(row["total_bytes"] for row in rows)
        tables = sizes.rolled_up(rows, most=3)
        assert len(tables) == 4
        assert tables[-1]["relation"].endswith("other tables")
        assert sum(row["total_bytes"] for row in tables) == everything
        assert "system catalogs" in {row["relation"] for row in sizes.rolled_up(rows)}


def test_the_plot_claims_what_the_largest_table_takes(session):
    axes = plots.size_by_kind(sizes.size_inventory(session))
    assert axes.get_title(loc="left").startswith("shop.order_items takes ")
    plt.close(axes.figure)
    axes = plots.size_by_kind([])
    assert axes.get_title(loc="left") == "Nothing is stored"
    plt.close(axes.figure)
