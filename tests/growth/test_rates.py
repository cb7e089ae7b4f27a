"""What was written a day, told from the counters of real snapshots."""

import datetime

from conftest import visit
from pgrunbooks import growth, history

MONDAY = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)


class TestWriteRates:
    def test_are_differences_of_the_counters_a_day(self, year):
        rows = growth.write_rates(year.taken)
        positions = [history.read_rows(it, "cluster")[0]["wal_bytes"] for it in year.taken]
        assert [row["wal_daily_bytes"] for row in rows[-2:]] == [
            (positions[-2] - positions[-3]) / 21,
            (positions[-1] - positions[-2]) / 7,
        ]
        assert [(row["before"], row["taken_at"]) for row in rows][-1] == (year.taken[-2].at, year.taken[-1].at)

    def test_see_temporary_files_and_no_rate_over_a_reset(self, own, remember):
        owner, _ = own
        remember(0)
        owner.execute("set work_mem = '64kB'")
        owner.execute("select count(*) from (select i from generate_series(1, 100000) as i order by -i) as s")
        owner.execute("select pg_stat_force_next_flush()")
        remember(2)
        owner.execute("select pg_stat_reset()")
        visit(owner, 100)
        first, second = growth.write_rates(remember(3))
        assert first["temp_daily_bytes"] > 500_000
        assert second["temp_daily_bytes"] is None
        assert second["wal_daily_bytes"] > 0

    def test_leave_out_what_follows_within_minutes(self, remember):
        for minute in (0, 5, 60):
            taken = remember(minute / 1440)
        (row,) = growth.write_rates(taken)
        assert row["taken_at"] == MONDAY + datetime.timedelta(hours=1)
