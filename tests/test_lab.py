"""The what-if lab: production's plans without its data, on the newest and the oldest server as production."""

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from conftest import session_on
from pgrunbooks import blueprint
from pgrunbooks import lab as lab_module
from pgrunbooks.advice.catalog import read_catalog
from pgrunbooks.errors import ConnectionLostError, IndexRefusedError, LabError
from pgrunbooks.lab import Index, open_lab
from pgrunbooks.sandbox import server_programs, temporary_sandbox, temporary_standby
from test_sandbox import wait_for

SHOP = [
    f"shop.{name}" for name in ("customers", "products", "orders", "order_items", "payments", "events", "audit_log")
]

STATEMENTS = [
    "select * from shop.orders where id = 4711",
    "select * from shop.orders where customer_id = 5 order by placed_at desc limit 10",
    "select * from shop.orders where status = 'open'",
    "select * from shop.orders where status = 'paid' and total > 500",
    "select status, count(*), sum(total) from shop.orders group by status",
    "select sum(quantity) from shop.order_items",
    "select * from shop.order_items where order_id = any('{1, 5, 9}')",
    "select * from shop.customers where email like 'a%' and deleted_at is null",
    "select o.id, c.email from shop.orders o join shop.customers c on c.id = o.customer_id where c.country = 'DE'",
    "select p.* from shop.payments p join shop.orders o on o.id = p.order_id where o.total > 900 and amount < 0",
    "select * from shop.products where id in (select product_id from shop.order_items where order_id = 99)",
    "select i.product_id, count(*) from shop.order_items i join shop.products p on p.id = i.product_id"
    " where p.price > 50 group by 1 order by 2 desc limit 5",
    "select * from shop.events where session_id = '00000000-0000-0000-0000-000000000000'",
    "update shop.orders set status = 'paid' where customer_id = 17",
]

# One of everything that a restore may trip over.
ODD = """
create extension pg_trgm;
create schema "Odd Schema";
create type "Odd Schema".mood as enum ('sad', 'it''s ok', 'happy');
create domain "Odd Schema".positive as integer check (value > 0);
create collation "Odd Schema".plain from "C";
create function "Odd Schema".folded(t text) returns text immutable language sql as $$ select lower(t) $$;
create function "Odd Schema".later() returns setof "Odd Schema".mood language sql
    begin atomic select 'happy'::"Odd Schema".mood; end;
create sequence "Odd Schema".numbers;
create table "Odd Schema".elsewhere (id int primary key);
create table "Odd Schema"."Odd ""Table"" of"  (
    id bigint generated always as identity primary key,
    number bigint default nextval('"Odd Schema".numbers'),
    other int references "Odd Schema".elsewhere,
    "Mixed Case" "Odd Schema".mood not null,
    amount "Odd Schema".positive,
    doubled int generated always as (amount * 2) stored,
    name text collate "Odd Schema".plain,
    notes text,
    during int4range,
    exclude using gist (during with &&)
) with (fillfactor = 70);
create index odd_folded on "Odd Schema"."Odd ""Table"" of" ("Odd Schema".folded(name));
create index odd_trigrams on "Odd Schema"."Odd ""Table"" of" using gin (notes gin_trgm_ops);
create index odd_signature on "Odd Schema"."Odd ""Table"" of" using gist (notes gist_trgm_ops (siglen = 16));
create index odd_covering on "Odd Schema"."Odd ""Table"" of" (amount desc nulls last) include (name) where amount > 5;
create statistics "Odd Schema".both on amount, other from "Odd Schema"."Odd ""Table"" of";
create function "Odd Schema".trigger() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger odd before insert on "Odd Schema"."Odd ""Table"" of" for each row execute function "Odd Schema".trigger();
create view "Odd Schema".seen as select t.id, t.name from "Odd Schema"."Odd ""Table"" of" t where amount > 7;
create table "Odd Schema".parent (id int, at date);
create table "Odd Schema".child (extra text) inherits ("Odd Schema".parent);
insert into "Odd Schema".elsewhere select generate_series(1, 100);
insert into "Odd Schema"."Odd ""Table"" of" (other, "Mixed Case", amount, name, notes, during)
    select n % 100 + 1, 'happy', n, 'Name ' || n % 500, 'note ' || n, int4range(n, n + 1)
    from generate_series(1, 5000) n;
insert into "Odd Schema".child select n, '2026-01-01'::date + n % 300, 'x' from generate_series(1, 5000) n;
create role everybody;
alter table "Odd Schema"."Odd ""Table"" of" enable row level security;
create policy odd on "Odd Schema"."Odd ""Table"" of" using (amount > 3);
grant select on all tables in schema "Odd Schema" to everybody;
analyze;
"""
ODD_TABLE = '"Odd Schema"."Odd ""Table"" of"'


