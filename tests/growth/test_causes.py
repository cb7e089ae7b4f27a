"""Why it grew: told from a year of real snapshots, and from pasts that are shorter."""

import pytest

from conftest import visit
from pgrunbooks import growth


def test_an_estimated_size_is_marked_in_what_it_grew_by(own, remember):
    owner, _ = own
    visit(owner, 1000)
    remember(0)
    with owner.transaction():
        owner.execute("lock table visits in access exclusive mode")
        taken = remember(7)
    rows = growth.attribution(growth.compared(taken, 7))
    assert [row["relation"] for row in rows if row["estimated"]] == ["public.visits"]


def by_relation(rows):
    return {row["relation"]: row for row in rows}


class TestWhatIsCompared:
    def test_is_the_snapshot_nearest_to_the_report_before_and_the_newest(self, year):
        ages = [(year.taken[-1].at - growth.compared(year.taken, days)[0].at).days for days in (0, 7, 20, 30, 9999)]
        assert ages == [7, 7, 28, 28, 364]
        assert growth.compared(year.taken, 7)[1] == year.taken[-1]

    def test_is_nothing_without_one_that_is_an_hour_older(self, remember):
        assert growth.compared([], 7) == growth.compared(remember(0), 7) == growth.compared(remember(1 / 48), 7) == []
        assert len(growth.compared(remember(1 / 12), 7)) == 2

    def test_is_never_a_damaged_file(self, own, folder, remember, caplog):
        remember(0)
        remember(4)
        taken = remember(7)
        content = bytearray(taken[0].path.read_bytes())
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        content[4:footer] = b"\xff" * (footer - 4)
        taken[0].path.write_bytes(content)
        assert growth.compared(taken, 7) == taken[1:]
        assert str(taken[0].path) in caplog.text


class TestAttribution:
    @pytest.fixture
    def rows(self, year):
        return by_relation(growth.attribution(growth.compared(year.taken, 7), most=20))

    def test_adds_up_to_what_each_table_and_the_database_grew_by(self, year, rows):
        assert all(sum(row[part] for part in growth.PARTS) == row["grown_bytes"] for row in rows.values())
        assert sum(row["grown_bytes"] for row in rows.values()) == year.after[""] - year.before[""]
        assert sum(row["last_bytes"] for row in rows.values()) == year.after[""]
        for name in ("orders", "tickets", "stock", "documents"):
            assert rows[f"public.{name}"]["grown_bytes"] == year.after[name] - year.before[name]

    @pytest.mark.parametrize("most", [1, 3, 5])
    def test_adds_up_however_few_are_named(self, year, most):
        rows = growth.attribution(growth.compared(year.taken, 7), most)
        assert sum(row["grown_bytes"] for row in rows) == year.after[""] - year.before[""]
        assert len(rows) == most + 2
        assert rows[-2]["relation"].endswith(" other tables")

    def test_tells_more_rows_from_bloat_and_indexes(self, rows):
        orders, stock = rows["public.orders"], rows["public.stock"]
        heap = orders["rows_bytes"] + orders["bloat_bytes"]
        assert orders["rows_bytes"] == pytest.approx(heap, rel=0.05)
        assert orders["index_bytes"] > 50_000
        assert (stock["rows_bytes"], stock["new_bytes"], stock["toast_bytes"]) == (0, 0, 0)
        assert stock["bloat_bytes"] == pytest.approx(20_000 * 140, rel=0.1)

    def test_tells_toast_from_the_heap(self, rows):
        row = rows["public.documents"]
        assert row["toast_bytes"] > 0.9 * row["grown_bytes"] > 100_000

    def test_tells_what_is_new_and_what_was_dropped_partitions_under_their_root(self, year, rows):
        assert rows["public.fresh"]["new_bytes"] == year.after["fresh"] == rows["public.fresh"]["grown_bytes"]
        assert rows["public.gone"]["dropped_bytes"] == -year.before["gone"] == rows["public.gone"]["grown_bytes"]
        log = rows["public.log"]
        assert (log["new_bytes"], log["dropped_bytes"]) == (year.after["log_14"], -year.before["log_0"])
        assert not [name for name in rows if name.startswith("public.log_")]

    def test_a_rate_is_that_of_the_time_in_between(self, rows):
        assert rows["public.stock"]["daily_bytes"] == rows["public.stock"]["grown_bytes"] / 7

    def test_of_deleted_rows_is_as_much_bloat_as_rows_and_filled_holes_are_no_growth(self, own, remember):
        owner, _ = own
        visit(owner, 10_000)
        owner.execute("analyze visits")
        remember(0)
        owner.execute("delete from visits where id % 2 = 0")
        owner.execute("select pg_stat_force_next_flush()")
        owner.execute("vacuum visits")
        (row,) = [it for it in growth.attribution(remember(7)) if it["relation"] == "public.visits"]
        assert row["rows_bytes"] == pytest.approx(-5000 * 575, rel=0.05)
        assert row["rows_bytes"] + row["bloat_bytes"] == pytest.approx(0, abs=50_000)  # the maps of the heap
        visit(owner, 5000)
        (row,) = [
            it for it in growth.attribution(growth.compared(remember(14), 7)) if it["relation"] == "public.visits"
        ]
        assert row["rows_bytes"] == pytest.approx(5000 * 575, rel=0.05)
        assert row["bloat_bytes"] == pytest.approx(-5000 * 575, rel=0.05)

    def test_counters_that_were_emptied_invent_no_rows(self, own, remember):
        owner, _ = own
        visit(owner, 10_000)
        owner.execute("analyze visits")
        remember(0)
        owner.execute("select pg_stat_reset()")
        visit(owner, 100)
        row = by_relation(growth.attribution(remember(7)))["public.visits"]
        assert (row["rows_bytes"], row["bloat_bytes"]) == (0, row["grown_bytes"] - row["index_bytes"])
        assert row["grown_bytes"] < 100_000

    def test_of_a_table_that_was_nearly_empty_is_rows(self, own, remember):
        owner, _ = own
        visit(owner, 1)
        remember(0)
        visit(owner, 10_000)
        row = by_relation(growth.attribution(remember(7)))["public.visits"]
        assert row["rows_bytes"] == pytest.approx(10_000 * 575, rel=0.05)
        assert abs(row["bloat_bytes"]) < 60_000

    def test_is_nothing_without_a_past(self):
        assert growth.attribution([]) == growth.changes([]) == growth.fastest([], []) == growth.write_rates([]) == []


