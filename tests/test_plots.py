"""Each picture: its claim, one mark for each thing it draws, the finding coloured and labelled, and an honest nothing."""

import datetime
import re

import matplotlib
import pytest
from matplotlib import pyplot as plt

from conftest import session_row
from pgrunbooks import plots
from pgrunbooks.check import Finding

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def title(axes):
    return axes.get_title(loc="left")


def texts(axes):
    return [it.get_text() for it in axes.texts if it.get_text()]


def named(kind, name):
    return Finding("warning", kind, name, "", "")


def waiter(pid, waits_for, waiting_s):
    return session_row(str(pid), blocked_by=(str(waits_for),), waiting_s=waiting_s, lock_mode="ShareLock")


def index_row(name, *, size_bytes=1 << 20, scans=0, table="shop.orders", heap_bytes=4 << 20, **changes):
    row = {
        "index_oid": abs(hash(name)), "index": name, "table_oid": abs(hash(table)), "table": table, "root_table": None,
        "root_index_oid": None, "is_partitioned": False, "is_unique": False, "constraint_type": None, "referenced_by": 0,
        "is_replica_identity": False, "size_bytes": size_bytes, "table_bytes": heap_bytes, "scans": scans,
        "last_scan_s": None, "entries_read": 0, "supports": None, "counters_age_s": 40 * 86400.0,
    }  # fmt: skip
    return {**row, **changes}


def partitioned():
    whole = {"table": "shop.events", "is_partitioned": True, "size_bytes": 0, "heap_bytes": -8192, "index_oid": 1}
    parts = [
        index_row(f"shop.events_{month}_idx", table=f"shop.events_{month}", root_table="shop.events", root_index_oid=1,
                  size_bytes=3 << 20, heap_bytes=4 << 20, scans=month)
        for month in range(2)
    ]  # fmt: skip
    return [index_row("shop.events_idx", **whole), *parts]


class TestLockTree:
    def test_says_who_waits_and_stays_short_with_200_waiters(self):
        rows = [session_row("1", state="idle in transaction"), *(waiter(2 + n, 1, 200.0 - n) for n in range(200))]
        axes = plots.lock_tree(rows)
        assert title(axes) == "200 sessions wait behind one session"
        assert len(axes.patches) <= 26
        assert "and 177 more" in texts(axes)
        assert axes.get_xlabel().endswith("seconds")

    def test_marks_each_of_two_roots_in_colour_and_in_words(self):
        axes = plots.lock_tree([session_row("1"), session_row("2"), waiter(3, 1, 9.0), waiter(4, 2, 7.0)])
        assert title(axes) == "2 sessions wait behind 2 sessions"
        red = [it.get_text() for it in axes.texts if it.get_color() == plots.ROOT]
        assert red == ["1 checkout", "root: active", "2 checkout", "root: active"]

    def test_writes_out_what_could_fool_a_reader(self):
        axes = plots.lock_tree([session_row("1", application="a\u202eb"), waiter(2, 1, 9.0)])
        assert "1 a\\u202eb" in texts(axes)

    def test_without_waiters_it_says_so(self):
        axes = plots.lock_tree([])
        assert (title(axes), list(axes.patches)) == ("Nobody waits for a lock", [])

    def test_does_not_claim_what_could_not_be_asked(self):
        assert title(plots.lock_tree(None)) == "This could not be asked; the verdict says why"


class TestIndexWeight:
    def test_weighs_indexes_against_the_heap_of_their_table_once(self):
        axes = plots.index_weight([index_row("shop.a"), index_row("shop.b", size_bytes=2 << 20)])
        assert title(axes) == "3 MB of indexes on 4 MB of heap"
        assert sorted(bar.get_width() for bar in axes.patches) == [3, 4]
        assert texts(axes) == ["3 MB in 2 indexes"]
        assert axes.get_xlabel() == "estimated size, MB"

    def test_sums_partitions_up_under_their_root(self):
        axes = plots.index_weight(partitioned())
        assert [it.get_text() for it in axes.get_yticklabels()] == ["shop.events"]
        assert texts(axes) == ["6 MB in 1 index"]

    def test_counts_the_tables_beyond_the_tenth_in_one_bar(self):
        rows = [index_row(f"shop.i{n}", table=f"shop.t{n}", size_bytes=(20 - n) << 20) for n in range(15)]
        axes = plots.index_weight(rows)
        assert len(axes.patches) == 2 * 11
        assert axes.get_yticklabels()[-1].get_text() == "5 other tables"

    def test_marks_the_table_of_a_finding_in_colour_and_in_words(self):
        rows = [index_row("shop.a", size_bytes=12 << 20), index_row("shop.b", table="shop.items")]
        axes = plots.index_weight(rows, [named("table", "shop.orders"), named("index", "shop.items")])
        red = [it.get_text() for it in axes.texts if it.get_color() == plots.ROOT]
        assert red == ["12 MB in 1 index, 3.0 times the heap"]

    def test_without_an_index_it_says_so(self):
        assert title(plots.index_weight([])) == "No table here has an index"
        assert title(plots.index_weight(None)) == "This could not be asked; the verdict says why"


