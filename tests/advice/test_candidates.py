"""Statements in, candidates out."""

import pytest

from pgrunbooks.advice.catalog import Existing

EXPECTED = [
    ("equality", "select * from orders where customer_id = $1", {"orders (customer_id)"}),
    (
        "equality before a range",
        "select * from orders where placed_at > $1 and customer_id = $2",
        {"orders (customer_id, placed_at)", "orders (placed_at)"},
    ),
    (
        "a sort after what is equal",
        "select * from orders where customer_id = $1 order by placed_at desc limit $2",
        {"orders (customer_id, placed_at)"},
    ),
    ("a sort with a limit", "select * from orders order by total desc limit 10", {"orders (total)"}),
    (
        "directions that differ",
        "select * from orders order by total desc, placed_at limit 10",
        {"orders (total, placed_at DESC)"},
    ),
    (
        "nulls where a btree does not have them",
        "select * from orders order by shipped_at desc nulls last limit 10",
        {"orders (shipped_at NULLS FIRST)"},
    ),
    (
        "both sides of a join",
        "select o.id from orders o join items i on i.order_id = o.id where i.product_id = $1",
        {"orders (id)", "items (order_id)", "items (product_id, order_id)"},
    ),
    (
        "a join by commas",
        "select o.id from orders o, customers c where c.id = o.customer_id and c.country = $1",
        {"orders (customer_id)", "customers (country)", "customers (country, id)"},
    ),
    (
        "each arm of an OR",
        "select * from orders where customer_id = $1 or total > $2",
        {"orders (customer_id)", "orders (total)"},
    ),
    ("a list", "select * from orders where customer_id in ($1, $2)", {"orders (customer_id)"}),
    ("a squashed list", "select * from orders where customer_id in ($1 /*, ... */)", {"orders (customer_id)"}),
    (
        "what an extension's type contains",
        "select * from customers where attributes @> $1",
        {"customers using gin (attributes)", "customers using gist (attributes)"},
    ),
    (
        "a network",
        "select * from customers where address << $1",
        {"customers (address)", "customers using gist (address inet_ops)"},
    ),
    ("an array", "select * from orders where customer_id = any($1)", {"orders (customer_id)"}),
    (
        "IS NOT NULL where few are",
        "select * from orders where customer_id = $1 and cancelled_at is not null",
        {"orders (customer_id) where cancelled_at IS NOT NULL"},
    ),
    (
        "IS NULL where few are",
        "select * from orders where shipped_at is null order by placed_at limit 10",
        {"orders (placed_at) where shipped_at IS NULL"},
    ),
    ("a rare flag", "select * from orders where urgent order by placed_at", {"orders (placed_at) where urgent"}),
    (
        "a rare literal",
        "select * from orders where status = 'open' order by placed_at",
        {"orders (placed_at) where status = 'open'"},
    ),
    ("an expression", "select * from customers where lower(email) = lower($1)", {"customers (lower(email))"}),
    (
        "an operator as an expression",
        "select * from customers c where c.profile ->> 'vat' = $1",
        {"customers ((profile ->> 'vat'))"},
    ),
    (
        "a prefix in a language's order",
        "select * from customers where email like 'abc%'",
        {"customers (email text_pattern_ops)"},
    ),
    ("an unknown pattern", "select * from customers where email like $1", {"customers (email text_pattern_ops)"}),
    ("a prefix in the order of bytes", "select * from customers where code like $1", {"customers (code)"}),
    (
        "containment in a document",
        "select * from customers where profile @> $1",
        {"customers using gin (profile jsonb_path_ops)", "customers using gin (profile)"},
    ),
    ("a key of a document", "select * from customers where profile ? $1", {"customers using gin (profile)"}),
    ("containment in an array", "select * from customers where tags && $1", {"customers using gin (tags)"}),
    ("overlapping ranges", "select * from customers where active_in && $1", {"customers using gist (active_in)"}),
    ("a column that follows the heap", "select * from orders where placed_at < $1", {"orders using brin (placed_at)"}),
    (
        "a CTE",
        "with mine as (select * from orders) select * from mine where customer_id = $1",
        {"orders (customer_id)"},
    ),
    (
        "a derived table",
        "select n from (select customer_id as who, total as n from orders) as x where x.who = $1",
        {"orders (customer_id)"},
    ),
    ("a view", "select * from open_orders where buyer = $1", {"orders (customer_id)"}),
    (
        "a set operation",
        "select id from orders where total = $1 union select id from customers where code = $2",
        {"orders (total)", "customers (code)"},
    ),
    (
        "USING",
        "select 1 from items join orders as o (order_id) using (order_id) where product_id = $1",
        {"items (product_id)"},
    ),
    ("GROUP BY", "select customer_id, count(*) from orders group by customer_id", {"orders (customer_id)"}),
    (
        "the latest of each",
        "select distinct on (customer_id) id from orders order by customer_id, placed_at desc",
        {"orders (customer_id, placed_at DESC)"},
    ),
    ("the last", "select max(total) from orders where customer_id = $1", {"orders (customer_id, total)"}),
    (
        "EXISTS",
        "select 1 from orders o where exists (select 1 from items i where i.order_id = o.id)",
        {"items (order_id)"},
    ),
    (
        "IN a query",
        "select 1 from orders where id in (select order_id from items where product_id = $1)",
        {"items (product_id)", "orders (id)"},
    ),
    ("UPDATE", "update orders set status = $1 where customer_id = $2", {"orders (customer_id)"}),
    (
        "DELETE with USING",
        "delete from items using orders o where o.id = order_id and o.total = $1",
        {"orders (total)", "items (order_id)"},
    ),
    (
        "an interval of which the literal is gone",
        "select * from orders where placed_at > now() - interval $1",
        {"orders (placed_at)"},
    ),
    (
        "a list of rows",
        "select * from orders where (customer_id, total) in (($1, $2), ($3, $4))",
        {"orders (total, customer_id)"},
    ),
    (
        "a row comparison",
        "select * from orders where (total, id) > ($1, $2) order by total, id limit 20",
        {"orders (total, id)"},
    ),
]


