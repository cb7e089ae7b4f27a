"""Connecting, step by step: name, TCP, TLS, authentication, database, slots; where it ends, and what to do then."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from pgrunbooks.errors import ConfigurationError, ConnectError, ConnectionLostError, RunbookError
from pgrunbooks.session import CONNECT_TIMEOUT_S, Session, open_session
from pgrunbooks.targets import Target

State = Literal["ok", "failed", "not tried", "missing", "warning", "optional"]
STEPS = ("name", "TCP", "TLS", "authentication", "database", "slots")


@dataclass(frozen=True)
class Step:
    """One thing that was looked at: what was found, in words, and what to do next, in words and as SQL."""

    name: str
    state: State
    says: str
    remedy: str | None = None
    sql: str | None = None


@contextlib.contextmanager
def connection(target: Target, database: str | None = None) -> Iterator[tuple[list[Step], Session | None]]:
    """Connect to a target; yield all the steps, and the open session unless one of them failed.

    Raises ConfigurationError where the connection string names no place to go to.
    """
    known = _parameters(target, database)
    places = _places(known)
    with contextlib.ExitStack() as held:
        session = None
        steps = [_look_up(places)]
        if steps[-1].state == "ok":
            steps.append(_knock(places, _timeout_s(known)))
        if steps[-1].state == "ok":
            try:
                session = held.enter_context(open_session(target, database=database))
            except (ConnectError, ConnectionLostError) as error:
                steps = _refused(target, known, steps, error)
            else:
                steps += _opened(session, known)
        yield [*steps, *(Step(name, "not tried", "") for name in STEPS[len(steps) :])], session


def names(some: Sequence[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    rest = len(some) - most
    return ", ".join(some[:most]) + (f" and {rest} more" if rest > 0 else "")


# ---- the way to the server ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    host: str
    port: str

    @property
    def socket(self) -> str | None:
        """Return the path of the Unix socket, where it is one."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith(("/", "@")) else None

    def __str__(self) -> str:
        return f"socket {self.socket}" if self.socket else f"{self.host} port {self.port}"


def _parameters(target: Target, database: str | None) -> dict[str, str]:
    """Return what libpq makes of a connection string, the environment, the service file and its own defaults."""
    # It reads them all and gives up at this value, before it goes anywhere: the only way to have it read a service
    # file for us, and PQconninfo() then tells what it would have used.
    given = {"gssencmode": "read-only", **({"dbname": database} if database else {})}
    try:
        reader = pq.PGconn.connect_start(make_conninfo(target.dsn, **given).encode())
    except psycopg.ProgrammingError:  # its message quotes the whole string
        raise ConfigurationError(f"{target.name}: dsn: is not a libpq connection string or URI (not shown)") from None
    complaint = reader.error_message.decode(errors="replace").strip()
    if "gssencmode" not in complaint:
        raise ConfigurationError(f"{target.name}: {complaint.splitlines()[0] if complaint else 'libpq cannot read it'}")
    known = {it.keyword.decode(): it.val.decode(errors="replace") for it in reader.info if it.val}
    known.setdefault("host", reader.host.decode())
    reader.finish()
    return known


def _places(known: Mapping[str, str]) -> list[_Place]:
    hosts, ports = known.get("hostaddr", known["host"]).split(","), known.get("port", "").split(",")
    return [_Place(host, port or "5432") for host, port in zip(hosts, cycle(ports), strict=False)]


def _timeout_s(known: Mapping[str, str]) -> float:
    given = int(known.get("connect_timeout", 0))
    return max(given, 2) if given > 0 else CONNECT_TIMEOUT_S  # libpq waits no shorter


def _look_up(places: Sequence[_Place]) -> Step:
    """Look the hosts up in the DNS, or the sockets in the file system; one of them is enough."""
    told, remedy, found = [], "", False
    for place in places:
        if place.socket:
            there = place.socket.startswith("@") or Path(place.socket).exists()
            told.append(f"socket {place.socket}{'' if there else ' does not exist'}")
            advice = "Start the server, or correct host (the socket's folder) and port in the target's dsn."
        else:
            advice = f"Check the host of the dsn for a typo, then the network or VPN:\n    getent hosts {place.host}"
            try:
                addresses = sorted({str(it[4][0]) for it in socket.getaddrinfo(place.host, None)})
                told.append(place.host if addresses == [place.host] else f"{place.host} is {', '.join(addresses)}")
                there = True
            except (OSError, UnicodeError) as error:
                told.append(f"{place.host} has no address: {getattr(error, 'strerror', None) or 'not a host name'}")
                there = False
        remedy, found = remedy or advice, found or there
    says = "; ".join(dict.fromkeys(told))
    return Step("name", "ok", says) if found else Step("name", "failed", says, remedy)