class TestIndexUse:
    def test_claims_the_weight_that_saw_no_scan_and_since_when(self):
        rows = [index_row("shop.a", size_bytes=12 << 20), index_row("shop.b", scans=1000)]
        axes = plots.index_use(rows)
        assert title(axes) == "12 MB of indexes saw no scan in 40 d"
        assert [it.get_text() for it in axes.get_xticklabels()] == ["none", "1", "10", "100", "1,000"]
        assert texts(axes) == ["shop.a"]

    def test_draws_each_kind_of_index_in_a_colour_with_a_name(self):
        rows = [
            index_row("shop.used", scans=7),
            index_row("shop.idle"),
            index_row("shop.key", is_unique=True),
            index_row("shop.copy", scans=3),
            index_row("shop.old"),
        ]
        axes = plots.index_use(rows, [named("index", "shop.copy"), named("index", "shop.old")])
        kinds = {it.get_label(): len(it.get_offsets()) for it in axes.collections}
        assert kinds == {"scanned": 1, "not scanned": 1, "not scanned, but guards a key": 1, "can go": 2}
        assert [it.get_text() for it in axes.get_legend().get_texts()] == list(kinds)
        red = {it.get_text() for it in axes.texts if it.get_color() == plots.ROOT}
        assert red == {"shop.copy", "shop.old"}
        assert title(axes) == "3 MB of indexes saw no scan in 40 d; 2 MB can go"

    def test_a_partitioned_index_is_one_point_with_the_scans_of_its_children(self):
        axes = plots.index_use(partitioned())
        assert title(axes) == "Every index was scanned in 40 d"
        assert [it.get_offsets().tolist() for it in axes.collections] == [[[0.0, float(6 << 20)]]]

    def test_says_that_nothing_was_scanned_where_the_counters_have_just_begun(self):
        assert title(plots.index_use([index_row("shop.a", counters_age_s=5.0)])) == "No index was scanned in 5 s"
        unknown = [index_row("shop.a", scans=1, counters_age_s=None)]
        assert title(plots.index_use(unknown)) == "Every index was scanned since the counters began"

    def test_labels_few_of_many(self):
        rows = [index_row(f"shop.i{n}") for n in range(300)]
        axes = plots.index_use(rows, [named("index", f"shop.i{n}") for n in range(100)])
        assert len(texts(axes)) == 8 + 3

    def test_without_an_index_it_says_so(self):
        assert title(plots.index_use([])) == "No table here has an index"
        assert title(plots.index_use(None)) == "This could not be asked; the verdict says why"


def consumer(application, state, sessions, used):
    return {"role": "app", "application": application, "state": state, "sessions": sessions, "used": used,
            "max_connections": 100, "reserved": 3}  # fmt: skip


class TestConnectionSlots:
    def test_claims_the_used_share_and_draws_the_limit(self):
        axes = plots.connection_slots([consumer("pool", "idle", 95, 96), consumer("etl", "active", 1, 96)])
        assert axes.get_title(loc="left") == "96 of 97 slots are taken (99%)"
        assert "limit 97" in [it.get_text() for it in axes.texts]

    def test_counts_the_consumers_beyond_the_tenth_in_one_bar(self):
        axes = plots.connection_slots([consumer(f"a{number}", "idle", 1, 20) for number in range(20)])
        assert [it.get_text() for it in axes.get_yticklabels()][-1] == "10 others"

    @pytest.mark.parametrize(("rows", "claim"), [([], "No session but this one"), (None, "This could not be asked")])
    def test_without_rows_it_says_why(self, rows, claim):
        assert plots.connection_slots(rows).get_title(loc="left").startswith(claim)


