"""What grew, told from real snapshots of a database that changes."""

import datetime

import pytest

from conftest import visit
from pgrunbooks import growth, history

MONDAY = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


class TestGrowth:
    def test_is_the_difference_of_two_real_snapshots(self, own, folder):
        owner, session = own
        history.record_snapshot(session, at=MONDAY, folder=folder)
        before = owner.execute("select pg_total_relation_size('visits')").fetchone()[0]
        visit(owner, 20_000)
        history.record_snapshot(session, at=MONDAY + 4 * DAY, folder=folder)
        after = owner.execute("select pg_total_relation_size('visits')").fetchone()[0]
        taken, _ = history.snapshots(session, folder=folder)
        row = growth.growth(taken)[0]
        assert row["relation"] == "public.visits"
        assert (row["first_bytes"], row["previous_bytes"], row["last_bytes"]) == (before, before, after)
        assert row["grown_bytes"] == after - before > 10_000_000
        assert row["daily_bytes"] == pytest.approx((after - before) / 4)
        assert next(it["relation"] for it in growth.growers(taken)) == "public.visits"

    def test_sees_what_appeared_and_what_was_dropped(self, own, folder):
        owner, session = own
        owner.execute("create table old (a int primary key)")
        history.record_snapshot(session, at=MONDAY, folder=folder)
        owner.execute("drop table old; create table new (a int primary key)")
        history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        rows = {row["relation"]: row for row in growth.growth(history.snapshots(session, folder=folder)[0])}
        new, old = rows["public.new"], rows["public.old"]
        assert (new["first_bytes"], new["last_bytes"], new["grown_bytes"]) == (None, 8192, 8192)
        assert (old["first_bytes"], old["last_bytes"], old["grown_bytes"]) == (8192, None, -8192)

    def test_counts_partitions_for_their_root_unless_told_not_to(self, own, folder):
        owner, session = own
        owner.execute("create table log (a int) partition by list (a); create table log_1 partition of log for values in (1)")  # fmt: skip
        history.record_snapshot(session, at=MONDAY, folder=folder)
        owner.execute("create table log_2 partition of log for values in (2); insert into log select 2 from generate_series(1, 1000)")  # fmt: skip
        history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        taken, _ = history.snapshots(session, folder=folder)
        rolled = {row["relation"]: row for row in growth.growth(taken)}
        single = {row["relation"]: row for row in growth.growth(taken, roll_up=False)}
        assert "public.log_2" not in rolled
        assert rolled["public.log"]["partitions"] == 2
        assert rolled["public.log"]["grown_bytes"] == single["public.log_2"]["grown_bytes"] > 0

    def test_of_less_than_an_hour_has_no_rate_and_no_previous(self, own, folder):
        owner, session = own
        history.record_snapshot(session, at=MONDAY, folder=folder)
        visit(owner, 1000)
        history.record_snapshot(session, at=MONDAY + HOUR / 2, folder=folder)
        row = growth.growth(history.snapshots(session, folder=folder)[0])[0]
        assert row["grown_bytes"] > 0
        assert (row["daily_bytes"], row["previous_bytes"]) == (None, None)

    def test_says_which_sizes_were_estimated(self, own, folder):
        owner, session = own
        history.record_snapshot(session, at=MONDAY, folder=folder)
        with owner.transaction():
            owner.execute("lock table visits in access exclusive mode")
            history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        rows = growth.growth(history.snapshots(session, folder=folder)[0])
        assert [row["relation"] for row in rows if row["estimated"]] == ["public.visits"]

    @pytest.mark.parametrize("count", [0, 1])
    def test_is_never_invented_where_there_is_no_past(self, own, folder, count):
        _, session = own
        for _ in range(count):
            history.record_snapshot(session, at=MONDAY, folder=folder)
        taken, warnings = history.snapshots(session, folder=folder)
        assert (len(taken), warnings) == (count, [])
        assert growth.growth(taken) == growth.growers(taken) == []
        assert history.since(session, folder=folder, now=MONDAY) is None