class TestChanges:
    def test_name_what_appeared_and_what_went_with_its_size(self, year):
        found = {(row["change"], row["relation"]): row for row in growth.changes(growth.compared(year.taken, 7))}
        assert found.keys() == {
            ("new table", "public.fresh"),
            ("dropped table", "public.gone"),
            ("new partitions", "public.log"),
            ("dropped partitions", "public.log"),
        }
        assert found["new partitions", "public.log"]["names"] == "public.log_14"
        assert found["dropped partitions", "public.log"]["bytes"] == year.before["log_0"]
        assert found["new table", "public.fresh"]["rows"] == 8000

    def test_of_many_partitions_are_one_line(self, year):
        rows = growth.changes(growth.compared(year.taken, 999))
        (row,) = [it for it in rows if it["change"] == "new partitions"]
        names = "public.log_1, public.log_10, public.log_11, public.log_12 and 10 more"
        assert (row["names"], row["count"]) == (names, 14)

    def test_tell_a_new_name_from_a_new_table(self, own, remember):
        owner, _ = own
        remember(0)
        owner.execute("alter table visits rename to calls")
        (row,) = growth.changes(remember(7))
        assert (row["change"], row["relation"], row["names"]) == ("renamed", "public.calls", "public.visits")


class TestTheFastest:
    def test_come_with_their_sizes_at_every_snapshot(self, year):
        rows = growth.fastest(year.taken, growth.compared(year.taken, 7), most=3)
        names = list(dict.fromkeys(row["relation"] for row in rows))
        assert (names[0], len(names)) == ("public.stock", 3)
        stock = [row for row in rows if row["relation"] == "public.stock"]
        assert [row["taken_at"] for row in stock] == [it.at for it in year.taken]
        assert [row["total_bytes"] for row in stock[-2:]] == [year.before["stock"], year.after["stock"]]
