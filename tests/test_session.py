import os
import signal
import subprocess

import psycopg
import pytest

from conftest import silent_host, unused_port
from pgrunbooks.errors import ConnectError, ConnectionLostError
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target


def target(sandbox, **changes):
    return Target.model_validate({"name": "tested", "dsn": sandbox.url(), **changes})


@pytest.mark.parametrize(
    "statement", ["create table t (a int)", "delete from shop.orders", "create temp table t (a int)"]
)
def test_nothing_can_be_written(session, statement):
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.rows(statement if "temp" not in statement else "select nextval('shop.orders_id_seq')")
    assert session.rows("select 1 as one") == [{"one": 1}]


def test_a_statement_ends_at_its_time_out(server):
    with open_session(target(server, statement_timeout="50ms")) as session, pytest.raises(psycopg.errors.QueryCanceled):
        session.rows("select pg_sleep(10)")


def test_a_lock_is_not_waited_for_beyond_its_time_out(server):
    with server.connect() as other, other.transaction(), open_session(target(server, lock_timeout="50ms")) as session:
        other.execute("lock table shop.orders in access exclusive mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.rows("select count(*) from shop.orders")


def test_it_says_who_it_is_and_knows_the_server(session, server):
    (row,) = session.rows("select application_name from pg_stat_activity where pid = pg_backend_pid()")
    assert row == {"application_name": "pgrunbooks"}
    facts = session.server
    assert facts.major == int(server.data.name.removeprefix("pg"))
    assert (facts.database, facts.role, facts.in_recovery, facts.sees_sessions) == ("shop", "postgres", False, True)
    assert facts.system_identifier.isdigit()
    assert facts.extensions["pg_stat_statements"]


def test_another_database_of_the_server_can_be_asked(server):
    with open_session(target(server), database="postgres") as session:
        assert session.server.database == "postgres"


def test_values_come_back_plain(session):
    (row,) = session.rows(
        "select 1.0::numeric as whole, 1.5::numeric as part, '1 min'::interval as pause, null as nothing,"
        " 'NaN'::float8 as nan, '2026-01-02'::date as day, array[1, 2] as list"
    )
    assert row == {
        "whole": 1,
        "part": 1.5,
        "pause": 60.0,
        "nothing": None,
        "nan": None,
        "day": "2026-01-02",
        "list": [1, 2],
    }


def test_a_role_with_other_habits_of_writing_dates_is_understood(server):
    with server.connect() as connection:
        connection.execute("create role german login")
        connection.execute("alter role german set datestyle = german")
        connection.execute("alter role german set intervalstyle = iso_8601")
    try:
        with open_session(Target(name="tested", dsn=server.url(user="german"))) as session:
            (row,) = session.rows("select '2026-01-02'::date as day, '1 min'::interval as pause")
    finally:
        with server.connect() as connection:
            connection.execute("drop role german")
    assert row == {"day": "2026-01-02", "pause": 60.0}


def test_names_of_others_do_not_come_before_those_of_postgresql(server):
    with server.connect() as owner:
        owner.execute("create schema evil")
        owner.execute("create function evil.current_setting(text) returns text return 'owned'")
        owner.execute("create role misled login")
        owner.execute("grant usage on schema evil to misled")
        owner.execute("alter role misled set search_path = evil, pg_catalog, shop")
        try:
            with open_session(Target(name="tested", dsn=server.url(user="misled"))) as session:
                (row,) = session.rows("select current_setting('search_path') as path")
        finally:
            owner.execute("drop schema evil cascade")
            owner.execute("drop role misled")
    assert row == {"path": "pg_catalog, evil, pg_catalog, shop"}


def test_a_role_that_is_serializable_and_deferrable_by_default_waits_for_nobody(server):
    with server.connect() as owner, server.connect() as writer:
        owner.execute("create role patient login superuser")
        owner.execute("alter role patient set default_transaction_isolation = serializable")
        owner.execute("alter role patient set default_transaction_deferrable = on")
        try:
            writer.execute("begin isolation level serializable")
            writer.execute("create table public.written (a int)")
            with open_session(target(server, dsn=server.url(user="patient"), statement_timeout="1s")) as session:
                assert session.rows("select count(*) >= 0 as answered from shop.orders") == [{"answered": True}]
        finally:
            writer.execute("rollback")
            owner.execute("drop role patient")


def test_who_locks_the_system_catalog_is_named(server):
    with server.connect() as root:
        pid = root.info.backend_pid
        root.execute("begin; lock table pg_class in access exclusive mode")
        with pytest.raises(ConnectError) as caught:
            open_session(target(server, lock_timeout="50ms"))
    assert str(caught.value) == (
        f"cannot connect to tested: session {pid} (role postgres, idle in transaction) has locked the system catalog"
        f" pg_class of database shop, so nobody gets in; from another database: select pg_terminate_backend({pid})"
    )


@pytest.fixture(scope="module")
def listening():
    """Return a server that asks for passwords over TCP on a free port, and its port."""
    port = unused_port()
    with temporary_sandbox({"listen_addresses": "127.0.0.1", "port": str(port)}, sample=False) as sandbox:
        address = sandbox.url("postgres") + f"&port={port}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("create role watcher login password 'right'")
        yield sandbox, port, address


def test_a_wrong_password_is_one_line_without_it(listening):
    _, port, _ = listening
    dsn = f"postgresql://watcher:s3cret@127.0.0.1:{port}/postgres"
    with pytest.raises(ConnectError, match="password authentication failed") as caught:
        open_session(Target(name="prod", dsn=dsn))
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_host_that_does_not_answer_is_given_up(monkeypatch):
    with silent_host() as port:
        dsn = f"host=127.0.0.1 port={port} connect_timeout=2 dbname=x user=x"
        with pytest.raises(ConnectError, match="timeout"):
            open_session(Target(name="prod", dsn=dsn))


def test_nobody_listening_is_one_line(free_port):
    with pytest.raises(ConnectError, match="refused") as caught:
        open_session(Target(name="prod", dsn=f"host=127.0.0.1 port={free_port} dbname=x user=x"))
    assert "\n" not in str(caught.value)


def test_a_server_that_goes_away_is_told_apart_from_a_query_that_fails(listening):
    _, _, address = listening
    with open_session(Target(name="prod", dsn=address)) as session, psycopg.connect(address, autocommit=True) as other:
        with pytest.raises(psycopg.errors.UndefinedTable):
            session.rows("select from no_such_table")
        other.execute("select pg_terminate_backend(%s)", [session.connection.info.backend_pid])
        with pytest.raises(ConnectionLostError, match="terminating connection"):
            session.rows("select 1 as one")


def test_a_password_stands_in_no_process_list(listening):
    _, port, _ = listening
    with open_session(Target(name="prod", dsn=f"postgresql://watcher:right@127.0.0.1:{port}/postgres")):
        processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "watcher:right" not in processes


def test_a_server_that_answers_no_more_is_given_up(server):
    with open_session(target(server, statement_timeout="100ms")) as session:
        backend = session.connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLostError, match=r"^the server went away: it answers no more$"):
                session.rows("select 1")
        finally:
            os.kill(backend, signal.SIGCONT)