@pytest.fixture
def from_afar(monkeypatch):
    """Let this machine have no programs of an older server, so that the embedded one is its lab."""
    monkeypatch.setattr(lab_module, "installed_programs", lambda major: None)


@pytest.fixture(params=["newest", "oldest", "oldest from_afar"])
def server(request):
    name, *more = request.param.split()
    for fixture in more:
        request.getfixturevalue(fixture)
    return request.getfixturevalue(name)


@pytest.fixture(scope="module")
def labs():
    """Keep one lab of each server and planner for all the tests that leave it as it was."""
    with contextlib.ExitStack() as held:
        opened = {}

        def lab_of(server):
            key = (server.directory, lab_module.installed_programs(15))
            if key not in opened:
                with session_on(server.url()) as session:
                    opened[key] = held.enter_context(open_lab(session, SHOP))
            return opened[key]

        yield lab_of


@pytest.fixture
def lab(server, labs):
    lab = labs(server)
    yield lab
    for handle in list(lab._added):
        lab.remove(handle)


@contextlib.contextmanager
def new_database(server, name="lab_source", **options):
    with server.connect("postgres") as connection:
        words = " ".join(f"{option} '{value}'" for option, value in options.items())
        connection.execute(f"create database {name} template template0 {words}")
        try:
            with server.connect(name) as owner:
                yield owner
        finally:
            connection.execute(f"drop database {name} with (force)")
            connection.execute("drop role if exists everybody")


def shape(tree, schema=""):
    """Return what a plan does: node types, relations and indexes."""
    words = ("Node Type", "Join Type", "Relation Name", "Index Name", "Strategy")
    return [[tree.get(word) for word in words], [shape(child) for child in tree.get("Plans", ())]]


def real_plan(connection, statement):
    return connection.execute(f"explain (format json, verbose) {statement}").fetchone()[0][0]["Plan"]


def test_plans_and_costs_are_those_of_production(server, lab):
    assert (lab.left_out, set(SHOP) <= lab.tables) == ({}, True)
    with server.connect() as production:
        # PostgreSQL 16 to 18 changed costs of grouping
        is_same_planner = production.info.server_version // 10_000 == lab.major
        for statement in STATEMENTS:
            plan, real = lab.explain(statement), real_plan(production, statement)
            assert shape(plan.tree) == shape(real), statement
            assert plan.cost == pytest.approx(real["Total Cost"], rel=0.02 if is_same_planner else 0.05), statement
            assert plan.rows == real["Plan Rows"], statement