def _knock(places: Sequence[_Place], timeout_s: float) -> Step:
    """Open a bare connection to each place in turn, until one takes it."""
    told: list[str] = []
    for place in places:
        try:
            if place.socket:
                with socket.socket(socket.AF_UNIX) as bare:
                    bare.settimeout(timeout_s)
                    bare.connect(re.sub("^@", "\0", place.socket))
            else:
                socket.create_connection((place.host, place.port), timeout_s).close()
            return Step("TCP", "ok", "; ".join([*told, f"{place} takes connections"]))
        except TimeoutError:
            told.append(f"{place}: no answer within {timeout_s:g} s")
        except (OSError, UnicodeError) as error:
            told.append(f"{place}: {(getattr(error, 'strerror', None) or type(error).__name__).lower()}")
    remedy = (
        "Check host and port. On the server's host see whether it runs, and whether its setting listen_addresses names "
        "an address that this machine can reach; if so, a firewall or a route is in the way:\n"
        f"    pg_isready -p {places[-1].port}"
    )
    return Step("TCP", "failed", "; ".join(told), remedy)


# ---- what the server says of a connection ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Refusal:
    """A way in which a connection ends: the step it belongs to, how libpq or PostgreSQL (in English) words it, advice.

    libpq shows no SQLSTATE of a start that was refused. ``says`` stands instead of the words where they are obscure.
    """

    step: str
    pattern: str
    remedy: str
    sql: str | None = None
    says: str | None = None


_WHO = "select pid, usename, application_name, state, state_change from pg_stat_activity order by state_change;"
_REFUSALS = (
    _Refusal("TCP", r"timeout expired|could not receive data.*timed out",
             "No PostgreSQL, a server that hangs, a pooler without its server, or a firewall that swallows what is "
             "sent. On the server's host look at the last lines of its log, and try:\n    pg_isready",
             says="{place} takes the connection and then says nothing within {timeout_s:g} s"),
    _Refusal("TCP", r"database system is|accepting connections$|server login|cannot connect to server",
             "The server, or a pooler before it, is there and lets nobody in yet. Wait; its log says how far it is."),
    _Refusal("TCP", r"refused|unreachable|invalid response to SSL|expected authentication request|unsupported frontend|"
                    r"closed the connection|Connection reset|could not receive data",
             "Check host and port in the target's dsn. If it is the server, its log says why it hung up."),
    _Refusal("TLS", r"does not support SSL",
             "Switch TLS on at the server (ssl_cert_file and ssl_key_file have to exist), or ask for less in the dsn.",
             "alter system set ssl = on;\nselect pg_reload_conf();",
             says="sslmode={sslmode} asks for encryption and the server has none"),
    _Refusal("authentication", r"pg_hba\.conf",
             "Add a line to pg_hba.conf on the server (its place: show hba_file), then select pg_reload_conf():\n"
             "    {hba}"),
    _Refusal("authentication", r"no password supplied",
             "Put a line host:port:database:role:password into ~/.pgpass, or ${{VARIABLE}} into the target's dsn.",
             says="the server asks role {user} for a password and none was given"),
    _Refusal("authentication", r"password authentication failed|SASL authentication failed|no such user",
             "The password is wrong or has expired, or there is no such role: the server does not say which. Look at "
             "the password in ~/.pgpass, the service file or the variable that the dsn names. As superuser in psql:\n"
             "    \\du {user}\n    \\password {user}"),
    _Refusal("authentication", r'role ".*" does not exist',
             "Correct user in the target's dsn, or create the role; this prints the SQL of one that suffices:\n"
             "    pgrunbooks doctor --target {target} --script"),
    _Refusal("authentication", r"is not permitted to log in", "As superuser:", "alter role {role} login;"),
    _Refusal("authentication", r"(Peer|Ident) authentication failed",
             "The server wants the operating system's user to be called as the role. Name host=localhost in the dsn "
             "to use a password, or add a map to pg_ident.conf."),
    _Refusal("TLS", r"certificate|private key|SSL|TLS",
             "Check sslrootcert, sslcert and sslkey in the dsn (their defaults lie in ~/.postgresql), and that the "
             "name in the server's certificate is the host of the dsn."),
    _Refusal("database", r'database ".*" does not exist|no such database|bouncer config error|'
                         r'not currently accepting connections|invalid database',
             "Correct dbname in the target's dsn, or say --database DB.{databases}"),
    _Refusal("database", r"permission denied for database",
             "As superuser or owner of the database:", "grant connect on database {database} to {role};"),
    _Refusal("database", r"has locked the system catalog|lock timeout",
             "End that session, or wait for it, and try again."),
    _Refusal("slots", r"too many clients already|no more connections allowed|remaining connection slots are reserved",
             "See who is there from a session that is open already, or as superuser by a reserved slot, and end what "
             "sits idle. From 16 on, pg_use_reserved_connections keeps a slot for us.", _WHO),
    _Refusal("slots", r"too many connections for role",
             "The role's own CONNECTION LIMIT is used up: end one of its sessions, or as superuser:",
             "alter role {role} connection limit 5;"),
    _Refusal("slots", r"too many connections for database",
             "The database's own CONNECTION LIMIT is used up; as superuser:",
             "alter database {database} connection limit -1;"),
)  # fmt: skip
_UNKNOWN = _Refusal("authentication", "", "These are the server's own words; its log says more.")


