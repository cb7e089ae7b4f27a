from math import exp

import pytest

from pgrunbooks.index_size import likely_distinct


def sampled(possible, rows, sample=30_000):
    """Return what ANALYZE would say of rows that fell to so many values by chance."""
    once = sample * exp(-sample / possible)
    seen = possible * (1 - exp(-sample / possible))
    return sample * seen / (sample - once + once * sample / rows)


@pytest.mark.parametrize("possible", [1_000, 80_000, 320_000, 2_000_000])
def test_what_a_sample_did_not_see_is_added(possible):
    rows = 320_000
    there = possible * (1 - exp(-rows / possible))
    assert likely_distinct(sampled(possible, rows), rows) == pytest.approx(there, rel=0.01)


def test_a_table_that_was_read_whole_is_believed():
    assert likely_distinct(9_000, 30_000) == 9_000


def test_a_unique_column_stays_unique():
    assert likely_distinct(320_000, 320_000) == 320_000