class TestAnAddedIndex:
    def test_is_used_and_known_by_its_handle(self, lab):
        before = lab.explain("select * from shop.orders where total = $1")
        handle = lab.add(Index("shop.orders", ("total",)))
        after = lab.explain("select * from shop.orders where total = $1")
        assert (before.indexes, after.indexes) == (frozenset(), {handle})
        assert after.cost < before.cost / 10

    def test_that_is_removed_is_used_no_more(self, lab):
        handle = lab.add(Index("shop.orders", ("total",)))
        lab.remove(handle)
        assert lab.explain("select * from shop.orders where total = $1").indexes == frozenset()
        with pytest.raises(LabError, match="no added index has this handle"):
            lab.remove(handle)

    def test_leaves_the_costs_of_everything_else_as_they_were(self, lab):
        before = [lab.explain(statement).cost for statement in STATEMENTS]
        lab.remove(lab.add(Index("shop.orders", ("total",))))
        assert [lab.explain(statement).cost for statement in STATEMENTS] == before

    def test_can_be_shown_alone(self, lab):
        one = lab.add(Index("shop.orders", ("total",)))
        other = lab.add(Index("shop.payments", ("amount",)))
        statements = ["select * from shop.orders where total = $1", "select * from shop.payments where amount = $1"]
        used = []
        for shown in ([], [one], [other], [one, other]):
            lab.show_only(shown)
            used.append(set().union(*(lab.explain(statement).indexes for statement in statements)))
        assert used == [set(), {one}, {other}, {one, other}]

    def test_on_a_partitioned_table_counts_as_one(self, lab):
        handle = lab.add(Index("shop.events", ("session_id",), where="session_id is not null"))
        plan = lab.explain("select * from shop.events where session_id = $1")
        assert plan.indexes == {handle}
        lab.show_only([])
        assert handle not in lab.explain("select * from shop.events where session_id = $1").indexes

    def test_on_a_partitioned_table_leaves_those_of_its_partitions_alone(self, lab):
        partition = min(table for table in lab.tables if table.startswith("shop.events_"))
        own = lab.add(Index(partition, ("session_id",)))
        both = lab.add(Index("shop.events", ("session_id",)))
        lab.show_only([])
        lab.show_only([own])
        assert lab.explain(f"select * from {partition} where session_id = $1").indexes == {own}
        lab.remove(both)
        lab.remove(own)

    def test_on_an_expression_is_in_the_order_of_the_rows_as_far_as_its_column_is(self, lab):
        handle = lab.add(Index("shop.orders", ("(-id)", "(id / 10)", "md5(id::text)")))
        correlations = "select correlation from pg_stats where tablename = %s order by attname"
        falling, rising, none = (row[0] for row in lab._owner.execute(correlations, [handle]).fetchall())
        assert (falling, rising, none) == pytest.approx((-1, 1, 0), abs=0.3)

    def test_may_be_on_a_type_that_has_no_equality(self, lab):
        handle = lab.add(Index("shop.orders", ("point(total::float8, id)",), method="gist"))
        near = "select * from shop.orders order by point(total::float8, id) <-> '(5, 5)' limit 3"
        assert lab.explain(near).indexes == {handle}

    def test_that_postgresql_refuses_is_refused_with_its_words(self, lab):
        with pytest.raises(IndexRefusedError, match='operator class "gin_trgm_ops" does not exist'):
            lab.add(Index("shop.orders", ("status gin_trgm_ops",), method="gin"))
        with pytest.raises(IndexRefusedError, match="must be marked IMMUTABLE"):
            lab.add(Index("shop.orders", ("(random())",)))
        assert lab.explain("select * from shop.orders where id = $1").indexes == {"shop.orders_pkey"}

    @pytest.mark.parametrize(
        "index",
        [
            Index("shop.orders", ("customer_id",)),
            Index("shop.orders", ("total",)),
            Index("shop.orders", ("status", "placed_at desc")),
            Index("shop.orders", ("placed_at",), where="status = 'open'"),
            Index("shop.customers", ("email text_pattern_ops",)),
            Index("shop.customers", ("lower(full_name)", "country")),
            Index("shop.order_items", ("product_id",), include=("quantity",)),
            Index("shop.order_items", ("order_id", "line_number"), unique=True),
            Index("shop.order_items", ("quantity",)),
        ],
        ids=lambda index: index.statement(concurrently=False),
    )
    def test_has_about_the_size_of_a_real_one(self, server, lab, index):
        estimate = lab.size_bytes(lab.add(index))
        with server.connect() as production, contextlib.suppress(psycopg.Rollback), production.transaction():
            production.execute(index.statement("shop_try", concurrently=False))
            (real,) = production.execute("select pg_relation_size('shop.shop_try')").fetchone()
            raise psycopg.Rollback
        assert estimate == pytest.approx(real, rel=0.3)


def test_a_hidden_index_is_as_good_as_dropped(lab):
    statement = "select * from shop.orders where id = $1"
    costs = [lab.explain(statement).cost]
    lab.hide("shop.orders_pkey")
    assert lab.explain(statement).indexes == frozenset()
    lab.show("shop.orders_pkey")
    costs.append(lab.explain(statement).cost)
    assert costs[0] == costs[1]
    with pytest.raises(LabError, match="nowhere"):
        lab.hide("shop.nowhere")


