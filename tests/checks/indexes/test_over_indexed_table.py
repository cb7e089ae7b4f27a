import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.indexes.over_indexed_table import judge
from pgrunbooks.drills import drills

LIMITS = catalogue()["over-indexed-table"].limits()
MB = 2**20


@pytest.fixture
def table(index_row):
    """Return the rows of a table of 8 indexes, 1 MB each, on 3 MB, with 101 rows written and 100 scans."""

    def make(number=8, **changes):
        each = {"size_bytes": MB, "table_bytes": 3 * MB, "rows_inserted": 101, "sequential_scans": 100, **changes}
        return [index_row(n, **each) for n in range(1, number + 1)]

    return make


def names(rows, context):
    return [it.name for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("over-indexed-table")


def test_no_index_is_well(context):
    assert names([], context) == []


@pytest.mark.parametrize(("number", "found"), [(7, []), (8, ["shop.orders"]), (9, ["shop.orders"])])
def test_the_number_of_indexes_decides(number, found, table, context):
    assert names(table(number), context) == found


@pytest.mark.parametrize(("heap", "found"), [(4 * MB, []), (4 * MB - 1, ["shop.orders"]), (8 * MB, [])])
def test_they_have_to_outweigh_the_heap_twice(heap, found, table, context):
    assert names(table(table_bytes=heap), context) == found


@pytest.mark.parametrize(
    ("counters", "found"),
    [
        ({"rows_inserted": 100}, []),
        ({"rows_inserted": None, "rows_deleted": 101}, ["shop.orders"]),
        ({"rows_inserted": 0, "rows_updated": 101}, ["shop.orders"]),
        ({"rows_inserted": 0, "rows_updated": 201, "rows_hot_updated": 101}, []),
        ({"scans": 1}, []),
        ({"sequential_scans": None}, ["shop.orders"]),
    ],
)
def test_writes_that_touch_indexes_have_to_outnumber_scans(counters, found, table, context):
    assert names(table(**counters), context) == found


def test_a_partitioned_table_is_judged_as_one(table, context):
    rows = [
        row | {"table": f"shop.orders_{n}", "table_oid": n, "root_table": "shop.orders", "index_oid": n * 100 + at}
        for n in (1, 2)
        for at, row in enumerate(table())
    ]
    (finding,) = judge(rows, LIMITS, context)
    assert finding.name == "shop.orders"
    assert "carries 8 indexes of about 16 MB on 6 MB" in finding.title
    assert names([row for at, row in enumerate(rows) if at not in (0, 8)], context) == []


def test_the_look_that_it_proposes_runs(server):
    drill = drills()["over-indexed-table"]
    with drill.fault(server), server.connect() as session:
        (finding,) = diagnose(server, "over-indexed-table").findings
        assert len(session.execute(finding.remedies[0].sql).fetchall()) == 9
