"""The one look at the catalog that the index checks share."""

from conftest import diagnose
from pgrunbooks import sample_data
from pgrunbooks.check import registry
from pgrunbooks.checks._indexes import definition, name, undo
from pgrunbooks.drills import Actors
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target


def inventory(server, **settings):
    target = Target.model_validate({"name": "tested", "dsn": server.url(), **settings})
    with open_session(target) as session:
        sql = registry()["duplicate-index"].sql_for(session.server.major)
        return {row["index"]: row for row in session.rows(sql)}


def test_every_check_reads_the_same_look(codes):
    shared = [registry()[code].sql for code in codes if code != "missing-fk-index"]
    assert all(sql is shared[0] for sql in shared)


def test_the_rows_are_those_that_the_judges_are_tested_with(server, index_row):
    assert set(inventory(server)["shop.orders_pkey"]) == set(index_row())


def test_definitions_read_as_the_server_prints_them(server, build):
    build(
        'create table t (a integer, b text, c varchar(9), d point, e text collate "C", f integer[])',
        "create index on t (a desc, b nulls first, c desc nulls last)",
        'create index on t (b text_pattern_ops, c varchar_pattern_ops, e collate "POSIX")',
        "create unique index on t (a) include (b, c) nulls not distinct"
        " with (fillfactor = 70, deduplicate_items = off)",
        "create index on t using gin (f) with (fastupdate = off)",
        "create index on t using gist (d)",
        "create index on t using hash (b)",
        "create index on t using brin (a, b) with (pages_per_range = 16)",
        "create index on t (lower(b), (a + 1)) where c is not null",
    )
    with server.connect() as session:
        query = "select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'lab.t'::regclass"
        printed = {text for (text,) in session.execute(query)}
    rows = [row for row in inventory(server).values() if row["table"] == "lab.t"]
    assert {definition(row) for row in rows} == printed
    assert sum(row["definition"] is not None for row in rows) == 1  # the one with expressions


def test_a_catalog_of_locked_tables_and_waiting_builds_is_read_without_waiting(server, codes):
    with Actors(server) as stage:
        tables = "shop.customers, shop.orders, shop.events, shop.order_items"
        stage.enter("migration", "begin", f"lock table {tables} in access exclusive mode")
        stage.block("reader", "select count(*) from shop.orders")
        stage.enter("worker", "begin", "update shop.payments set amount = amount where id = 1")
        stage.block("dba", "create index concurrently payments_amount_idx on shop.payments (amount)")
        stage.block("dba", "create index products_price_idx on shop.payments (payment_method)")
        verdict = diagnose(server, *codes, lock_timeout="50ms")
        rows = inventory(server, lock_timeout="50ms")
    with server.connect() as session:
        session.execute("drop index if exists shop.payments_amount_idx")
    assert {it.outcome for it in verdict.checks} == {"ok"}, verdict.checks
    assert rows["shop.payments_amount_idx"]["build"] == "running"
    locked = rows["shop.orders_open_idx"]
    assert definition(locked).endswith("(customer_id, placed_at) WHERE (...)")
    assert "pg_get_indexdef" in undo(locked)
    assert rows["shop.products_search_idx"]["definition"].endswith(
        "USING gin (to_tsvector('simple'::regconfig, title))"
    )


def test_the_catalogs_and_temporary_tables_are_left_out(server):
    with server.connect() as session:
        session.execute("create temporary table scratch (id integer primary key)")
        assert {index.split(".")[0] for index in inventory(server)} == {"shop", "public"}


def test_partitions_name_the_root_of_their_family(server, build):
    build(
        "create table events (id integer, at date) partition by range (at)",
        "create table events_1 partition of events for values from ('2026-01-01') to ('2027-01-01')"
        " partition by list (id)",
        "create table events_1a partition of events_1 for values in (1)",
        "create index events_idx on events (at)",
    )
    rows = {index: row for index, row in inventory(server).items() if row["table"].startswith("lab.")}
    root = rows.pop("lab.events_idx")
    assert {row["table"] for row in rows.values()} == {"lab.events_1", "lab.events_1a"}
    assert {row["root_index_oid"] for row in rows.values()} == {root["index_oid"]}
    assert {row["root_table"] for row in rows.values()} == {"lab.events"}


def test_names_are_quoted_as_quote_ident_would(server, build):
    build(
        'create schema "Odd ""Schéma"',
        'create table "Odd ""Schéma"."Order Items" ("select" integer, "ünï" integer)',
        'create index "it\'s a ""b.c""" on "Odd ""Schéma"."Order Items" ("select", "ünï")',
    )
    row = inventory(server)['"Odd ""Schéma"."it\'s a ""b.c"""']
    assert row["table"] == '"Odd ""Schéma"."Order Items"'
    assert (name(row), row["columns"]) == ('"it\'s a ""b.c"""', '"select", "ünï"')


def test_the_shop_is_well_before_and_after_it_has_worked(server, codes):
    for _ in range(2):
        verdict = diagnose(server, *codes)
        assert [it for it in verdict.findings if it.severity != "info"] == []
        assert {it.outcome for it in verdict.checks} <= {"ok", "found"}
        sample_data.run_workload(server.url(), calls=400)


def test_operators_that_an_extension_adds_are_not_taken_for_the_server_s_own(server, codes):
    with server.connect() as owner:
        owner.execute("create extension intarray")
        try:
            assert [it.reason for it in diagnose(server, *codes).checks if it.outcome == "failed"] == []
        finally:
            owner.execute("drop extension intarray")