def test_the_size_of_a_real_index_is_what_it_has(server, lab):
    with server.connect() as production:
        assert production.execute("select pg_relation_size('shop.orders_pkey')").fetchone() == (
            lab.size_bytes("shop.orders_pkey"),
        )


def test_values_show_the_skew_that_a_generic_plan_hides(lab):
    statement = "select * from shop.orders where status = $1"
    values = lab.values("shop.orders", "status")
    rows = {it.text: lab.explain(statement, [it.text]).rows for it in values if it.frequency}
    assert rows["paid"] > 50 * rows["open"]
    assert lab.explain(statement, ["open"]).indexes == {"shop.orders_open_idx"}
    assert "shop.orders_open_idx" not in lab.explain(statement).indexes


def test_values_are_common_ones_with_their_share_and_bounds_of_the_histogram(lab):
    common = lab.values("shop.orders", "status")
    assert sum(it.frequency for it in common) == pytest.approx(1)
    bounds = [int(it.text) for it in lab.values("shop.orders", "id") if it.frequency is None]
    assert bounds == sorted(bounds)
    assert len(bounds) > 50
    assert lab.values("shop.orders", "nothing") == []


@pytest.mark.parametrize(
    ("statement", "values", "says"),
    [
        ("select * from nowhere", None, 'relation "nowhere" does not exist'),
        ("select 1; select 2", None, "more than one statement"),
        ("vacuum", None, "syntax error"),
        ("refresh materialized view nothing", None, "a utility statement has no plan"),
        ("select * from shop.orders where id = $1", [], "has 1 parameters, got 0 values"),
        ("select * from shop.orders where id = $1", ["x"], "invalid input syntax for type bigint"),
    ],
)
def test_what_cannot_be_explained_says_why(lab, statement, values, says):
    with pytest.raises(LabError, match=says):
        lab.explain(statement, values)
    assert lab.explain("select * from shop.orders where id = $1", [None]).rows <= 1


def test_statements_need_not_name_the_schema(lab):
    assert lab.explain("select * from orders where id = $1").indexes == {"shop.orders_pkey"}


class TestItsVersion:
    def test_is_that_of_production_where_this_machine_has_one(self, newest, oldest, labs):
        assert (labs(newest).major, labs(oldest).major) == (18, 15)

    def test_is_the_embedded_one_where_it_has_none(self, oldest, labs, from_afar):
        assert labs(oldest).major == 18

    @pytest.mark.parametrize("mode", [0o755, 0o600], ids=["fails", "may not be run"])
    def test_is_the_embedded_one_where_that_does_not_start(self, oldest, monkeypatch, mode):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            for program in ("initdb", "postgres"):
                (Path(folder) / program).write_text("#!/bin/sh\necho 'a library is missing' >&2; exit 1\n")
                (Path(folder) / program).chmod(mode)
            monkeypatch.setattr(lab_module, "installed_programs", lambda major: Path(folder))
            with session_on(oldest.url()) as session, open_lab(session, ["shop.orders"]) as lab:
                assert lab.major == 18

    @pytest.mark.parametrize("own_first", [True, False])
    def test_is_the_one_that_can_hold_more(self, oldest, own_first):
        programs = sorted([oldest.programs, server_programs()], key=lambda it: (it == oldest.programs) != own_first)
        with new_database(oldest) as owner:
            owner.execute(
                'create extension "uuid-ossp"; create table plain (a int); create table own (a uuid, check (a <> uuid_nil()));'
                # of an index on such a function neither has the table
                "create function short(text) returns text immutable language sql as $$ select uuid_ns_dns()::text || $1 $$;"
                "create table none (a text); create index on none (short(a))"
            )
            tables = ["public.plain", "public.own", "public.none"]
            with session_on(oldest.url("lab_source")) as session, open_lab(session, tables, programs) as lab:
                assert (lab.major, lab.tables) == (15, {"public.plain", "public.own"})


