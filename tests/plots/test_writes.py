"""The picture of what is written a day: the claim, the gaps, and an honest nothing."""

from pgrunbooks import plots
from pictures import sizes, title


class TestWriteRates:
    def rows(self, wal, temp):
        times = [at for at, _ in sizes(*range(len(wal) + 1))]
        return [
            {"before": times[i], "taken_at": times[i + 1], "wal_daily_bytes": wal[i], "temp_daily_bytes": temp[i]}
            for i in range(len(wal))
        ]

    def test_claims_the_median_and_the_most_of_both(self):
        axes = plots.write_rates(self.rows([1 << 30] * 4 + [5 << 30], [0, 0, None, 0, 0]))
        assert title(axes) == "WAL: 1 GB a day, at most 5 GB"
        axes = plots.write_rates(self.rows([1 << 30] * 2, [2 << 20] * 2))
        assert title(axes) == "WAL: 1 GB a day; temporary files: 2 MB a day"

    def test_leaves_a_gap_where_a_rate_is_not_known(self):
        axes = plots.write_rates(self.rows([1 << 30, None, 1 << 30], [None] * 3))
        assert len(axes.collections) == 2

    def test_without_a_rate_it_says_so(self):
        assert title(plots.write_rates([])).startswith("No rate yet")
        assert title(plots.write_rates(self.rows([0], [0]))) == "Neither WAL nor temporary files were written"
