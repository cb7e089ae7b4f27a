"""The doctor before real servers: each way of not getting in, each level of rights, and the script that gives them."""

import io
import itertools
import json
import subprocess
import sys
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console

from conftest import silent_host, unused_port
from pgrunbooks import doctor
from pgrunbooks.check import registry
from pgrunbooks.connecting import STEPS
from pgrunbooks.doctor import examine
from pgrunbooks.drills.pooler_waiting import pooler
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.privileges import FILES, LEVELS
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.targets import Target

SECRET = "s3cret-and-long"
NUMBERS = itertools.count(1)


def target(dsn):
    return Target(name="tested", dsn=dsn)


def printed(found, width=100):
    console = Console(file=io.StringIO(), width=width)
    doctor.show(found, console)
    return console.file.getvalue()


def failure(dsn, **arguments):
    """Return the step that failed; those before it are ok or not come to, those after it not tried."""
    found = examine(target(dsn), **arguments)
    assert [step.name for step in found.connection] == list(STEPS)
    states = [step.state for step in found.connection]
    at = states.index("failed")
    assert set(states[at + 1 :]) <= {"not tried"}
    assert states[0] == "ok" or at == 0
    assert (found.connected, found.exit_status, found.levels) == (False, 3, ())
    text = printed(found)
    assert SECRET not in text + repr(found)
    assert f"cannot connect ({found.connection[at].name})" in text
    assert found.connection[at].remedy
    return found.connection[at]


def states(steps):
    return {step.name: step.state for step in steps}


def levels(found):
    return [level.there for level in found.levels]


# ---- connecting --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listening():
    """Return a server that asks for passwords over TCP, its port, and a way in for its superuser."""
    port = unused_port()
    with temporary_sandbox({"listen_addresses": "127.0.0.1", "port": str(port)}, sample=False) as sandbox:
        local = f"host={sandbox.socket} port={port} dbname=postgres user=postgres"
        with psycopg.connect(local, autocommit=True) as connection:
            connection.execute("create role watcher login password 'right'")
            connection.execute("create role barred")
            connection.execute("create role crowd login connection limit 0")
            connection.execute("create database closed")
            connection.execute("revoke connect on database closed from public")
            connection.execute("create database crowded connection limit 0")
        yield sandbox, port, local


def test_an_unknown_host_fails_at_its_name():
    step = failure(f"host=no-such-host.invalid user=u dbname=d password={SECRET}")
    assert step.name == "name"
    assert "no-such-host.invalid has no address" in step.says
    assert "getent hosts no-such-host.invalid" in step.remedy


def test_a_missing_socket_fails_at_its_name():
    step = failure("host=/no/such/folder user=u dbname=d")
    assert (step.name, step.says) == ("name", "socket /no/such/folder/.s.PGSQL.5432 does not exist")


def test_a_closed_port_fails_at_tcp(free_port):
    step = failure(f"host=127.0.0.1 port={free_port} user=u dbname=d password={SECRET}")
    assert (step.name, step.says) == ("TCP", f"127.0.0.1 port {free_port}: connection refused")
    assert f"pg_isready -p {free_port}" in step.remedy


def test_a_silent_port_fails_at_tcp():
    with silent_host() as port:
        step = failure(f"host=127.0.0.1 port={port} connect_timeout=2 user=u dbname=d password={SECRET}")
    assert step.name == "TCP"
    assert step.says == f"127.0.0.1 port {port} takes the connection and then says nothing within 2 s"


def test_encryption_that_the_server_does_not_have_fails_at_tls(listening):
    _, port, _ = listening
    step = failure(f"postgresql://watcher:{SECRET}@127.0.0.1:{port}/postgres?sslmode=require")
    assert (step.name, step.says) == ("TLS", "sslmode=require asks for encryption and the server has none")


@pytest.mark.parametrize(
    ("who", "says", "remedy"),
    [
        (f"user=watcher password={SECRET}", 'password authentication failed for user "watcher"', "\\password watcher"),
        (f"user=nobody password={SECRET}", 'password authentication failed for user "nobody"', "no such role"),
        ("user=watcher", "the server asks role watcher for a password and none was given", "~/.pgpass"),
    ],
)
def test_a_wrong_or_missing_password_fails_at_authentication(listening, monkeypatch, who, says, remedy):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    step = failure(f"host=127.0.0.1 port={listening[1]} dbname=postgres {who}")
    assert (step.name, step.says) == ("authentication", says)
    assert remedy in step.remedy


