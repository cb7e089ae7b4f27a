"""Playgrounds: what a walkthrough may change, and that nothing of it stays."""

import datetime

import pytest

from pgrunbooks import sample_data
from pgrunbooks.errors import ConfigurationError, SandboxError
from pgrunbooks.growth import database_sizes
from pgrunbooks.playground import Past, Playground, shop
from pgrunbooks.sandbox import default_sandbox

COUNTED = """
select coalesce(sum(s.calls), 0)::int8 as calls
from pg_stat_statements as s
join pg_database as d on d.oid = s.dbid
where d.datname = current_database() and s.query ilike '%shop.%'
"""


def databases():
    with default_sandbox().start().connect("postgres") as connection:
        return {name for (name,) in connection.execute("select datname from pg_database")}


@pytest.fixture(autouse=True)
def _history(tmp_path, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "history"))


def test_a_past_lives_its_days_by_a_clock_of_its_own():
    past = Past(days_ago=30)
    past.live([100, 200, 300])
    taken = past.taken()
    past.playground.close()
    first, second, third = (it.at for it in taken)
    assert (second - first, third - second) == (datetime.timedelta(days=1), datetime.timedelta(days=1))
    assert abs(first - datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=29)) < datetime.timedelta(
        minutes=5
    )
    sizes = [row["database_bytes"] for row in database_sizes(taken)]
    assert sizes == sorted(set(sizes))
    assert third == past.clock


def test_what_was_lived_is_forgotten_with_the_database():
    for _ in range(2):
        past = Past(days_ago=3)
        past.live([10])
        assert len(past.taken()) == 1
        past.playground.close()
        assert past.playground.name not in databases()


def test_a_playground_that_was_left_behind_is_made_anew():
    first = Playground("left_behind")
    first.run("create table mine ()")
    first.connection.close()
    again = Playground("left_behind")
    again.run("create table mine ()")
    with pytest.raises(SandboxError, match='PostgreSQL refuses: relation "mine" already exists'):
        again.run("create table mine ()")
    again.close()


def test_a_playground_never_takes_the_place_of_the_shop():
    with pytest.raises(ConfigurationError, match="the database shop has to stay"):
        Playground("shop")
    assert "shop" in databases()


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_second_shop_is_worked_in_and_the_first_one_stays_as_it_is(is_busy, monkeypatch):
    monkeypatch.setattr(sample_data, "ROWS", dict.fromkeys(sample_data.ROWS, 100))
    sandbox = default_sandbox().start()
    with sandbox.connect("shop" if is_busy else "postgres"):
        second = shop()
        second.run("drop index shop.orders_placed_at_idx")
        second.work(calls=20)
        with second.session() as session:
            assert session.rows(COUNTED)[0]["calls"] >= 20
            second.forget_counts()
            assert session.rows(COUNTED)[0]["calls"] == 0
        second.close()
    assert second.name not in databases()
    with sandbox.connect() as connection:
        assert connection.execute("select 'shop.orders_placed_at_idx'::regclass").fetchone()
