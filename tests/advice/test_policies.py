import pytest

from pgrunbooks.advice.accesses import Access, Key, Predicate
from pgrunbooks.advice.policies import guarded, visible

CONDITION = {"shop.orders": "(tenant = (nullif(current_setting('app.tenant'), ''))::int)"}
READ = "(select * from shop.orders where tenant = ${})"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 'é' from shop.orders where id = $1", f"select 'é' from {READ.format(2)} as orders where id = $1"),
        ('select from "shop".orders o for update', f"select from {READ.format(1)} o for update"),
        (
            "select from shop.items i left join shop.orders as o on o.id = i.order_id",
            f"select from shop.items i left join {READ.format(1)} as o on o.id = i.order_id",
        ),
        ("update shop.orders set total = $1", "update shop.orders set total = $1"),
        ("insert into shop.orders select $2", "insert into shop.orders select $2"),
        ("select from only shop.orders", "select from only shop.orders"),
        (
            "delete from shop.items using shop.orders where true",
            f"delete from shop.items using {READ.format(1)} as orders where true",
        ),
    ],
)
def test_a_table_is_read_through_its_policy(text, expected):
    assert guarded(text, CONDITION).replace("SELECT", "select").replace("FROM", "from") == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("owner = (select auth.uid() as uid)", "owner = $1"),
        ("owner = auth.uid() or auth.role() = 'admin'", "owner = $1 OR $2"),
        ("public and not hidden", "public AND NOT hidden"),
        (
            "team in (select m.team from teams m where m.who = current_user)",
            "team IN (SELECT m.team FROM teams AS m WHERE m.who = $1) IS TRUE",
        ),
    ],
)
def test_what_a_session_says_of_itself_is_a_parameter(condition, expected):
    assert guarded("select from a.b", {"a.b": condition}) == f"select from (select * from a.b where {expected}) as b"


def test_an_index_serves_only_leakproof_operators_before_the_policy_has_seen_a_row(catalog):
    keys = {name: Key(name, frozenset({name})) for name in ("customer_id", "total", "note")}
    mine, theirs = Predicate("equal", keys["customer_id"], "=", (1,)), Predicate("equal", keys["total"], "=", (2,))
    like = Predicate("like", keys["note"], "~~", (3,))
    access = Access("shop.orders", (mine, theirs, like), ((mine,), (theirs,)))
    table = catalog().tables["shop.orders"]
    assert visible(access, table, 4) == Access("shop.orders", (mine,), ((mine,),))
    assert visible(access, table, 1) == access
