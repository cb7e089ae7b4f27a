"""Statistics that pg_dump leaves out are in the lab too, where the role may read them."""

from conftest import session_on
from pgrunbooks.lab import open_lab
from test_lab import new_database, real_plan

SOURCE = """
create table t (gone int, a int, b int, during int4range, "when" tstzmultirange);
alter table t drop gone;
insert into t
select
    i % 1000, i % 1000 / 10, int4range(i, i + 1 + i % 9),
    tstzmultirange(tstzrange('2026-01-01'::timestamptz + i * interval '1 minute', null))
from generate_series(1, 5000) as i;
create statistics "Of ""t" on a, b, (a + b) from t;
create table parent (a int, b int);
create table child () inherits (parent);
insert into child select i % 1000, i % 1000 / 10 from generate_series(1, 5000) as i;
create statistics of_parent on a, b from parent;
analyze
"""
STATEMENTS = [
    "select from t where a = 55 and b = 5",
    "select a, b from t group by a, b",
    "select a + b, b from t group by a + b, b",
    "select from parent where a = 55 and b = 5",
    "select from t where during @> 77",
    "select from t where during && '[100, 900)'",
    "select from t where \"when\" @> '2026-01-02'::timestamptz",
]


def test_they_make_the_same_estimates(server):
    with new_database(server) as owner:
        owner.execute(SOURCE)
        with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t", "public.parent"]) as lab:
            estimates = [lab.explain(statement).rows for statement in STATEMENTS]
        assert estimates == [real_plan(owner, statement)["Plan Rows"] for statement in STATEMENTS]


def test_a_role_that_may_not_read_them_has_a_lab_without(oldest):
    with new_database(oldest) as owner:
        owner.execute(f"{SOURCE}; create role everybody login; grant select on t to everybody")
        with session_on(oldest.url("lab_source", "everybody")) as session, open_lab(session, ["public.t"]) as lab:
            assert lab.explain(STATEMENTS[0]).rows < real_plan(owner, STATEMENTS[0])["Plan Rows"]
        owner.execute("drop owned by everybody")
