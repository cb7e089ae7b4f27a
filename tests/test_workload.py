import pytest

from pgrunbooks.check import Skip
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.workload import Statement, Workload, read_workload

MARK = "select /* told apart */ count(*) from shop.products where stock > $1"


@pytest.fixture
def open_shop():
    return lambda sandbox, **settings: open_session(
        Target.model_validate({"name": "tested", "dsn": sandbox.url(**settings)})
    )


@pytest.fixture
def counted(server):
    """Return a server whose counters are fresh, after four calls of one statement."""
    with server.connect() as session:
        session.execute("select pg_stat_statements_reset()")
        for stock in range(4):
            session.execute(f"select /* told apart */ count(*) from shop.products where stock > {stock}")
    return server


def test_a_statement_has_its_calls_rows_and_time(counted, open_shop):
    with open_shop(counted) as session:
        workload = read_workload(session)
    found = next(it for it in workload.statements if it.text == MARK)
    assert (found.calls, found.rows) == (4, 4)
    assert found.total_ms > 0
    assert found.mean_ms == pytest.approx(found.total_ms / 4)
    assert 0 < workload.window_s < 600


def test_the_statement_that_took_most_time_is_first(counted, open_shop):
    with open_shop(counted) as session:
        times = [it.total_ms for it in read_workload(session).statements]
    assert times == sorted(times, reverse=True)


def test_what_is_left_out_is_counted_by_its_reason(counted, open_shop):
    with counted.connect("postgres") as session:
        session.execute("select 'elsewhere'")
    with counted.connect() as session:
        session.execute("analyze shop.products")
    with open_shop(counted) as session:
        workload = read_workload(session, min_calls=3)
    assert workload.left_out["of another database"] >= 1
    assert workload.left_out["utility statement"] >= 1
    assert workload.left_out["fewer than 3 calls"] >= 1
    assert any(it.text == MARK for it in workload.statements)


def test_a_role_without_rights_is_told_what_it_cannot_see(counted, open_shop):
    with counted.connect() as session:
        session.execute("create role blind login")
    try:
        with open_shop(counted, user="blind") as session:
            workload = read_workload(session)
        assert workload.left_out["text hidden: needs pg_read_all_stats"] >= 1
        assert not any(it.text == MARK for it in workload.statements)
    finally:
        with counted.connect() as session:
            session.execute("drop role blind")


def test_the_extension_may_live_anywhere(counted, open_shop):
    with counted.connect() as session:
        session.execute('create schema "Odd Schema"; alter extension pg_stat_statements set schema "Odd Schema"')
    try:
        with open_shop(counted) as session:
            assert any(it.text == MARK for it in read_workload(session).statements)
    finally:
        with counted.connect() as session:
            session.execute('alter extension pg_stat_statements set schema public; drop schema "Odd Schema"')


def test_an_extension_of_an_older_release_is_read(newest, make_empty_database, open_shop):
    name = make_empty_database().split("@/")[1].split("?")[0]
    with newest.connect(name) as session:
        session.execute("create extension pg_stat_statements version '1.4'")
        session.execute("create table t (a int); select * from t where a = 1")
    with open_shop(newest, database=name) as session:
        workload = read_workload(session)
    assert any(it.text.startswith("select * from t") for it in workload.statements)
    assert workload.window_s is None


def test_without_the_extension_it_says_how_to_get_it(newest, make_empty_database, open_shop):
    name = make_empty_database().split("@/")[1].split("?")[0]
    with open_shop(newest, database=name) as session:
        answer = read_workload(session)
    assert isinstance(answer, Skip)
    assert answer.remedy == "create extension pg_stat_statements;"


def test_since_an_earlier_reading_only_what_came_after_counts():
    earlier = Workload((Statement("a", 1, 10, 100.0, 5), Statement("b", 2, 3, 30.0, 3)), window_s=100.0)
    later = Workload((Statement("a", 1, 15, 160.0, 9), Statement("b", 2, 3, 30.0, 3)), window_s=160.0)
    since = later.since(earlier)
    assert since.statements == (Statement("a", 1, 5, 60.0, 4),)
    assert (since.window_s, since.total_ms) == (60.0, 60.0)


def test_an_entry_that_was_evicted_meanwhile_counts_whole():
    earlier = Workload((Statement("a", 1, 10, 100.0, 5),))
    later = Workload((Statement("a", 1, 4, 40.0, 2),))
    assert later.since(earlier).statements == later.statements


def test_one_text_that_cannot_be_shown_here_hides_all_and_is_told(server, open_shop):
    with server.connect("postgres") as owner:
        owner.execute("create database bytes encoding 'SQL_ASCII' template template0")
        try:
            with server.connect("bytes", client_encoding="sql_ascii") as legacy:
                legacy.execute(b'select 1 as "\xff"')
            with open_shop(server) as session:
                workload = read_workload(session)
        finally:
            owner.execute("drop database bytes with (force)")
            with server.connect() as shop:
                shop.execute("select pg_stat_statements_reset()")
    assert isinstance(workload, Skip)
    assert "encoding" in workload.reason
