"""Pictures of indexes: the claim, the finding coloured and labelled, and an honest nothing."""

from pgrunbooks import plots
from pgrunbooks.check import Finding
from pictures import red, texts, title


def named(kind, name):
    return Finding("warning", kind, name, "", "")


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
        assert red(axes) == ["12 MB in 1 index, 3.0 times the heap"]

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
        assert set(red(axes)) == {"shop.copy", "shop.old"}
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
