"""What all pictures share: names as they are, whatever is in them."""

import pytest

from pgrunbooks.plots._style import canvas, name_bars, written


@pytest.mark.parametrize(("name", "shown"), [("shop.a$b$c", r"shop.a\$b\$c"), ("a\u202eb", "a\\u202eb")])
def test_a_name_is_neither_a_formula_nor_able_to_fool_a_reader(name, shown):
    assert written(name) == shown


def test_only_the_name_of_a_relation_is_set_as_code():
    axes = canvas(height=1)
    name_bars(axes, ["shop.orders", "2 other tables"], are_relations=True)
    assert [it.get_fontfamily() for it in axes.get_yticklabels()] == [["monospace"], ["sans-serif"]]
