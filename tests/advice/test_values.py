import pytest

from pgrunbooks.advice.accesses import Access, Key, Predicate
from pgrunbooks.advice.catalog import Catalog, Column, Table
from pgrunbooks.advice.scopes import parse
from pgrunbooks.advice.values import variants


@pytest.mark.parametrize(
    ("known", "operator", "bound"),
    [
        (("5", "1", "10"), ">", "'5'"),
        (("5", "1", "10"), ">=", "'10'"),
        (("5", "1", "10"), "<", "'5'"),
        (("5", "1", "10"), "<=", "'1'"),
        (("2026-02-01", "2026-01-01"), ">", "'2026-01-01'"),
        (("1",), ">", "$1"),
        (("1",), ">=", "'1'"),
    ],
)
def test_a_bound_of_a_range_leaves_one_of_few_values(known, operator, bound):
    column = Column("a", "int4", "N", common=dict.fromkeys(known, 1 / len(known)))
    catalog = Catalog((), {"s.t": Table("s.t", 1, 1000, 10, columns={"a": column})}, frozenset())
    parsed = parse(f"select from s.t where a {operator} $1", lambda *_: ("s.t", ("a",)))
    assert parsed.accesses == (
        Access("s.t", (Predicate("range", Key("a", frozenset({"a"})), operator, (1,)),), columns=frozenset({"a"})),
    )
    assert {it.text for it in variants(parsed, catalog)} == {f"select from s.t where a {operator} {bound}"}


@pytest.mark.parametrize(("output", "share"), [("a", 0.95), ("count(*)", 0.5)])
def test_a_common_value_weighs_less_where_the_number_of_its_rows_is_hidden(output, share):
    column = Column("a", "int4", "N", common={"done": 0.95, "new": 0.05})
    catalog = Catalog((), {"s.t": Table("s.t", 1, 1000, 10, columns={"a": column})}, frozenset())
    parsed = parse(f"select {output} from s.t where a = $1", lambda *_: ("s.t", ("a",)))
    assert {it.text[-6:]: it.share for it in variants(parsed, catalog)}["'done'"] == share


def test_a_pattern_of_a_start_and_a_wildcard_is_filled_beyond_what_all_start_with():
    column = Column("a", "text", "S", bounds=("SKU-abcde", "SKU-bcdef", "SKU-cdefg"))
    catalog = Catalog((), {"s.t": Table("s.t", 1, 1000, 10, columns={"a": column})}, frozenset())
    parsed = parse("select from s.t where a like $1 || $2", lambda *_: ("s.t", ("a",)))
    assert {it.text for it in variants(parsed, catalog)} == {"select from s.t where a like 'SKU-bc' || '%'"}
