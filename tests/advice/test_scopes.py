import pytest

from pgrunbooks.advice.accesses import NotUnderstood
from pgrunbooks.advice.expressions import identifiers, quoted, repaired, retyped, with_parameter
from pgrunbooks.advice.scopes import parse


@pytest.fixture
def read(catalog):
    return lambda text: parse(text, catalog().find)


def test_a_name_without_a_schema_gets_one(read):
    assert read("select é.id from orders é, only items").text == "select é.id from shop.orders é, only shop.items"


def test_a_name_of_a_cte_is_left_alone(read):
    assert read("with orders as (select 1 as id) select id from orders").text.endswith("from orders")


def test_columns_are_those_that_are_read(read):
    access = read("select o.total from orders o where o.customer_id = $1 order by placed_at").accesses[0]
    assert access.columns == {"total", "customer_id", "placed_at"}


def test_a_correlated_column_belongs_to_the_outer_table(read):
    parsed = read("select (select count(*) from items where order_id = o.id) from orders o")
    assert {it.table: it.columns for it in parsed.accesses} == {"shop.orders": {"id"}, "shop.items": {"order_id"}}


def test_writes_are_known_with_their_columns(read):
    writes = read("update orders set status = $1, total = $2 where id = $3").writes
    assert [(it.table, it.command, it.columns) for it in writes] == [("shop.orders", "update", {"status", "total"})]


def test_limits_are_told_from_other_parameters(read):
    parsed = read("select * from orders where id = $1 limit $2 offset $3")
    assert (parsed.limits, parsed.offsets) == ({2}, {3})


def test_a_recursive_query_is_read(read):
    parsed = read(
        "with recursive t as (select id from orders where total = $1 union all select o.id from orders o join t using (id))"
        " select * from t"
    )
    assert parsed.tables == {"shop.orders"}


def test_a_merge_is_read(read):
    parsed = read(
        "merge into orders o using items i on o.id = i.order_id when matched then update set total = $1 "
        "when not matched then do nothing"
    )
    assert [(it.command, it.columns) for it in parsed.writes] == [("update", {"total"})]


@pytest.mark.parametrize("text", ["select * from orders where (", "vacuum orders", "select 1; select 2", ""])
def test_what_cannot_be_read_says_why(text, read):
    with pytest.raises(NotUnderstood):
        read(text)


def test_an_unknown_table_is_no_reason_to_fail(read):
    assert read("select x.a, (select b from nowhere where nowhere.c = x.a) from elsewhere x, orders").tables == {
        "shop.orders"
    }


def test_a_typed_parameter_becomes_sql_again():
    assert repaired("select now() - interval $1, date $2::date") == "select now() - $1::interval, date $2::date"


def test_a_field_that_is_extracted_is_an_argument_again():
    assert repaired("select EXTRACT($1 FROM at) from t") == "select pg_catalog.extract($1, at) from t"


def test_numbers_of_which_the_type_is_gone_are_whole_numbers_again():
    assert repaired("select 1 from t where 'é' = a and b < $1 + $2") == (
        "select 1 from t where 'é' = a and b < $1::int4 + $2::int4"
    )
    assert repaired("select sum(case when a = $1 then $2 else $3 end) from t") == (
        "select sum(case when a = $1 then $2::int4 else $3::int4 end) from t"
    )
    assert repaired("select sum(case when a = $1 then b else $3 end), c + $4 from t").count("::") == 0
    assert repaired("select from generate_series($1, $2)") == "select from generate_series($1::int4, $2::int4)"
    assert repaired("select from generate_series($1, now(), $2)").count("::") == 0


@pytest.mark.parametrize(
    "head", ["PREPARE one AS ", 'prepare "a b" (int, numeric(9, 2)[]) as\n', "\nprepare one(int)as "]
)
def test_what_is_prepared_is_the_statement(head):
    assert repaired(f"{head}select from orders where id = $1") == "select from orders where id = $1"


def test_what_is_no_sql_is_left_as_it_is():
    assert repaired("select from where $1 + $2") == "select from where $1 + $2"


def test_parameters_that_are_mistaken_get_one_type_after_the_other():
    assert next(retyped("select from t where a @> array[$1, b]")) == "select from t where a @> array[$1::int4, b]"
    text = "select from t join (values ($1), ($2)) v (c) on a = c and b = $3"
    assert next(retyped(text)) == text.replace("$1", "$1::int4").replace("$2", "$2::int4")
    assert next(retyped("select from t where a > current_date - $1")).endswith("current_date - $1::int4")
    assert next(retyped("select $1 as depth, a from t")) == "select $1::int4 as depth, a from t"
    assert list(retyped("select from t where a = $1")) == []


@pytest.mark.parametrize(
    "expression",
    ["(select $1 from t where a = b)", "exists (select from t)", "not exists (select from t) and (c or d)"],
)
@pytest.mark.parametrize("assigned", ["", "x := ", 'r."a b"[1] = '])
def test_what_a_function_assigns_or_asks_is_a_query(assigned, expression):
    assert parse(repaired(assigned + expression), lambda *_: None).text.endswith(expression)


def test_a_variable_is_a_parameter_where_a_column_could_stand():
    text = """select 'é' from t where a = new . "My Id" or b = $1"""
    assert with_parameter(text, text.index("new")) == "select 'é' from t where a = $2 or b = $1"
    assert with_parameter(text, text.index("t where")) is None
    assert with_parameter("select from t where a = b and c = $2", len("select from t where a = ")) == (
        "select from t where a = $1 and c = $2"
    )


def test_identifiers_are_found_in_any_quotes():
    assert identifiers('lower("E mail") || name') == {"lower", "E mail", "name"}
    assert quoted("order") == '"order"'


def test_an_expression_that_lost_its_constant_is_named(read):
    parsed = read("select id from customers where profile ->> $1 = $2 and lower(email) = lower($3)")
    assert parsed.lost == {"profile ->> $1"}