class TestAPlanWithoutValues:
    def test_names_the_indexes_of_every_partition_that_its_parameter_may_mean(self, server):
        with new_database(server) as owner:
            owner.execute(
                "create table t (k text, n int) partition by list (k);"
                "create table t_a partition of t for values in ('a'); create table t_b partition of t for values in ('b');"
                "insert into t select case when i % 2 = 0 then 'a' else 'b' end, i from generate_series(1, 20000) as i;"
                "create index on t (k, n); analyze"
            )
            with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
                plan = lab.explain("select * from t where k = $1 and n = $2")
                assert plan.indexes == {"public.t_a_k_n_idx", "public.t_b_k_n_idx"}
                assert lab.explain("select * from t where k = $1 and n = $2", ["a", 5]).indexes == {
                    "public.t_a_k_n_idx"
                }

    def test_sees_an_index_that_came_or_went_since_it_was_asked_last(self, lab):
        statement = "select * from shop.orders where total = $1"
        seen = [lab.explain(statement).indexes]
        handle = lab.add(Index("shop.orders", ("total",)))
        for shown in ([handle], []):
            lab.show_only(shown)
            seen.append(lab.explain(statement).indexes)
        assert seen == [frozenset(), {handle}, frozenset()]

    def test_may_have_parameters_that_are_never_null(self, server):
        with new_database(server) as owner:
            owner.execute(
                "create domain whole as int not null; create domain more as whole; create table t (a more, b int);"
                "insert into t select i, i from generate_series(1, 20000) as i; create index on t (b); analyze t"
            )
            with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
                assert lab.explain("update t set a = $1 where b = $2").indexes == {"public.t_b_idx"}
                assert lab.explain("update t set a = $1 where b = $2", [1, 2]).indexes == {"public.t_b_idx"}


def test_odd_names_and_objects_are_restored(server):
    wanted = [ODD_TABLE, '"Odd Schema".parent', '"Odd Schema".seen']
    with new_database(server) as owner:
        owner.execute(ODD)
        with session_on(server.url("lab_source")) as session, open_lab(session, wanted) as lab:
            assert lab.left_out == {}
            assert lab.tables == {*wanted, '"Odd Schema".child'}
            for statement in (
                f"""select * from {ODD_TABLE} where "Odd Schema".folded(name) = 'name 1'""",
                f"select * from {ODD_TABLE} where notes like '%note 17%'",
                f"select amount, name from {ODD_TABLE} where amount > 4990 order by amount desc nulls last",
                "select * from \"Odd Schema\".parent where at = '2026-02-01'",
                'select * from "Odd Schema".seen where id = 5',
            ):
                assert shape(lab.explain(statement).tree) == shape(real_plan(owner, statement)), statement
            handle = lab.add(Index(ODD_TABLE, ('"Odd Schema".folded(notes)', '"Mixed Case"')))
            assert lab.explain(
                f'select * from {ODD_TABLE} where "Odd Schema".folded(notes) = $1', ["note 5"]
            ).indexes == {handle}


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_names_and_values_are_those_of_any_encoding(server, encoding):
    with new_database(server, encoding=encoding, lc_collate="C", lc_ctype="C") as owner:
        owner.execute("set client_encoding = 'utf8'")
        owner.execute(
            "create table cafés (é text); insert into cafés select 'é' || i % 5 from generate_series(1, 100) as i;"
            "create index on cafés (é); analyze cafés"
        )
        with session_on(server.url("lab_source")) as session, open_lab(session, ['public."cafés"']) as lab:
            assert {it.text for it in lab.values('public."cafés"', "é")} == {f"é{n}" for n in range(5)}
            assert lab.explain("select from cafés where é = 'é4'").rows == 20
            assert lab.size_bytes(lab.add(Index('public."cafés"', ('"é"',)))) == lab.size_bytes('public."cafés_é_idx"')


def test_what_a_page_of_each_tablespace_costs_is_known(server):
    options = ["seq_page_cost = 0.5, random_page_cost = 0.75", "random_page_cost = 40"]
    with server.connect("postgres") as connection, new_database(server) as owner:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute(f"alter tablespace pg_default set ({options[0]})")
        connection.execute(f"create tablespace slow location '' with ({options[1]})")
        try:
            owner.execute(
                "create table t (a int primary key, b int) partition by hash (a); create index on t (b) tablespace slow;"
                "create table p partition of t for values with (modulus 1, remainder 0) tablespace slow;"
                "insert into t select i, i from generate_series(1, 2000) as i; analyze"
            )
            with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
                for statement in ("select from t", "select from t where a = 7", "select from t where b = 7"):
                    assert lab.explain(statement).cost == real_plan(owner, statement)["Total Cost"], statement
        finally:
            owner.execute("drop table t")
            connection.execute("drop tablespace slow")
            connection.execute("alter tablespace pg_default reset (seq_page_cost, random_page_cost)")


