"""Statistics in a lab of an older server: the same rows as ANALYZE wrote on production."""

from conftest import session_on
from pgrunbooks.lab import Index, open_lab
from test_lab import new_database

# A column of every sort of type that ANALYZE treats in its own way.
SOURCE = """
create type mood as enum ('a', 'b', 'c');
create domain positive as int check (value > 0);
create domain small as positive;
create type pair as (x int, y int);
create table t (
    id int, m mood, small small, v varchar(20), ch char(4), numbers int[], words text[], ts tsvector, j jsonb,
    net cidr, host inet, relation regclass, n numeric(10, 2), bytes bytea, u uuid, i interval, letter "char", nm name,
    p pair, point point, bits bit(3), o oid, "Mixed ""Case" text collate "C", late date, often text, empty text,
    "1" int
);
insert into t
select
    n, (array['a', 'b', 'c'])[1 + n % 3]::mood, n % 7 + 1, 'v' || n % 50, 'c' || n % 9, array[n % 5, n % 11],
    array['t' || n % 5], to_tsvector('word' || n % 7 || ' all'), '{"a": 1}', ('10.0.' || n % 5 || '.0/24')::cidr,
    ('10.0.0.' || n % 50)::inet, 'pg_class', n % 77 / 7.0, ('x' || n % 4)::bytea, gen_random_uuid(),
    n % 5 * '1 day'::interval, 'c', 'n' || n % 5, row(n % 3, n % 4 + 1)::pair, point(n, n), (n % 8)::bit(3), n % 5,
    'mixed' || n % 33, '2026-01-01'::date + n % 3000, case when n % 100 = 0 then 'it''s, {"rare}' else 'often' end, null, n / 9
from generate_series(1, 5000) as n;
create index on t (lower(v), (id % 10));
create index on t using gin ((numbers || 1));
create index on t using gin (to_tsvector('simple', v));
create table parent (id int, k text) partition by list (k);
create table child_a partition of parent for values in ('a');
create table child_b partition of parent for values in ('b');
insert into parent select n, case when n % 3 = 0 then 'a' else 'b' end from generate_series(1, 3000) as n;
analyze
"""

STATISTICS = """
select
    s.starelid::regclass::text, a.attname, s.stainherit, s.stanullfrac, s.stawidth, s.stadistinct, slot.*
from pg_statistic as s
join pg_attribute as a on a.attrelid = s.starelid and a.attnum = s.staattnum
cross join lateral (
    values
        (s.stakind1, s.staop1, s.stacoll1, s.stanumbers1, s.stavalues1::text),
        (s.stakind2, s.staop2, s.stacoll2, s.stanumbers2, s.stavalues2::text),
        (s.stakind3, s.staop3, s.stacoll3, s.stanumbers3, s.stavalues3::text),
        (s.stakind4, s.staop4, s.stacoll4, s.stanumbers4, s.stavalues4::text),
        (s.stakind5, s.staop5, s.stacoll5, s.stanumbers5, s.stavalues5::text)
) as slot (kind, operator, collation_oid, numbers, vals)
where s.starelid::regclass::text like 'public.%' and (slot.kind <> 0 or s.stanullfrac = 1)
order by 1, 2, 3, 7
"""


def test_they_are_those_that_analyze_wrote_there(oldest):
    with new_database(oldest) as owner:
        owner.execute(SOURCE)
        owner.execute("set search_path = ''")
        with session_on(oldest.url("lab_source")) as session, open_lab(session, ["public.t", "public.parent"]) as lab:
            assert lab.major == 15
            found = lab._owner.execute(STATISTICS).fetchall()
        assert found == owner.execute(STATISTICS).fetchall()
        assert {row[6] for row in found} == {0, 1, 2, 3, 4, 5}


def test_a_value_that_cannot_be_read_any_more_costs_its_own_column_alone(server):
    with new_database(server) as owner:
        owner.execute(
            "create domain score as int; create type result as (score score); create table t (a int, b result, c int);"
            "insert into t select i % 5, row(i % 5)::result, i % 5 from generate_series(1, 1000) as i; analyze t;"
            "alter domain score add check (value < 0) not valid"
        )
        with session_on(server.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
            assert [len(lab.values("public.t", column)) for column in "abc"] == [5, 0, 5]


def test_reading_them_runs_no_code_of_production_as_a_superuser(oldest):
    with new_database(oldest) as owner:
        owner.execute(
            "create function probe(n int) returns boolean language plpgsql as $$ begin"
            " execute 'create role intruder'; return true;"
            " exception when insufficient_privilege or read_only_sql_transaction then return true; end $$;"
            "create domain probed as int; create table t (a probed[], b int);"
            "insert into t select array[i % 5], i from generate_series(1, 1000) as i; analyze t;"
            "alter domain probed add check (public.probe(value)) not valid"
        )
        with session_on(oldest.url("lab_source")) as session, open_lab(session, ["public.t"]) as lab:
            lab.add(Index("public.t", ("(a || 1)",)))
            stored = "select count(*) from pg_statistic where starelid = 'public.t'::regclass and stakind1 > 0"
            assert lab._owner.execute(stored).fetchone() == (2,)
            assert lab._owner.execute("select from pg_roles where rolname = 'intruder'").fetchall() == []
