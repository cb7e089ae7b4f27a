import pytest

from pgrunbooks.masking import command, mask


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("select 1", "select ?"),
        ("select * from t where a = 'x' and b = -4.5e3", "select * from t where a = ? and b = -?"),
        ("select 'it''s' || E'it\\'s' || N'a' || B'01' || U&'b'", "select ? || ? || ? || ? || ?"),
        ("select $$a$$, $x$ a $$ b $x$, $1", "select ?, ?, $1"),
        ("select \"odd 'name' 1\" from orders_2026 where t2.c3 = 0xFF", "select \"odd 'name' 1\" from orders_2026 where t2.c3 = ?"),
        ("select 1 -- a 'secret'\n, 2 /* another */ from t", "select ? , ? from t"),
    ],
)  # fmt: skip
def test_literals_and_comments_go_and_names_stay(query, masked):
    assert mask(query) == masked


@pytest.mark.parametrize("cut", ["'secr", "E'secr\\", "$$secr", "$tag$secr $tag", "/* secr", "-- secr", "U&'secr"])
def test_a_text_that_was_cut_inside_a_literal_gives_nothing_away(cut):
    assert "secr" not in mask("select a from t where b = " + cut)


def test_a_megabyte_is_masked_in_moments():
    query = "select " + ", ".join(f"'value {number}'" for number in range(70_000))
    assert "value" not in mask(query)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("alter table t add c int", "ALTER TABLE"), ("select 1", "SELECT"), ("/* x */ Create  index on t (a)", "CREATE INDEX"),
        ("", "statement"), (None, "statement"), ("<insufficient privilege>", "statement"), ("truncate orders", "TRUNCATE"),
    ],
)  # fmt: skip
def test_a_statement_is_called_by_its_command(query, name):
    assert command(query) == name
