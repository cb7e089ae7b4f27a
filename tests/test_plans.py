import pytest

from pgrunbooks.drills import Actors
from pgrunbooks.plans import plans

SLOW = "select (select count(*) from shop.orders where status = 'a secret' and id % 7 = 3) from pg_sleep(60)"


def planned(server, session, *statements, setup="", **options):
    """Return the plans of statements that sessions run at this moment."""
    with Actors(server) as stage:
        actors = []
        for statement in statements:
            actor = stage.enter("busy")
            if setup:
                actor.execute(setup)
            actor.pgconn.send_query(statement.encode())
            actors.append(actor.info.backend_pid)
            stage.wait_until(f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {actors[-1]}")
        return plans(session, actors, **options).plans


def test_a_running_statement_is_planned_without_its_literals(server, session):
    (plan,) = planned(server, session, SLOW)
    assert "Seq Scan on orders" in plan.text
    assert "(cost=" in plan.text
    assert "secret" not in plan.text + plan.query
    assert "Filter: (" in plan.text


def test_literals_are_shown_to_whom_asks_for_them(server, session):
    (plan,) = planned(server, session, SLOW, show_literals=True)
    assert "a secret" in plan.text
    assert plan.query == SLOW


def test_equal_statements_are_planned_once(server, session):
    (plan,) = planned(server, session, SLOW, SLOW)
    assert len(plan.pids) == 2


def test_no_session_means_no_plan(session):
    assert plans(session, []).plans == []
    assert "No statement to explain" in plans(session, [])._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("select 1; select pg_sleep(60)", "more than one statement"),
        ("select pg_sleep(60) /* " + "x" * 3000 + " */", "Its text is cut"),
    ],
)
def test_a_text_that_cannot_be_trusted_is_not_planned(statement, reason, server, session):
    (plan,) = planned(server, session, statement)
    assert plan.text is None
    assert reason in plan.why_not


def test_a_second_statement_never_runs(server, session):
    with server.connect() as connection:
        connection.execute("create table shop.witness (a int)")
    try:
        for text in (
            "select pg_sleep(60) /* ; */; drop table shop.witness",
            "select pg_sleep(60), $q$'$q$; drop table shop.witness --'",
        ):
            (plan,) = planned(server, session, text)
            assert plan.text is None
        with server.connect() as connection:
            assert connection.execute("select count(*) from shop.witness").fetchone() == (0,)
    finally:
        with server.connect() as connection:
            connection.execute("drop table shop.witness")


def test_a_locked_table_is_said_and_not_waited_for(server, session):
    with Actors(server) as stage:
        reader, migration = stage.enter("reader"), stage.enter("migration")
        migration.execute("begin; lock table shop.orders in access exclusive mode")
        reader.pgconn.send_query(b"select count(*) from shop.orders")
        stage.wait_until(f"select wait_event_type = 'Lock' from pg_stat_activity where pid = {reader.info.backend_pid}")
        (plan,) = plans(session, [reader.info.backend_pid]).plans
    assert plan.why_not == "A table of it is locked, so it cannot be planned now."


def test_a_statement_with_parameters_gets_its_generic_plan_where_the_server_can(server, session):
    with Actors(server) as stage:
        actor = stage.enter("busy")
        actor.pgconn.send_query_params(b"select pg_sleep(60) from shop.orders where customer_id = $1", [b"7"])
        pid = actor.info.backend_pid
        stage.wait_until(f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {pid}")
        (plan,) = plans(session, [pid]).plans
    if session.server.major >= 16:
        assert "$1" in plan.text
    else:
        assert "auto_explain" in plan.why_not


def test_a_superuser_does_not_plan_what_others_wrote(server, session):
    with server.connect() as connection:
        connection.execute(
            "create role app login; grant usage on schema shop to app; grant select on shop.orders to app"
        )
    try:
        (plan,) = planned(server, session, SLOW, setup="set session authorization app")
        assert "superuser" not in (plan.why_not or "")  # the session's own role counts, and that is postgres
        with Actors(server) as stage:
            actor = stage.enter("busy", user="app")
            actor.pgconn.send_query(SLOW.encode())
            stage.wait_until(
                f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {actor.info.backend_pid}"
            )
            (plan,) = plans(session, [actor.info.backend_pid]).plans
        assert "connect as a lesser role" in plan.why_not
    finally:
        with server.connect() as connection:
            connection.execute("drop owned by app; drop role app")


def test_a_statement_in_another_database_is_named_with_the_way_to_it(server, session):
    with Actors(server) as stage:
        actor = stage.enter("elsewhere", dbname="postgres")
        actor.pgconn.send_query(b"select pg_sleep(60)")
        stage.wait_until(f"select wait_event = 'PgSleep' from pg_stat_activity where pid = {actor.info.backend_pid}")
        (plan,) = plans(session, [actor.info.backend_pid]).plans
    assert plan.query == "a statement in another database"
    assert "the parameter database" in plan.why_not