class TestATableIsLeftOut:
    def test_where_its_type_comes_from_an_extension_that_is_missing(self, oldest, from_afar):
        with new_database(oldest) as owner:
            owner.execute(
                'create extension xml2; create extension "uuid-ossp"; create table fine (a int primary key);'
                "create function short(text) returns text immutable language sql as"
                " $$ select uuid_generate_v5(uuid_ns_dns(), $1)::text $$;"
                "create table works (a text); create index on works (short(a));"
                "create table fails (a text check (a <> uuid_nil()::text));"
                "create table filled (a uuid default uuid_generate_v4() not null, b text default ' DEFAULT ', c int);"
                "create materialized view seen as select * from works"
            )
            tables = [f"public.{name}" for name in ("fine", "works", "fails", "filled", "typo", "seen")]
            with session_on(oldest.url("lab_source")) as session, open_lab(session, tables) as lab:
                assert lab.tables == {"public.fine", "public.filled"}
                lab.explain("select a, b, c from public.filled where a is null")
                assert lab.left_out == {
                    "public.typo": "no such table in the database lab_source",
                    "public.fails": "public.fails: function public.uuid_nil() does not exist",
                    "public.works": "its index public.works_short_idx: function uuid_ns_dns() does not exist",
                    "public.seen": "public.seen: what it needs is missing",
                }

    def test_a_collation_that_it_lacks_is_not_one_that_sorts_by_bytes(self, oldest, from_afar):  # it has no ICU
        with new_database(oldest, locale_provider="icu", icu_locale="en", lc_collate="C", lc_ctype="C") as owner:
            owner.execute(
                "create collation plain (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
                'create table words (a text, b text collate "C", c text collate "de-x-icu", d text collate plain);'
                "insert into words select i, i, i, i from generate_series(1, 20000) as i; analyze words"
            )
            with session_on(oldest.url("lab_source")) as session, open_lab(session, ["public.words"]) as lab:
                added = {column: lab.add(Index("public.words", (column,))) for column in "abcd"}
                plans = [lab.explain(f"select from words where {column} like '12%'") for column in "abc"]
                equal = lab.explain("select from words where d = '12'")
                columns = read_catalog(session).tables["public.words"].columns
            assert [plan.indexes for plan in plans] == [frozenset(), {added["b"]}, frozenset()]
            assert equal.indexes == {added["d"]}
            assert [columns[column].sorts_bytes for column in "abcd"] == [False, True, False, False]

    def test_where_it_is_locked(self, server):
        with server.connect() as other, other.transaction():
            other.execute("lock table shop.orders in access exclusive mode")
            start = time.monotonic()
            with session_on(server.url()) as session, open_lab(session, SHOP) as lab:
                assert time.monotonic() - start < 10
                assert set(lab.left_out) == {"shop.orders"}
                assert "shop.orders: locked in ACCESS EXCLUSIVE mode" in lab.left_out["shop.orders"]
                assert lab.explain("select * from shop.customers where id = $1").indexes == {"shop.customers_pkey"}

    def test_where_the_lock_comes_in_between(self, server, monkeypatch):
        look, calls = blueprint._locked, []

        def blind_once(session, oids):
            calls.append(oids)
            return look(session, oids) if len(calls) > 1 else {}

        monkeypatch.setattr(blueprint, "_locked", blind_once)
        with server.connect() as other, other.transaction():
            other.execute("lock table only shop.events in access exclusive mode")
            with session_on(server.url()) as session, open_lab(session, SHOP) as lab:
                assert set(lab.left_out) == {"shop.events"}

    def test_where_the_role_may_not_read_it(self, server):
        with server.connect() as owner:
            owner.execute("create role reader login; grant usage on schema shop to reader")
            owner.execute("grant select on shop.orders to reader")
            try:
                with session_on(server.url(user="reader")) as session:
                    with open_lab(session, ["shop.orders", "shop.payments"]) as lab:
                        assert lab.tables == {"shop.orders"}
                        assert "grant select on shop.payments to reader;" in lab.left_out["shop.payments"]
                    with pytest.raises(LabError, match=r"shop\.events: reader lacks SELECT on ") as error:
                        open_lab(session, ["shop.events"])
                assert "tables of its family, such as shop.events_" in str(error.value)
                assert str(error.value).endswith(": grant pg_read_all_data to reader;")
            finally:
                owner.execute("drop owned by reader; drop role reader")