def _refused(target: Target, known: Mapping[str, str], steps: Sequence[Step], error: RunbookError) -> list[Step]:
    """Return the steps of a connection that was refused, up to the one where it was."""
    lines = str(error.__context__ or error).splitlines()  # libpq's own words: one line for each attempt
    lines = [re.sub(r"^(.*(FATAL|ERROR):\s+|.* failed: |- host: .*?': )", "", line).strip() for line in lines]
    told = [(next((it for it in _REFUSALS if re.search(it.pattern, line)), _UNKNOWN), line) for line in lines]
    # with several hosts or two attempts: the one that came furthest is the one to tell
    refusal, words = max(told, key=lambda it: (it[0] is not _UNKNOWN, STEPS.index(it[0].step)))
    user, database = known.get("user", ""), known.get("dbname", "")
    values = {
        "sslmode": "prefer",
        **known,
        "user": user,
        "target": target.name,
        "place": _places(known)[-1],
        "timeout_s": _timeout_s(known),
        "role": sql.Identifier(user).as_string(),
        "database": sql.Identifier(database).as_string(),
        "hba": _hba_line(words),
        "databases": _databases_elsewhere(target) if "{databases}" in refusal.remedy else "",
    }
    says = (refusal.says or "{words}").format(**values, words=words)
    fix = refusal.sql.format(**values) if refusal.sql else None
    at = STEPS.index(refusal.step)
    before = [step for step in steps if STEPS.index(step.name) < at]
    for name in STEPS[len(before) : at]:
        # a server that is full may say so before it has looked at role and database
        passed = name == "TLS" or refusal.step != "slots"
        before.append(Step(name, "ok" if passed else "not tried", "passed" if passed else ""))
    return [*before, Step(refusal.step, "failed", says, refusal.remedy.format(**values), fix)]


def _hba_line(words: str) -> str:
    """Return the line of pg_hba.conf that would let in whom the server just refused."""
    match = re.search(r'for host "([0-9a-f.:]+)", user "(.+)", database "(.+?)"', words)
    if not match:
        return "hostssl  DATABASE  ROLE  ADDRESS/32  scram-sha-256"
    address, role, database = match.groups()
    kind = "host" if "no encryption" in words else "hostssl"
    return f'{kind}  "{database}"  "{role}"  {address}/{128 if ":" in address else 32}  scram-sha-256'


def _databases_elsewhere(target: Target) -> str:
    """Return which databases this role may connect to, asked in the one that nearly every server has."""
    with contextlib.suppress(RunbookError, psycopg.Error), open_session(target, database="postgres") as session:
        return f" This role may connect to: {names([row['name'] for row in session.rows(_DATABASES)])}."
    return ""


# ---- what an open session tells ----------------------------------------------------------------------------------

_DATABASES = """
select d.datname::text as name
from pg_catalog.pg_database as d
where d.datallowconn and not d.datistemplate and pg_catalog.has_database_privilege(d.oid, 'connect')
order by d.datname
"""

# A role without pg_read_all_stats does not see the backend type of others: who has a role and a database counts.
_SLOTS = """
select
    count(*) as used,
    count(*) filter (where a.usename = current_user) as used_by_role,
    current_setting('max_connections')::int as slots,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true)::int, 0) as reserved,
    (select r.rolconnlimit from pg_catalog.pg_roles as r where r.rolname = current_user) as role_limit,
    pg_catalog.pg_backend_pid() as pid
from pg_catalog.pg_stat_activity as a
where coalesce(a.backend_type = 'client backend', a.datid is not null and a.usesysid is not null)
"""


def _opened(session: Session, known: Mapping[str, str]) -> Iterator[Step]:
    """Yield the steps after TCP of a connection that is open."""
    link, server = session.connection.pgconn, session.server
    sslmode = known.get("sslmode", "prefer")
    is_socket = link.host.startswith((b"/", b"@"))
    plain = (
        "not needed: a socket does not leave this machine"
        if is_socket
        else f"not encrypted: sslmode={sslmode} allows it"
    )
    yield Step("TLS", "ok", f"encrypted (sslmode={sslmode})" if link.ssl_in_use else plain)
    yield Step("authentication", "ok", f"as {server.role}, {'with' if link.used_password else 'without'} password")
    others = [row["name"] for row in session.rows(_DATABASES) if row["name"] != server.database]
    beside = f"; this role may also connect to {names(others)}" if others else ""
    yield Step("database", "ok", f"{server.database}{beside}")
    row = session.rows(_SLOTS)[0]
    left = max(row["slots"] - row["reserved"] - row["used"], 0)
    says = f"{row['used']} of {row['slots']} used, {left} left for everybody and {row['reserved']} reserved"
    if row["role_limit"] >= 0:
        says += f"; {row['used_by_role']} of the {row['role_limit']} that this role may have"
    if row["pid"] != session.connection.info.backend_pid:
        says += "; a pooler stands in between, and its limits count too"
    yield Step("slots", "ok", says)
