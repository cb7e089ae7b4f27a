"""Pictures of what may come: when the disk is full, the jumps that were no growth, and an honest nothing."""

import re

import pytest

from pgrunbooks import plots
from pictures import sizes, texts, title


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