def test_nothing_is_changed_or_locked_on_production(server):
    seen, stop = set(), threading.Event()
    counts = (
        "select (select count(*) from pg_class), (select count(*) from pg_proc), (select count(*) from pg_extension),"
        " (select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_all_tables where schemaname = 'shop')"
    )

    def watch():
        with server.connect() as watcher:
            while not stop.is_set():
                rows = watcher.execute(
                    "select l.mode, l.relation::regclass::text from pg_locks l join pg_stat_activity a using (pid)"
                    " where a.application_name = 'pgrunbooks' and l.locktype = 'relation'"
                ).fetchall()
                seen.update(rows)

    def are_settled():  # what other tests wrote is counted within a second
        was = owner.execute(counts).fetchone()
        owner.execute("select pg_sleep(1.5)")
        return owner.execute(counts).fetchone() == was

    with server.connect() as owner, session_on(server.url()) as session:
        wait_for(are_settled)
        before = owner.execute(counts).fetchone()
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            with open_lab(session, SHOP):
                pass
        finally:
            stop.set()
            thread.join()
        assert owner.execute(counts).fetchone() == before
    assert {mode for mode, _ in seen} == {"AccessShareLock"}
    assert "shop.orders" in {relation for _, relation in seen}


def test_a_standby_does_as_well_as_its_primary(newest):
    with temporary_standby(newest) as standby, session_on(standby.url()) as session, open_lab(session, SHOP) as lab:
        assert lab.explain("select * from shop.orders where id = $1").indexes == {"shop.orders_pkey"}


def test_everything_is_gone_afterwards(server):
    with session_on(server.url()) as session, open_lab(session, SHOP) as lab:
        directory, socket = lab._sandbox.directory, lab._sandbox.socket
        postmaster = (lab._sandbox.data / "postmaster.pid").read_text().split()[0]
        assert lab._sandbox.data.stat().st_mode & 0o077 == 0
    assert not directory.exists()
    assert not socket.exists()
    wait_for(lambda: not Path(f"/proc/{postmaster}").exists())


@pytest.fixture
def temporary_files(monkeypatch):
    """Return a short folder, open to the server's user, where everything temporary goes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_text_that_looks_like_an_extension_runs_no_code_as_a_superuser(server):
    fake = "\n--\n-- TOC entry 1 (class 3079 OID 1)\n-- Name: x; Type: EXTENSION; Schema: -; Owner: -\n--\n\n"
    with new_database(server) as owner:
        owner.execute("create extension pg_trgm; create table t (a text); create index on t using gin (a gin_trgm_ops)")
        owner.execute(
            f"set check_function_bodies = off; create procedure p() language sql as $$ {fake}create role intruder; -- $$".encode()
        )
        with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
            assert lab._owner.execute("select from pg_roles where rolname = 'intruder'").fetchall() == []


def test_a_server_that_dies_meanwhile_is_one_clear_error(monkeypatch, temporary_files):
    monkeypatch.setattr(blueprint, "dump", _dying(blueprint.dump))
    with temporary_sandbox(sample=False) as production, production.connect("postgres") as owner:
        owner.execute("create table t (a int primary key)")
        with session_on(production.url("postgres")) as session:
            before = set(temporary_files.iterdir())
            with pytest.raises(ConnectionLostError, match="the server went away while its schema was read"):
                open_lab(session, ["public.t"])
            assert set(temporary_files.iterdir()) == before
        assert _children_called("pg_dump") == []


def _dying(dump):
    def dying(session, *arguments, **options):
        with pytest.raises(psycopg.errors.AdminShutdown):
            session.connection.execute("select pg_terminate_backend(pg_backend_pid())")
        return dump(session, *arguments, **options)

    return dying


def _children_called(name):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(path.read_text().split())
    return [stat for stat in found if stat[1] == f"({name})" and stat[3] == str(os.getpid())]