def test_a_secret_of_the_environment_stays_hidden(listening, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert failure(f"host=127.0.0.1 port={listening[1]} dbname=postgres user=watcher").name == "authentication"


@pytest.mark.parametrize(
    ("changes", "name", "says", "next_step"),
    [
        ({"user": "no one"}, "authentication", 'role "no one" does not exist', "doctor --target tested --script"),
        (
            {"user": "barred"},
            "authentication",
            'role "barred" is not permitted to log in',
            'alter role "barred" login;',
        ),
        ({"dbname": "nowhere"}, "database", 'database "nowhere" does not exist', "crowded, postgres"),
        (
            {"dbname": "closed", "user": "watcher"},
            "database",
            'permission denied for database "closed"',
            'grant connect on database "closed" to "watcher";',
        ),
        ({"user": "crowd"}, "slots", 'too many connections for role "crowd"', 'alter role "crowd" connection limit 5;'),
        (
            {"dbname": "crowded", "user": "watcher"},
            "slots",
            'too many connections for database "crowded"',
            'alter database "crowded" connection limit -1;',
        ),
    ],
)
def test_a_refusal_fails_at_its_own_step_with_its_own_next_step(listening, changes, name, says, next_step):
    step = failure(make_conninfo(listening[2], **changes))
    assert (step.name, step.says) == (name, says)
    assert next_step in f"{step.remedy} {step.sql}"


def test_a_client_without_an_entry_in_pg_hba_conf_is_told_the_line(listening):
    sandbox, port, local = listening
    rules = sandbox.data / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(local, autocommit=True) as connection:
        try:
            rules.write_text("local all all trust\n")
            connection.execute("select pg_reload_conf()")
            step = failure(f"host=127.0.0.1 port={port} user=watcher dbname=postgres password={SECRET}")
        finally:
            rules.write_text(before)
            connection.execute("select pg_reload_conf()")
    assert (step.name, "no pg_hba.conf entry" in step.says) == ("authentication", True)
    assert 'host  "postgres"  "watcher"  127.0.0.1/32  scram-sha-256' in step.remedy


def connected(url):
    """Return a connection; the slot of one that was just closed is free a moment later."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return psycopg.connect(url)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise


def test_an_exhausted_server_fails_at_the_slots(server):
    few = {"max_connections": "5", "superuser_reserved_connections": "1"}
    with temporary_sandbox(few, sample=False, programs=server.programs) as sandbox:
        everybody, superuser = sandbox.url("postgres", "watcher"), sandbox.url("postgres")
        held = [psycopg.connect(superuser, autocommit=True)]
        held[0].execute("create role watcher login")
        try:
            found = examine(target(everybody))
            assert found.connection[-1].says == "2 of 5 used, 2 left for everybody and 1 reserved"
            held += [connected(everybody) for _ in range(3)]
            step = failure(everybody)
            assert (step.name, "remaining connection slots are reserved" in step.says) == ("slots", True)
            held.append(connected(superuser))
            step = failure(everybody)
            assert (step.name, step.says) == ("slots", "sorry, too many clients already")
            unseen = states(examine(target(everybody)).connection)
            assert (unseen["authentication"], unseen["database"]) == ("not tried", "not tried")
        finally:
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{SECRET}@[h/db",
        f"service=no_such_service password={SECRET}",
        f"host=a password={SECRET} sslmode=perhaps",
    ],
)
def test_a_connection_string_that_leads_nowhere_is_a_configuration_error_without_it(dsn):
    with pytest.raises(ConfigurationError) as caught:
        examine(target(dsn))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_service_and_the_environment_lead_to_the_server(newest, monkeypatch, tmp_path):
    (tmp_path / "services.conf").write_text(f"[prod]\nhost={newest.socket}\nuser=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services.conf"))
    monkeypatch.setenv("PGDATABASE", "shop")
    found = examine(target("service=prod"))
    assert found.connected
    assert str(newest.socket) in found.connection[0].says
    for name, value in {"PGHOST": str(newest.socket), "PGUSER": "postgres"}.items():
        monkeypatch.setenv(name, value)
    assert examine(target("")).connection[4].says.startswith("shop")


def test_of_several_hosts_one_that_answers_is_enough_and_all_are_told(newest, free_port):
    dsn = f"host=no-such-host.invalid,127.0.0.1,{newest.socket} port=5432,{free_port},5432 dbname=shop user=postgres"
    found = examine(target(dsn))
    assert found.connected
    assert "no-such-host.invalid has no address" in found.connection[0].says
    assert f"127.0.0.1 port {free_port}: connection refused" in found.connection[1].says
    assert failure(make_conninfo(dsn, dbname="nowhere")).name == "database"


def test_through_a_transaction_pooler_it_works_and_says_so(newest):
    with pooler(newest) as console:
        dsn = make_conninfo(console, dbname="shop")
        found = examine(target(dsn))
        assert found.connected
        assert "a pooler stands in between" in found.connection[-1].says
        assert failure(make_conninfo(dsn, dbname="nowhere")).name == "database"


def test_an_encrypted_connection_says_so_and_a_wrong_certificate_fails_at_tls(oldest, free_port, tmp_path):
    with temporary_sandbox(
        {"listen_addresses": "127.0.0.1", "port": str(free_port)}, sample=False, programs=oldest.programs
    ) as sandbox:
        key, certificate = sandbox.data / "server.key", sandbox.data / "server.crt"
        command = ["openssl", "req", "-new", "-x509", "-nodes", "-subj", "/CN=elsewhere", "-out", str(certificate)]
        subprocess.run([*command, "-keyout", str(key)], check=True, capture_output=True)
        for path in (key, certificate):
            path.chmod(0o600)
            subprocess.run(["chown", f"--reference={sandbox.data}", str(path)], check=True)
        with psycopg.connect(sandbox.url("postgres") + f"&port={free_port}", autocommit=True) as connection:
            connection.execute("create role watcher login password 'right'")
            connection.execute("alter system set ssl = on")
            connection.execute("select pg_reload_conf()")
        dsn = f"host=127.0.0.1 port={free_port} user=watcher password=right dbname=postgres"
        assert examine(target(f"{dsn} sslmode=require")).connection[2].says == "encrypted (sslmode=require)"
        step = failure(f"{dsn} sslmode=verify-full sslrootcert={certificate}")
    assert (step.name, "elsewhere" in step.says) == ("TLS", True)


# ---- what a role sees --------------------------------------------------------------------------------------------


@pytest.fixture
def make_role(server):
    """Return a maker of roles that may log in and nothing else: the name, and the dsn for it."""
    made = []

    def make(attributes="", name=None):
        name = name or f"doctor_{next(NUMBERS)}"
        made.append(name)
        with server.connect() as connection:
            connection.execute(sql.SQL(f"create role {{}} login {attributes}").format(sql.Identifier(name)))
        return name, make_conninfo(server.url(), user=name)

    yield make
    with server.connect() as connection:
        for name in made:
            for statement in ("reassign owned by {} to postgres", "drop owned by {}", "drop role {}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def run(server, statements):
    with server.connect() as connection:
        connection.execute(statements)


def test_what_is_granted_is_found_level_by_level(server, make_role):
    _, dsn = make_role(name='Odd "role"; it\'s')
    found = examine(target(dsn))
    assert (levels(found), found.exit_status) == ([False, False, False], 1)
    assert states(found.role)["read only"] == "ok"
    for number in range(3):
        run(server, found.levels[number].sql)
        assert levels(examine(target(dsn))) == [it <= number for it in range(3)]
    found = examine(target(dsn))
    assert (found.missing, found.exit_status) == (0, 0), printed(found)
    run(server, "\n".join(level.sql for level in found.levels))  # again: no harm, no change
    with psycopg.connect(dsn) as connection:
        for view in FILES:
            assert connection.execute(f"select count(*) >= 0 from {view}").fetchone() == (True,)
        used = "select last_value is not null from pg_sequences where sequencename = 'orders_id_seq'"
        assert connection.execute(used).fetchone() == (True,)


def test_the_narrower_grants_give_the_third_level_without_the_password_hashes(server, make_role):
    _, dsn = make_role()
    run(server, examine(target(dsn)).levels[2].narrower)
    assert levels(examine(target(dsn))) == [False, False, True]
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select from pg_authid")


def test_a_membership_that_is_not_inherited_gives_nothing_until_it_is(server, make_role):
    name, dsn = make_role("noinherit")
    run(server, f"grant pg_monitor to {name}")
    found = examine(target(dsn))
    assert levels(found)[0] is False
    assert "without inheriting" in {step.name: step.says for step in found.role}["role"]
    run(server, found.levels[0].sql)
    assert levels(examine(target(dsn)))[0] is True


def test_a_superuser_sees_all_and_is_warned_about(server):
    found = examine(target(server.url()))
    assert (levels(found), found.missing, found.exit_status) == ([True, True, True], 1, 1)
    assert states(found.role)["read only"] == "warning"
    assert "the role is the boundary" in printed(found, 200)


@pytest.mark.parametrize(
    "right",
    [
        "grant usage on schema shop to {0}; grant insert on shop.orders to {0}",
        "grant usage on schema shop to {0}; grant update (status) on shop.orders to {0}",
        "create table public.doctors_own (a int); alter table public.doctors_own owner to {0}",
        "grant pg_write_all_data to {0}",
    ],
)
def test_a_role_that_may_write_is_warned_about(server, make_role, right):
    name, dsn = make_role()
    run(server, right.format(name))
    try:
        assert states(examine(target(dsn)).role)["read only"] == "warning"
    finally:
        run(server, "drop table if exists public.doctors_own")


def test_the_sandbox_may_be_written_to_by_design():
    found = examine(Target(name="sandbox", dsn=""))
    assert (found.exit_status, states(found.role)["read only"]) == (0, "ok")


def test_an_untested_version_is_said(newest, monkeypatch):
    monkeypatch.setattr(doctor, "SUPPORTED", range(30, 31))
    step = examine(target(newest.url())).role[0]
    assert (step.state, "untested" in step.says) == ("optional", True)


def test_reserved_slots_are_missing_until_the_role_may_use_them(newest):
    with temporary_sandbox({"reserved_connections": "2"}, sample=False, programs=newest.programs) as sandbox:
        with sandbox.connect("postgres") as connection:
            connection.execute("create role watcher login")
            watcher = target(sandbox.url("postgres", "watcher"))
            step = next(step for step in examine(watcher).role if step.name == "reserved slots")
            assert step.state == "missing"
            connection.execute(step.sql)
        assert states(examine(watcher).role)["reserved slots"] == "ok"


def test_a_missing_extension_is_healed_by_what_is_printed(make_empty_database):
    dsn = make_empty_database()
    found = examine(target(dsn))
    assert [step.state for step in found.extensions] == ["missing", "optional", "optional"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for step in found.extensions:
            connection.execute(step.sql)
    assert {step.state for step in examine(target(dsn)).extensions} == {"ok"}


def test_a_library_that_is_not_preloaded_is_added_to_those_that_are(newest):
    settings = {"shared_preload_libraries": "auto_explain"}
    with temporary_sandbox(settings, sample=False, programs=newest.programs) as sandbox:
        with sandbox.connect("postgres") as connection:
            connection.execute("create role watcher login")
        hidden = examine(target(sandbox.url("postgres", "watcher"))).extensions[0]
        assert "hidden from this role" in hidden.sql
        step = examine(target(sandbox.url("postgres"))).extensions[0]
        assert "shared_preload_libraries = 'auto_explain', 'pg_stat_statements';" in step.sql
        with sandbox.connect("postgres") as connection:
            for statement in step.sql.splitlines():
                connection.execute(statement)
        sandbox.stop()
        sandbox.start(sample=False)
        assert examine(target(sandbox.url("postgres"))).extensions[0].state == "ok"


def test_settings_that_blind_are_healed_by_what_is_printed(newest):
    blind = {"track_activities": "off", "compute_query_id": "off", "track_counts": "off", "track_io_timing": "off"}
    with temporary_sandbox(blind, sample=False, programs=newest.programs) as sandbox:
        watched = target(sandbox.url("postgres"))
        with sandbox.connect("postgres") as connection:
            connection.execute("alter database postgres set pg_stat_statements.track = 'none'")
            found = {step.name: step for step in examine(watched).settings}
            missing = [name for name, step in found.items() if step.state == "missing"]
            assert missing == ["track_activities", "track_counts", "compute_query_id", "pg_stat_statements.track"]
            assert found["track_io_timing"].state == "optional"
            assert "alter database postgres reset" in found["pg_stat_statements.track"].sql
            for step in found.values():
                for statement in (step.sql or "").splitlines():
                    connection.execute(statement)
        sandbox.stop()  # for the one that takes a restart
        sandbox.start(sample=False)
        assert {step.state for step in examine(watched).settings} == {"ok"}


# ---- script, page, command ---------------------------------------------------------------------------------------


def test_the_script_makes_a_role_that_lacks_nothing_and_may_run_again(server):
    text = doctor.script(target(f"host=elsewhere password={SECRET}"))
    assert SECRET not in text
    try:
        for _ in range(2):
            psql = [str(server.programs / "psql"), "-X", "-q", "-f", "-", server.url()]
            done = subprocess.run(psql, input=text, capture_output=True, text=True, check=False)
            assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr
        found = examine(target(make_conninfo(server.url(), user="pgrunbooks")))
        assert (levels(found), found.exit_status) == ([True, True, True], 0), printed(found)
        assert "of the 5 that this role may have" in found.connection[-1].says
        with psycopg.connect(make_conninfo(server.url(), user="pgrunbooks")) as connection:
            assert connection.execute("show statement_timeout").fetchone() == ("15s",)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("create temp table t (a int); create table t2 (a int)")
    finally:
        run(server, "drop owned by pgrunbooks; drop role pgrunbooks")


def test_an_administrator_who_is_no_superuser_gets_the_role_without_level_2(server):
    """As on a managed service: such a role may create roles and grant pg_monitor, and may not read the server's files."""
    run(server, "create role administrator login createrole createdb")
    run(server, "grant pg_monitor, pg_read_all_data to administrator with admin option")
    try:
        for _ in range(2):
            psql = [str(server.programs / "psql"), "-X", "-q", "-f", "-", server.url(user="administrator")]
            text = doctor.script(target(server.url()))
            done = subprocess.run(psql, input=text, capture_output=True, text=True, check=False)
            assert (done.returncode, "ERROR" in done.stderr) == (0, False), done.stderr
            assert "level 2" in done.stdout
        assert levels(examine(target(make_conninfo(server.url(), user="pgrunbooks")))) == [True, False, True]
    finally:
        run(
            server,
            "drop owned by pgrunbooks; drop role pgrunbooks; drop owned by administrator; drop role administrator",
        )


def test_which_checks_a_level_enables_is_read_from_the_checks():
    sessions, files, data = (level.checks() for level in LEVELS)
    assert {code for code, check in registry().items() if check.sees_sessions} <= set(sessions)
    assert {"sequence-exhaustion", "integer-key-exhaustion"} <= set(data)
    assert not {*sessions, *files} & set(data)


def test_statements_are_printed_unbroken_however_narrow_the_terminal(server, make_role):
    _, dsn = make_role()
    found = examine(target(dsn))
    lines = [line.strip() for line in printed(found, 50).splitlines()]
    for level in found.levels:
        for statement in level.sql.splitlines():
            assert statement in lines
    words = [
        line for line in printed(found, 80).splitlines() if not line.strip().startswith("grant") and ";" not in line
    ]
    assert max(map(len, words)) <= 80


def test_the_command_exits_0_1_3_and_64(tmp_path, newest, free_port, monkeypatch):
    monkeypatch.chdir(tmp_path)
    targets = {
        "prod": {"dsn": newest.url()},
        "gone": {"dsn": f"postgresql://u:{SECRET}@127.0.0.1:{free_port}/d"},
        "wrong": {"dsn": f"postgresql://u:pa/{SECRET}@127.0.0.1/d"},
    }
    (tmp_path / "targets.yml").write_text(json.dumps({"targets": targets}))

    def pgrunbooks(*arguments):
        command = [sys.executable, "-m", "pgrunbooks", "doctor", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    assert pgrunbooks("--target", "sandbox")[0] == 0
    status, page = pgrunbooks("--target", "prod", "--database", "postgres")
    assert status == 1
    assert page.startswith("prod: connected, 2 are missing or risky\n")
    assert pgrunbooks("--target", "gone")[0] == 3
    assert pgrunbooks("--target", "wrong")[0] == 64
    assert pgrunbooks("--target", "nowhere")[0] == 64
    status, text = pgrunbooks("--target", "gone", "--script")
    assert (status, "create role pgrunbooks" in text) == (0, True)