@pytest.mark.parametrize(("text", "expected"), [it[1:] for it in EXPECTED], ids=[it[0] for it in EXPECTED])
def test_a_statement_has_its_candidates(text, expected, proposed):
    assert expected - proposed(text) == set()


def test_a_covering_index_has_the_rest_of_what_is_read(proposed):
    text = "select sum(total) from orders where customer_id = $1"
    assert "orders (customer_id) include (total)" in proposed(text, covering=True)
    assert not any("include" in it for it in proposed(text))


def test_a_whole_row_is_never_covered(proposed):
    assert not any("include" in it for it in proposed("select * from orders where customer_id = $1", covering=True))


def test_a_wide_column_is_neither_key_nor_covered(proposed):
    assert proposed("select note from orders where note = $1", covering=True) == set()


def test_a_predicate_of_most_rows_makes_no_partial_index(proposed):
    assert not any(
        "where" in it for it in proposed("select * from orders where customer_id = $1 and cancelled_at is null")
    )


def test_trigrams_are_for_databases_that_have_them(proposed, catalog):
    text = "select * from customers where email ilike $1"
    assert proposed(text) == set()
    assert proposed(text, catalog(frozenset({"pg_trgm"}))) == {"customers using gin (email gin_trgm_ops)"}


def test_what_is_there_is_no_candidate(proposed, catalog):
    there = Existing("shop.i", "shop.orders", "btree", ("customer_id", "placed_at"), (), None, (), "", False, False, 0)
    text = "select * from orders where customer_id = $1 order by placed_at desc"
    assert proposed(text, catalog(indexes=(there,))) == {"orders (placed_at)"}


def test_what_begins_with_a_unique_key_is_no_candidate(proposed, catalog):
    there = Existing("shop.i", "shop.orders", "btree", ("id",), (), None, (), "", True, True, 0)
    text = "select sum(total) from orders where id = $1 and customer_id = $2"
    found = proposed(text, catalog(indexes=(there,)), covering=True)
    assert found == {it for it in proposed(text, covering=True) if not it.startswith("orders (id")}
    assert found


def test_a_constant_of_an_index_comes_back_into_the_statement(proposed, catalog):
    there = Existing(
        "shop.i",
        "shop.customers",
        "gin",
        ("to_tsvector('simple', email)",),
        (),
        None,
        ("to_tsvector('simple', email)",),
        "",
        False,
        False,
        0,
    )
    text = "select id from customers where to_tsvector($1, email) @@ plainto_tsquery($2, $3)"
    assert proposed(text, catalog(indexes=(there,))) == set()