class TestWaits:
    def rows(self, *events):
        """Return ten samples, each of one session in each of the events."""
        return [
            {"sample": sample, "wait_event_type": kind, "wait_event": event}
            for sample in range(10)
            for kind, event in events
        ]

    def test_claims_the_largest_share_and_draws_a_bar_an_event(self):
        axes = plots.waits(self.rows(("Lock", "relation"), ("Lock", "relation"), (None, None)))
        assert title(axes) == "3 active on average; 67% of that waits for Lock:relation"
        assert [bar.get_width() for bar in axes.patches] == [2.0, 1.0]
        assert [it.get_text() for it in axes.get_yticklabels()] == ["Lock:relation", "on the CPU"]
        assert texts(axes) == ["2 (67%)", "1 (33%)"]

    def test_gathers_what_is_beyond_the_tenth_event(self):
        axes = plots.waits(self.rows(*(("IO", f"Event{number}") for number in range(14))))
        assert [it.get_text() for it in axes.get_yticklabels()][-1] == "4 others"

    def test_says_that_nobody_was_active_or_nobody_could_ask(self):
        assert title(plots.waits([])) == "No session was active in the samples"
        assert title(plots.waits(None)) == "This could not be asked; the verdict says why"


class TestBenefitCurve:
    def rows(self, *costs):
        return [
            {"index": f"shop.idx_{number}", "workload_cost": cost, "workload_bytes": (number + 1) << 20}
            for number, cost in enumerate(costs)
        ]

    def test_falls_with_each_index_and_claims_what_is_left(self):
        axes = plots.benefit_curve(self.rows(0.4, 0.1))
        assert title(axes) == "2 indexes leave 10% of the workload's cost, in 2 MB"
        assert list(axes.lines[1].get_ydata()) == [100.0, 40.0, 10.0]
        assert list(axes.lines[1].get_xdata()) == [0.0, 1.0, 2.0]
        assert texts(axes) == ["shop.idx_0", "shop.idx_1"]

    def test_says_that_nothing_pays_or_nobody_could_ask(self):
        assert title(plots.benefit_curve([])) == "No new index would pay for itself"
        assert title(plots.benefit_curve(None)) == "This could not be asked; the verdict says why"


def sizes(*gigabytes):
    start = datetime.datetime(2026, 9, 1, tzinfo=datetime.UTC)
    return [(start + datetime.timedelta(days=day), int(size * 1024**3)) for day, size in enumerate(gigabytes)]


def volume(points, left, **changes):
    row = {"points": points, "disk_bytes": points[-1][1] + (left + 1) * 1024**3, "wal_bytes": 1024**3}
    return {"tablespace": None, "now_s": 0.0, "shifts": [], "growers": [], **row, **changes}


class TestDiskFan:
    GROWING = sizes(*(100 + day for day in range(60)))

    def test_says_when_the_disk_is_full_and_draws_the_room_that_is_left(self):
        axes = plots.disk_fan([volume(self.GROWING, 20)])
        assert re.fullmatch(r"The disk is full in (19|20) to (20|21) days: it grows by 1 GB a day", title(axes))
        assert "room for 179 GB: the disk less 1 GB of WAL" in texts(axes)

    def test_labels_a_level_shift_with_what_it_was(self):
        points = sizes(*(100 + day + (80 if day > 30 else 0) for day in range(60)))
        shift = {"at": points[31][0].isoformat(), "cause": "public.orders was loaded"}
        axes = plots.disk_fan([volume(points, 20, shifts=[shift])])
        assert "+80 GB: public.orders was loaded" in texts(axes)

    def test_a_plateau_is_called_one_and_a_disk_far_away_is_left_out(self):
        points = sizes(*(100 + min(day, 40) for day in range(60)))
        assert title(plots.disk_fan([volume(points, 20)])) == (
            "The disk does not grow any more and is not full within a year"
        )
        assert texts(plots.disk_fan([volume(points, 99_999)])) == []

    def test_of_several_volumes_the_one_that_is_full_first_is_drawn(self):
        rows = [volume(self.GROWING, 90), volume(self.GROWING, 10, tablespace="archive")]
        assert title(plots.disk_fan(rows)).startswith("Tablespace archive is full in")

    def test_a_full_disk_is_full(self):
        assert title(plots.disk_fan([volume(self.GROWING, -3)])) == "The disk is full: 157 GB"

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (None, "This could not be asked"),
            ([], "The target does not name its disk_bytes"),
            ([{"why": "there is no history", "remedy": "x"}], "No forecast: there is no history"),
        ],
    )
    def test_without_a_forecast_it_is_one_sentence(self, rows, said):
        assert title(plots.disk_fan(rows)).startswith(said)


