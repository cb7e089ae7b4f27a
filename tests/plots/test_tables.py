"""Pictures of tables: the claim, the parts that there are, and an honest nothing."""

from pgrunbooks import plots
from pictures import sizes, texts, title


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
