"""What was written: a rate of the window, and not what filled a table once."""

import dataclasses

import pytest

from pgrunbooks.advice.accesses import Write
from pgrunbooks.advice.writes import writes_of

INSERT = Write("shop.orders", "insert")


@pytest.mark.parametrize(
    ("inserted", "written", "entries"),
    [
        (1_000_000, [], 0),
        (1_000_000, [(1, 1_000_000)], 0),
        (1_000_000, [(1000, 1_000_000)], 0),
        (995_000, [(1, 995_000)], 0),  # of which ANALYZE made a million
        (1_000_000, [(1, 900_000), (100_000, 100_000)], 100_000),
        (1_000_000, [(20_000, 40_000)], 40_000),
        (3_000_000, [], 2_000_000),
        (1_000_000, [(1000, 3_000_000)], 2_000_000),
        (50_000, [], 50_000),  # counted since a reset
    ],
)
def test_what_filled_a_table_is_no_rate(inserted, written, entries, catalog):
    shop = catalog()
    table = dataclasses.replace(shop.tables["shop.orders"], inserted=inserted)
    shop = dataclasses.replace(shop, tables={"shop.orders": table})
    writes = writes_of(
        shop,
        [(INSERT, calls, float(rows)) for calls, rows in written],
        window_share=1.0,
        ms_per_cost=0.01,
        total_ms=1.0,
    )
    assert writes.entries["shop.orders"] == entries
