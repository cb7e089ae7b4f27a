"""The sample data: the same healthy shop each time, and an application that can be stopped."""

import time
from collections.abc import Callable, Iterator
from random import Random

import psycopg
import pytest

from pgrunbooks import sample_data
from pgrunbooks.sandbox import Sandbox

TABLES = ("customers", "products", "orders", "order_items", "payments", "events", "audit_log")
SHOP_SESSIONS = "from pg_stat_activity where datname = current_database() and application_name = 'shop'"


@pytest.fixture(scope="module")
def shop(newest: Sandbox) -> Iterator[str]:
    """The libpq URL of one loaded shop for the whole module, apart from the sandbox's own."""
    with newest.connect("postgres") as connection:
        connection.execute("create database worked_on")
        yield loaded(newest.url("worked_on"))
        connection.execute("drop database worked_on with (force)")


def loaded(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        sample_data.load(connection)
    return url


def ask(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def wait_until(url: str, condition: str) -> None:
    deadline = time.monotonic() + 10
    while ask(url, condition) != [(True,)]:
        assert time.monotonic() < deadline, f"not true within 10 s: {condition}"


def test_the_shop_holds_about_a_million_rows(shop: str) -> None:
    counts = " union all ".join(f"select count(*) as rows from shop.{table}" for table in TABLES)
    [(total,)] = ask(shop, f"select sum(rows)::bigint from ({counts}) counted")
    assert total == pytest.approx(1_000_000, rel=0.01)


def test_two_loads_give_the_same_rows(make_empty_database: Callable[[], str]) -> None:
    digests = " union all ".join(
        f"select '{table}', sum(hashtextextended(t::text, 0)) from shop.{table} t" for table in TABLES
    )
    digests += " order by 1"  # the parts run in parallel and come back in any order
    first, second = (ask(loaded(make_empty_database()), digests) for _ in range(2))
    assert first == second


def test_every_foreign_key_has_an_index(shop: str) -> None:
    unindexed = """
        select conrelid::regclass, conname from pg_constraint
        where contype = 'f' and not exists (
            select from pg_index
            where indrelid = conrelid and indisvalid and indpred is null
                and (string_to_array(indkey::text, ' ')::smallint[])[:cardinality(conkey)] = conkey)
    """
    assert ask(shop, unindexed) == []


def test_no_row_is_in_the_default_partition(shop: str) -> None:
    assert ask(shop, "select count(*) from shop.events_default") == [(0,)]


@pytest.mark.parametrize("statement", sample_data.STATEMENTS, ids=lambda statement: statement.name)
def test_no_statement_reads_a_large_table_whole(shop: str, statement: sample_data.Statement) -> None:
    large = {name for (name,) in ask(shop, "select relname from pg_class where reltuples > 1000")}
    with psycopg.connect(shop, autocommit=True) as connection:
        plan = connection.execute(f"explain {statement.sql}", statement.parameters(Random(1))).fetchall()
    read_whole = {line.split(" on ")[1].split()[0] for (line,) in plan if "Seq Scan on" in line}
    assert not read_whole & large


def test_a_connection_that_opens_transactions_is_refused(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection, pytest.raises(ValueError, match="autocommit"):
        sample_data.load(connection)


def test_the_workload_executes_each_statement_and_counts_them(shop: str) -> None:
    counted = """
        select count(*), sum(calls)::bigint
        from pg_stat_statements join pg_database on pg_database.oid = dbid
        where datname = current_database() and query like '%shop.%'
    """
    reset = "select pg_stat_statements_reset(0, oid, 0) from pg_database where datname = current_database()"
    ask(shop, reset)
    assert sample_data.run_workload(shop, calls=2000) == 2000
    assert ask(shop, counted) == [(len(sample_data.STATEMENTS), 2000)]


def test_the_workload_ends_when_its_time_is_up(shop: str) -> None:
    started = time.monotonic()
    assert sample_data.run_workload(shop, seconds=0.2) > 0
    assert time.monotonic() - started < 2


def test_the_background_workload_stops_within_a_second_behind_a_lock(shop: str) -> None:
    with psycopg.connect(shop) as holder:
        holder.execute("lock table shop.orders, shop.products, shop.customers, shop.events, shop.order_items")
        with sample_data.workload(shop):
            wait_until(shop, f"select count(*) = 2 {SHOP_SESSIONS} and wait_event_type = 'Lock'")
            started = time.monotonic()
        assert time.monotonic() - started < 1
    wait_until(shop, f"select count(*) = 0 {SHOP_SESSIONS}")


def test_a_terminated_client_comes_back(shop: str, capfd: pytest.CaptureFixture[str]) -> None:
    with sample_data.workload(shop):
        first = {pid for (pid,) in ask(shop, f"select pid {SHOP_SESSIONS}")}
        ask(shop, f"select pg_terminate_backend(pid) from unnest('{first}'::integer[]) pid")
        wait_until(shop, f"select count(*) = 2 {SHOP_SESSIONS} and pid <> all ('{first}')")
    assert capfd.readouterr().err == ""