class TestFanChart:
    def rows(self, count):
        points = sizes(*(100 + day for day in range(count)))
        return [{"taken_at": at, "database_bytes": size} for at, size in points]

    def test_says_how_the_database_grows(self):
        assert title(plots.fan_chart(self.rows(30))) == "The database grows by 1 GB a day"

    def test_draws_a_disk_and_says_when_it_is_full(self):
        axes = plots.fan_chart(self.rows(30), disk_bytes=150 * 1024**3)
        assert title(axes).startswith("The database fills the disk in 21 to 21 days")
        assert texts(axes) == ["the disk, 150 GB"]

    def test_draws_what_came_without_knowing_of_it(self):
        rows = self.rows(40)
        without, axes = (plots.fan_chart(rows[:30], came=came) for came in ((), rows[30:]))
        assert title(axes) == title(without)
        assert len(axes.lines[-1].get_xdata()) == 10
        assert len(axes.lines) == len(without.lines) + 1
        assert axes.get_xlabel().endswith("the dots are what came")

    def test_few_points_are_a_range_and_fewer_no_forecast(self):
        assert title(plots.fan_chart(self.rows(4))).endswith("(few points: a range)")
        assert title(plots.fan_chart(self.rows(2))) == "The database grew by 1 GB in 1 d: 1 GB a day"


def part(relation, **parts):
    names = ("rows", "bloat", "index", "toast", "new", "dropped", "other")
    bytes_of = {f"{name}_bytes": parts.get(name, 0) << 20 for name in names}
    return {"relation": relation, **bytes_of, "grown_bytes": sum(bytes_of.values()), "estimated": False}


class TestGrowthParts:
    ROWS = (
        part("shop.orders", rows=60, index=20),
        part("shop.stock", bloat=15),
        part("shop.gone", dropped=-30),
        part("2 other tables", rows=1, bloat=-2),
        part("outside of tables", other=1),
    )

    def test_claims_the_table_that_grew_most_and_why(self):
        assert title(plots.growth_parts(self.ROWS)) == "shop.orders grew by 80 MB; 75% of that is rows"
        assert title(plots.growth_parts(self.ROWS[:2])) == "shop.orders grew by 80 MB of the 95 MB that came; 75% of that is rows"  # fmt: skip

    def test_draws_what_fell_to_the_left_and_names_the_parts_there_are(self):
        axes = plots.growth_parts(self.ROWS)
        drawn = [(round(it.get_x()), round(it.get_width())) for it in axes.patches if it.get_width()]
        assert drawn == [(0, 60), (60, 20), (0, 15), (0, -30), (0, 1), (0, -2), (0, 1)]
        labels = [it.get_text() for it in axes.get_legend().get_texts()]
        assert labels == ["rows", "bloat or wider rows", "indexes", "dropped", "outside of tables"]
        assert texts(axes) == ["+80 MB", "+15 MB", "-30 MB", "-1 MB", "+1 MB"]

    def test_marks_an_estimate(self):
        assert texts(plots.growth_parts([{**self.ROWS[0], "estimated": True}])) == ["+80 MB, estimated"]

    def test_where_no_table_grew_it_says_so(self):
        axes = plots.growth_parts([part("system catalogs", rows=1), part("shop.gone", dropped=-30)])
        assert title(axes) == "The database shrank by 29 MB; no table of yours grew by much"

    def test_without_a_past_it_says_so(self):
        assert title(plots.growth_parts([])).startswith("Nothing to compare with yet")


class TestTableLines:
    def rows(self, name, points):
        return [{"relation": name, "taken_at": at, "total_bytes": it, "estimated": False} for at, it in points]

    def test_draws_each_table_on_a_size_axis_of_its_own_and_one_time_axis(self):
        rows = self.rows("shop.large", sizes(*range(100, 140))) + self.rows("shop.small", sizes(*range(1, 41)))
        large, small = plots.table_lines(rows)
        assert title(large) == "shop.large  +1 GB a day"
        assert large.get_xlim() == small.get_xlim()
        assert small.get_ylim()[1] < large.get_ylim()[0]
        assert large.figure.get_suptitle() == "shop.large grew most"

    def test_marks_a_jump_with_its_bytes(self):
        (axes,) = plots.table_lines(self.rows("shop.a", sizes(*(100 + day + 80 * (day > 30) for day in range(60)))))
        assert texts(axes) == ["+80 GB"]
        assert axes.figure.get_suptitle() == "shop.a grew most; 1 of 1 table had a jump, which is no trend"

    def test_of_three_tables_hides_the_fourth_cell(self):
        rows = [row for name in "abc" for row in self.rows(name, sizes(*range(10)))]
        lines = plots.table_lines(rows)
        assert [it.get_visible() for it in lines[0].figure.axes] == [True, True, True, False]

    def test_of_one_snapshot_is_a_point_without_a_rate(self):
        (axes,) = plots.table_lines(self.rows("shop.new", sizes(1)))
        assert title(axes) == "shop.new"

    def test_without_a_table_it_says_so(self):
        assert [title(it) for it in plots.table_lines([])] == ["No table grew since the earlier snapshot"]


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
