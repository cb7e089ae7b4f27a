import pytest

from pgrunbooks.advice.statement import names_for, read_index
from pgrunbooks.errors import LabError
from pgrunbooks.lab import Index


@pytest.mark.parametrize(
    "statement",
    [
        "create index on shop.orders (status, placed_at)",
        "create unique index on shop.customers ((lower(email)))",
        'create index on "Weird Schema"."Order Items" ("Line No" DESC) include (price)',
        "create index on shop.docs using gin (body jsonb_path_ops)",
        "create index on shop.orders (placed_at) where status = 'open' AND total > 3",
    ],
)
def test_a_statement_is_read_as_it_is_written(statement):
    assert read_index(statement).statement(concurrently=False) == statement


def test_what_a_trial_has_no_use_for_is_left_out():
    index = read_index("create index concurrently if not exists mine on orders using btree (a) with (fillfactor = 70)")
    assert index == Index("orders", ("a",))


@pytest.mark.parametrize(
    "text", ["", "drop table shop.orders", "select 1; create index on a (b)", "create index on", "?"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(LabError, match=r"^needs one CREATE INDEX statement"):
        read_index(text)


def test_names_are_postgresql_s_own_and_free():
    orders = Index("shop.orders", ("status", "placed_at DESC"))
    open_orders = Index("shop.orders", ("status", "placed_at DESC"), where="status = 'open'")
    email = Index('"Weird Schema"."Order Items"', ("(lower(email)) text_pattern_ops",))
    cast = Index("shop.orders", ("upper(CAST(status AS text))",))
    names = names_for([orders, open_orders, email, cast], {"orders_status_placed_at_idx"})
    assert names[orders] == "shop.orders_status_placed_at_idx1"
    assert names[open_orders] == "shop.orders_status_placed_at_idx2"
    assert names[email] == '"Weird Schema".order_items_lower_email_idx'
    assert names[cast] == "shop.orders_upper_status_idx"


def test_a_long_name_keeps_its_end():
    index = Index("shop.t", tuple(f"a_rather_long_column_{number}" for number in range(9)))
    (name,) = names_for([index], set()).values()
    assert len(name) == len("shop.") + 63
    assert name.endswith("_idx")
