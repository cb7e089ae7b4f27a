import pytest

from pgrunbooks.expression_statistics import derived
from pgrunbooks.lab import Index, open_lab
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

COLUMN = {"null_frac": 0.0, "n_distinct": -1.0, "common": 0, "common_share": 0.0}
KEY = {"expression": "lower(email)", "length": -1, "rows": 10_000.0}


def result(value, *, share=0.0, bounds=1, drawn=None, is_common=False):
    drawn = bounds if drawn is None else drawn
    return {"value": value, "bytes": 6, "share": share, "bounds": bounds, "drawn": drawn, "is_common": is_common}


@pytest.fixture(scope="module")
def estimates(newest):
    """Return a function: the rows that the lab expects of a condition with an index on it, and those that there are."""
    with newest.connect() as owner, open_session(Target(name="source", dsn=newest.url())) as session:
        owner.execute(
            "create schema derived; create type derived.pair as (x int, y int);"
            "create table derived.t as select 'User' || i || '@Example.com' as email,"
            " (array['DE', 'de', 'FR', 'AT'])[1 + i % 4] as country,"
            " timestamp '2026-01-01' + i * interval '1 minute' as at,"
            " jsonb_build_object('theme', i % 3, 'ref', i) as settings,"
            " row(i % 7, i)::derived.pair as pair from generate_series(1, 40000) as i;"
            "analyze derived.t"
        )
        try:
            with open_lab(session, ["derived.t"]) as lab:

                def ask(expression, value):
                    handle = lab.add(Index("derived.t", (f"({expression})",)))
                    condition = f"{expression} = {value}"
                    expected = lab.explain(f"select from derived.t where {condition}").rows
                    lab.remove(handle)
                    (real,) = owner.execute(f"select count(*) from derived.t where {condition}").fetchone()
                    return expected, real

                yield ask
        finally:
            owner.execute("drop schema derived cascade")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("lower(email)", "'user77@example.com'"),
        ("lower(country)", "'de'"),
        ("lower(country)", "'fr'"),
        ("date_trunc('day', at)", "'2026-01-09'"),
        ("at::date", "'2026-01-09'"),
        ("settings ->> 'theme'", "'1'"),
        ("settings ->> 'ref'", "'77'"),
        ("(pair).x", "3"),
    ],
)
def test_the_rows_of_an_indexed_expression_are_estimated_from_its_column(expression, value, estimates):
    expected, real = estimates(expression, value)
    assert real / 1.5 <= expected <= real * 1.5


def test_an_expression_of_several_columns_stays_unknown(estimates):
    assert estimates("email || country", "'x'")[0] == 200  # half a percent, the planner's default


def test_an_expression_that_fails_for_some_values_stays_unknown(estimates):
    assert estimates("1 / nullif(length(country) - 2, 0)", "1")[0] > 1


def test_results_that_all_differ_are_as_many_as_the_values():
    found = derived([result(f"v{number}") for number in range(101)], COLUMN, KEY)
    assert (found["n_distinct"], found["values"], len(found["bounds"])) == (-1.0, [], 101)


def test_results_of_many_values_are_common_ones():
    found = derived([result("a", bounds=75), result("b", bounds=25)], COLUMN, KEY)
    assert (found["n_distinct"], found["values"], found["shares"]) == (2.0, ["a", "b"], [0.75, 0.25])


def test_a_value_that_comes_twice_is_no_sign_of_fewer_results():
    drawn = [result(f"v{number}") for number in range(99)]
    found = derived([*drawn, result("w", bounds=2, drawn=1)], {**COLUMN, "n_distinct": -0.5}, KEY)
    assert found["n_distinct"] == pytest.approx(-0.5)


def test_results_that_are_null_count_as_nulls():
    found = derived([result("a", share=0.4, bounds=0, is_common=True), result(None, bounds=10)], COLUMN, KEY)
    assert found["null_frac"] == pytest.approx(1.0)


def test_there_are_no_more_days_than_lie_between_the_first_and_the_last():
    days = [result(f"2026-01-{day:02}") for day in range(1, 31)]
    assert derived(days, COLUMN, {**KEY, "length": 4})["n_distinct"] == 30
