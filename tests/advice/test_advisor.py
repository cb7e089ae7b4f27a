"""The whole way: a workload on a real server, the lab, the search, the proof."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from pgrunbooks import sample_data
from pgrunbooks.advice import advise, what_if_dropped
from pgrunbooks.advice.catalog import read_catalog
from pgrunbooks.errors import LabError
from pgrunbooks.sandbox import DATABASE, Sandbox, temporary_sandbox
from pgrunbooks.session import Session, open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import Statement, Workload, read_workload

CALLS = 1000


@pytest.fixture(scope="module")
def shop() -> Iterator[Sandbox]:
    with temporary_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def session(shop) -> Iterator[Session]:
    with open_session(Target.model_validate({"name": "tested", "dsn": shop.url()})) as session:
        yield session


@contextlib.contextmanager
def without(shop: Sandbox, index: str) -> Iterator[None]:
    """Drop an index, let the application work on counters that start anew, and build the index again."""
    with shop.connect() as connection:
        row = connection.execute("select pg_get_indexdef(%s::regclass)", [index]).fetchone()
        connection.execute(f"drop index {index}; select pg_stat_statements_reset()")
        try:
            sample_data.run_workload(shop.url(), calls=CALLS)
            yield
        finally:
            connection.execute(row[0])


@contextlib.contextmanager
def having(shop: Sandbox, made: str, dropped: str) -> Iterator[psycopg.Connection]:
    """Make something in a shop for as long as the block lasts, with counters that begin there; gives its owner."""
    with shop.connect() as owner:
        owner.execute(f"{made}; select pg_stat_statements_reset()")
        try:
            yield owner
        finally:
            owner.execute(dropped)


def statements(advice):
    return [it.sql.partition(" on ")[2] for it in advice.proposals]


def test_a_healthy_shop_needs_nothing(shop, session):
    with shop.connect() as connection:
        connection.execute("select pg_stat_statements_reset()")
    sample_data.run_workload(shop.url(), calls=CALLS)
    advice = advise(session, min_calls=5)
    assert statements(advice) == []
    assert advice.cost == pytest.approx(1.0)
    assert advice.complete
    assert advice.statements > 10


def test_a_bare_name_of_tables_in_several_schemas_is_not_guessed_and_said_with_what_helps(shop):
    target = Target.model_validate({"name": "tested", "dsn": shop.url()})
    with shop.connect() as owner:
        owner.execute(
            "create schema a; create table a.visits (id int, guest int); create schema b; create table b.visits (id int);"
            "insert into a.visits select i, i % 1000 from generate_series(1, 50000) as i; analyze a.visits, b.visits;"
            "select pg_stat_statements_reset(); set search_path = a"
        )
        try:
            for guest in range(30):
                owner.execute(f"select * from visits where guest = {guest}")
            owner.execute("reset search_path")
            with open_session(target) as session, pytest.raises(LabError, match="each of the schemas a, b") as error:
                advise(session)
            owner.execute(str(error.value).partition("postgres: ")[2])
            with open_session(target) as session:
                assert statements(advise(session)) == ["a.visits (guest);"]
        finally:
            owner.execute("alter role postgres reset search_path; drop schema a, b cascade")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (None, "a.visits (guest);"),  # "$user", public
        ("b, a", "b.visits (guest);"),
        ("A, nowhere, public", "a.visits (guest);"),
        ('"B x", a', '"B x".visits (guest);'),
    ],
)
def test_a_bare_name_means_what_it_means_to_the_role_that_asked(path, wanted, shop, session):
    made = "create role a superuser login" + "".join(
        f"; create schema if not exists {schema}; create table {schema}.visits (id int, guest int);"
        f"insert into {schema}.visits select i, i % 1000 from generate_series(1, 50000) as i; analyze {schema}.visits"
        for schema in ("public", "a", "b", '"B x"')
    )
    dropped = 'drop schema a, b, "B x" cascade; drop table public.visits; drop role a'
    with having(shop, made, dropped) as owner:
        if path:
            owner.execute(
                f"alter role a set search_path = b; alter role a in database {DATABASE} set search_path = {path}"
            )
        with shop.connect(user="a") as application:
            for guest in range(30):
                application.execute(f"select * from visits where guest = {guest}")
        assert statements(advise(session)) == [wanted]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (
            "state = 'ready' order by run_at limit 5 for update skip locked",
            "jobs (state, run_at);",
        ),  # not all of run_at
        ("tags @> array[{}]", "jobs using gin (tags);"),
        ("id in (values ({}), (7))", "jobs (id);"),
    ],
)
def test_a_queue_and_lists_of_constants_get_the_index_that_serves_them(query, wanted, shop, session):
    made = (
        "create table jobs as select i::bigint as id, case when i > 49500 then 'ready' else 'done' end as state,"
        " now() + i * interval '1 s' as run_at, array[i % 5000] as tags, repeat('x', 100) as pad"
        " from generate_series(1, 50000) i; analyze jobs"
    )
    with having(shop, made, "drop table jobs") as owner:
        for number in range(20):
            owner.execute(f"select * from jobs where {query.format(number)}")
        assert statements(advise(session)) == [f"public.{wanted}"]


def test_what_a_function_asks_with_its_variables_counts(shop, session):
    made = (
        "create table parts as select i / 3 as parent, i as id, repeat('x', 50) as pad from generate_series(1, 30000) i;"
        "analyze parts; set pg_stat_statements.track = 'all';"
        "create function depth_of(p_id int) returns int language plpgsql as $$ declare found int; begin"
        " found := (with recursive t as (select id, 1 as depth from parts where parent = depth_of.p_id union all"
        " select p.id, t.depth + 1 from t join parts p on p.parent = t.id where t.depth < 2) select max(depth) from t);"
        " return found; end $$"
    )
    with having(shop, made, "drop function depth_of; drop table parts") as owner:
        for number in range(20):
            owner.execute(f"select depth_of({number})")
        assert statements(advise(session))[0].startswith("public.parts (parent)")


def test_who_reads_a_table_reads_those_that_inherit_from_it(shop, session):
    made = (
        "create table papers (id int, author int); create table bills () inherits (papers);"
        "insert into bills select i, i / 3 from generate_series(1, 30000) i; analyze papers, bills"
    )
    with having(shop, made, "drop table papers cascade") as owner:
        for number in range(20):
            owner.execute(f"select * from papers where author = {number}")
        assert statements(advise(session)) == ["public.bills (author);"]


def test_a_policy_is_part_of_what_its_role_reads(shop, session):
    made = (
        "create table notes as select i as id, i % 100 as tenant, i % 20 as state from generate_series(1, 50000) i;"
        "analyze notes; alter table notes enable row level security; create role tenant login;"
        "grant select on notes to tenant;"
        "create policy own on notes to tenant using (tenant = current_setting('app.tenant')::int)"
    )
    with having(shop, made, "drop table notes; drop role tenant"):
        with shop.connect(user="tenant", options="-c app.tenant=7") as application:
            for state in range(20):
                application.execute(f"select * from notes where state = {state} order by id limit 5")
        assert statements(advise(session)) == ["public.notes (tenant, state, id);"]


@pytest.fixture
def many(shop) -> Iterator[None]:
    """Give the shop a table without an index, public.many."""
    made = "create table many as select i as k, i as v from generate_series(1, 50000) i; analyze many"
    with having(shop, made, "drop table many"):
        yield


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(("mean_ms", "wanted"), [(0.09, []), (0.1, ["public.many (k);"])])
def test_a_call_that_takes_no_time_waits_for_no_index(mean_ms, wanted, session):
    workload = Workload((Statement("select * from many where k = $1", 1, 1000, 1000 * mean_ms),))
    assert statements(advise(session, workload=workload)) == wanted


@pytest.mark.usefixtures("many")
def test_a_quick_call_is_helped_by_what_a_slow_one_asks_for(session):
    texts = {"select * from many where k = $1": 10, "select k from many where k = $1 order by v": 0.05}
    workload = Workload(
        tuple(Statement(text, number, 100, 100 * ms) for number, (text, ms) in enumerate(texts.items()))
    )
    (proposal,) = advise(session, workload=workload).proposals
    assert {it.statement.text for it in proposal.helped} == set(texts)


@pytest.mark.usefixtures("many")
def test_a_table_that_is_locked_is_named_and_hides_no_other(shop, session):
    texts = ("select * from many where k = $1", "select * from shop.customers where id = $1")
    with shop.connect() as other, other.transaction():
        other.execute("lock table shop.customers in access exclusive mode")
        advice = advise(session, workload=Workload(tuple(Statement(text, 1, 1000, 1e4) for text in texts)))
    assert statements(advice) == ["public.many (k);"]
    assert list(advice.unseen) == ["shop.customers"]


def test_operator_classes_of_one_family_are_one_index(shop, session):
    made = "create table likes (slug varchar); create index on likes (slug varchar_pattern_ops)"
    with having(shop, made, "drop table likes"):
        (index,) = read_catalog(session, {"public.likes"}).tables["public.likes"].indexes
    assert index.keys == ("slug text_pattern_ops",)


@pytest.mark.parametrize(
    ("index", "first"),
    [
        ("orders_customer_id_placed_at_idx", "shop.orders (customer_id, placed_at);"),
        ("order_items_product_id_order_id_idx", "shop.order_items (product_id, order_id);"),
        ("payments_order_id_idx", "shop.payments (order_id);"),
        ("customers_live_email_key", "shop.customers (lower(email));"),
    ],
)
def test_an_index_that_is_gone_is_the_first_to_come_back(index, first, shop, session):
    with without(shop, f"shop.{index}"):
        advice = advise(session, min_calls=5)
    assert statements(advice)[0] == first
    proposal = advice.proposals[0]
    assert proposal.gain > 0.05
    assert proposal.size_bytes > 8192
    assert proposal.helped[0].after < proposal.helped[0].before / 2
    assert proposal.helped[0].plan_after.indexes
    assert [step.cost for step in advice.path] == sorted((step.cost for step in advice.path), reverse=True)


def test_a_budget_is_kept(shop, session):
    with without(shop, "shop.orders_customer_id_placed_at_idx"):
        advice = advise(session, min_calls=5, budget_bytes=8192)
    assert advice.proposals == ()


def test_no_time_is_no_error(shop, session):
    with without(shop, "shop.orders_customer_id_placed_at_idx"):
        advice = advise(session, min_calls=5, seconds=0)
    assert advice.proposals == ()
    assert not advice.complete


def test_advice_is_the_same_each_time(shop, session):
    with without(shop, "shop.orders_customer_id_placed_at_idx"):
        workload = read_workload(session, min_calls=5)
        first, second = (advise(session, workload=workload) for _ in range(2))
    assert statements(first) == statements(second)
    assert first.cost == pytest.approx(second.cost)


def test_a_drop_that_a_statement_needs_is_not_proved(shop, session):
    sample_data.run_workload(shop.url(), calls=CALLS)
    with shop.connect() as connection:
        connection.execute("create index twin_idx on shop.payments (order_id)")
    try:
        names = ["shop.twin_idx", "shop.payments_order_id_idx", "shop.orders_pkey", "shop.orders_placed_at_idx"]
        drops = {it.name: it for it in what_if_dropped(session, names)}
    finally:
        with shop.connect() as connection:
            connection.execute("drop index shop.twin_idx")
    assert drops["shop.twin_idx"].proved
    assert not drops["shop.payments_order_id_idx"].proved  # not both
    assert "order_id" in drops["shop.payments_order_id_idx"].worse[0][0].text
    assert drops["shop.orders_pkey"].reason
    assert not drops["shop.orders_placed_at_idx"].proved
