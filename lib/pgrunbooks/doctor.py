"""The doctor: can we connect, what may this role see, what is missing, and the statements that would give it.

``examine`` looks, one step after the other, and returns plain values; ``show`` prints them; ``script`` is the SQL of
a role that may see enough and change nothing. Nothing here changes the server, and no secret leaves it.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgrunbooks.check import registry
from pgrunbooks.display import printable
from pgrunbooks.errors import ConfigurationError, ConnectError, ConnectionLostError, RunbookError
from pgrunbooks.sandbox import default_sandbox
from pgrunbooks.session import CONNECT_TIMEOUT_S, Session, open_session
from pgrunbooks.targets import SANDBOX, Target

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "failed", "not tried", "missing", "warning", "optional"]
STEPS = ("name", "TCP", "TLS", "authentication", "database", "slots")
SUPPORTED = range(15, 19)
ROLE = "pgrunbooks"  # that the script creates
_NAMED = 5  # databases, tables or schemas named in one line before the rest is counted


@dataclass(frozen=True)
class Step:
    """One thing that was looked at: what was found, in words, and what to do next, in words and as SQL."""

    name: str
    state: State
    says: str
    remedy: str | None = None
    sql: str | None = None

    @property
    def ok(self) -> bool | None:
        """Return whether it is well; None where it was not tried, or where one may well do without."""
        return None if self.state in ("not tried", "optional") else self.state == "ok"


@dataclass(frozen=True)
class Level:
    """One level of rights: whether the role has it, the block of SQL that would give it, the checks that need it.

    ``narrower`` is a second block that gives less, for those to whom ``sql`` gives too much.
    """

    number: int
    title: str
    there: bool
    says: str
    sql: str
    narrower: str | None = None
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examination:
    """What the doctor found: the steps of connecting, what the role sees, extensions, settings, levels of rights."""

    target: str
    connection: tuple[Step, ...]
    role: tuple[Step, ...] = ()
    extensions: tuple[Step, ...] = ()
    settings: tuple[Step, ...] = ()
    levels: tuple[Level, ...] = ()

    @property
    def connected(self) -> bool:
        """Tell whether a session could be opened."""
        return all(step.state == "ok" for step in self.connection)

    @property
    def missing(self) -> int:
        """Return how many things are missing or worth a warning."""
        steps = (*self.role, *self.extensions, *self.settings)
        return sum(step.ok is False for step in steps) + sum(not level.there for level in self.levels)

    @property
    def exit_status(self) -> int:
        """Return 0 where all is well, 1 where something is missing, 3 where nobody could connect."""
        if not self.connected:
            return RunbookError.exit_status
        return 1 if self.missing else 0


def examine(target: Target, *, database: str | None = None) -> Examination:
    """Connect to a target step by step, look at what its role may see there, and return what was found.

    Raises ConfigurationError where the connection string names no place to go to, and ConnectionLostError where the
    server goes away meanwhile. A server that refuses is no error: the step that it refused is in the result.
    """
    sandbox = None
    if target.name == SANDBOX and not target.dsn:
        sandbox = default_sandbox().start()  # held: it runs for as long as somebody holds it
        target = target.model_copy(update={"dsn": sandbox.url()})
    way = _way(target, database)
    steps = [_look_up(way)]
    if steps[-1].ok:
        steps.append(_knock(way))
    if not steps[-1].ok:
        return Examination(target.name, _whole(steps))
    try:
        session = open_session(target, database=database)
    except (ConnectError, ConnectionLostError) as error:
        return Examination(target.name, _whole(_refused(target, way, steps, error)))
    with session:
        return Examination(
            target.name,
            (*steps, *_opened(session, way)),
            role=tuple(_role(session, at_home=sandbox is not None)),
            extensions=tuple(_extensions(session)),
            settings=tuple(_settings(session)),
            levels=tuple(_levels(session)),
        )


# ---- the way to the server ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    host: str
    address: str
    port: str

    @property
    def path(self) -> str | None:
        """Return the path of the Unix socket, where it is one."""
        is_socket = not self.address and self.host.startswith(("/", "@"))
        return f"{self.host}/.s.PGSQL.{self.port}" if is_socket else None

    def __str__(self) -> str:
        return f"socket {self.path}" if self.path else f"{self.host or self.address} port {self.port}"


@dataclass(frozen=True)
class _Way:
    """What libpq makes of a connection string, the environment, the service file and its own defaults."""

    places: tuple[_Place, ...]
    role: str
    database: str
    sslmode: str
    timeout_s: float
    secrets: tuple[str, ...] = field(repr=False)

    def hide(self, text: str) -> str:
        """Return ``text`` without the secrets of the connection string."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def _way(target: Target, database: str | None) -> _Way:
    try:
        parameters = conninfo_to_dict(target.dsn, dbname=database or None)
    except psycopg.ProgrammingError:  # its message quotes the whole string
        raise ConfigurationError(f"{target.name}: dsn: is not a libpq connection string or URI (not shown)") from None
    # libpq reads everything and gives up at this value, before it goes anywhere: the only way to have it read a
    # service file for us, and PQconninfo() then tells what it would have used.
    reader = pq.PGconn.connect_start(make_conninfo("", **{**parameters, "gssencmode": "read-only"}).encode())
    complaint = reader.error_message.decode(errors="replace").strip()
    if "gssencmode" not in complaint:
        raise ConfigurationError(f"{target.name}: {complaint.splitlines()[0] if complaint else 'libpq cannot read it'}")
    known = {it.keyword.decode(): it.val.decode(errors="replace") for it in reader.info if it.val}
    default = reader.host.decode()
    secrets = tuple(it.val.decode(errors="replace") for it in reader.info if it.val and it.dispchar.startswith(b"*"))
    reader.finish()
    hosts, addresses, ports = (known.get(name, "").split(",") for name in ("host", "hostaddr", "port"))
    count = max(len(hosts), len(addresses))
    hosts, addresses, ports = ((each * count if len(each) == 1 else each) for each in (hosts, addresses, ports))
    places = tuple(
        _Place(host or ("" if address else default), address, port or "5432")
        for host, address, port in zip(hosts, addresses, ports, strict=False)
    )
    if any("@" in it.host[1:] or not it.port.isdigit() or not 0 < int(it.port) < 65536 for it in places):
        raise ConfigurationError(
            f"{target.name}: dsn: its host or port cannot be one (not shown: it may be a piece of the password); "
            "in a URI each @ : / ? # of a password is written %40 %3A %2F %3F %23"
        )
    given = int(known.get("connect_timeout") or 0)
    return _Way(
        places=places,
        role=known.get("user", ""),
        database=known.get("dbname", ""),
        sslmode=known.get("sslmode", "prefer"),
        timeout_s=given if given > 0 else CONNECT_TIMEOUT_S,
        secrets=secrets,
    )


def _whole(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return all the steps, those that were not come to as 'not tried'."""
    rest = STEPS[len(steps) :]
    return (*steps, *(Step(name, "not tried", "") for name in rest))


def _look_up(way: _Way) -> Step:
    """Look the hosts up in the DNS, or the sockets in the file system; one of them is enough."""
    told, found, remedies = [], False, []
    for place in dict.fromkeys(replace(it, port="" if not it.path else it.port) for it in way.places):
        if place.path:
            there = place.host.startswith("@") or Path(place.path).exists()
            told.append(f"socket {place.path}" + ("" if there else " does not exist"))
            remedies.append(_other_sockets())
        elif place.address:
            there = True
            told.append(f"{place.address}, given as an address")
        else:
            try:
                addresses = sorted({str(it[4][0]) for it in socket.getaddrinfo(place.host, None)})
            except (OSError, UnicodeError) as error:
                there = False
                told.append(f"{place.host} has no address: {getattr(error, 'strerror', None) or 'not a host name'}")
                remedies.append(
                    f"Check the host of the dsn for a typo, then the network or VPN:\n    getent hosts {place.host}"
                )
            else:
                there = True
                same = addresses == [place.host]
                told.append(place.host if same else f"{place.host} is {', '.join(addresses)}")
        found = found or there
    says = "; ".join(told)
    return Step("name", "ok", says) if found else Step("name", "failed", says, "\n".join(dict.fromkeys(remedies)))


def _other_sockets() -> str:
    folders = (Path("/var/run/postgresql"), Path("/tmp"))
    found = sorted(str(path) for folder in folders for path in folder.glob(".s.PGSQL.*") if path.suffix != ".lock")
    start = "Start the server, or correct host (the socket's folder) and port in the target's dsn."
    return f"{start} On this machine there is {', '.join(found)}." if found else start


def _knock(way: _Way) -> Step:
    """Open a bare connection to each place in turn, until one takes it."""
    told: list[str] = []
    for place in way.places:
        problem = _unreachable(place, way.timeout_s)
        if problem is None:
            return Step("TCP", "ok", "; ".join([*told, f"{place} takes connections"]))
        told.append(f"{place}: {problem}")
    place = way.places[0]
    if place.path:
        remedy = f"See whether the server runs and who may use its socket:\n    ls -l {place.path}"
    elif "refused" in told[-1]:
        remedy = (
            "Nothing listens there. Check the port; on the server's host, see whether it runs, and whether its setting "
            f"listen_addresses names an address that this machine can reach:\n    pg_isready -p {place.port}"
        )
    else:
        remedy = "A firewall or a route is in the way, or the host is down: check security groups, VPN and the address."
    return Step("TCP", "failed", "; ".join(told), remedy)


def _unreachable(place: _Place, timeout_s: float) -> str | None:
    """Return why nobody can connect to a place, None where one can."""
    problem = None
    try:
        if place.path:
            addresses = [(socket.AF_UNIX, re.sub("^@", "\0", place.path))]
        else:
            known = socket.getaddrinfo(place.address or place.host, int(place.port), type=socket.SOCK_STREAM)
            addresses = [(it[0], it[4]) for it in known]  # type: ignore[misc]
        for family, address in addresses:
            with socket.socket(family, socket.SOCK_STREAM) as bare:
                bare.settimeout(timeout_s)
                try:
                    bare.connect(address)
                    return None
                except TimeoutError:
                    problem = f"no answer within {timeout_s:g} s"
                except OSError as error:
                    problem = (error.strerror or type(error).__name__).lower()
    except (OSError, UnicodeError):
        problem = "has no address"
    return problem


# ---- what the server says of a connection ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Refusal:
    """A way in which a connection ends: how it is told, the step it belongs to, what to do.

    ``unseen`` are steps before it that the server had not come to. Places for {role}, {database}, {place}, {sslmode}
    are filled in. The texts are libpq's, and PostgreSQL's in English: libpq shows no SQLSTATE of a refused start.
    """

    step: str
    pattern: str
    remedy: str
    sql: str | None = None
    unseen: tuple[str, ...] = ()
    says: str | None = None


_WHO_IS_THERE = (
    "select pid, usename, application_name, state, state_change from pg_stat_activity order by state_change;"
)
_REFUSALS = (
    _Refusal("TCP", r"timeout expired|could not receive data.*timed out",
             "No PostgreSQL, a server that hangs, a pooler without its server, or a firewall that swallows what is "
             "sent. On the server's host look at the last lines of its log, and try:\n    pg_isready",
             says="{place} takes the connection and then says nothing within {timeout_s:g} s"),
    _Refusal("TCP", r"Connection refused|No route|unreachable|could not translate|failed to resolve|No such file",
             "Check host and port in the target's dsn."),
    _Refusal("TCP", r"database system is|is not (yet )?accepting connections$|Hot standby mode is disabled",
             "The server is there and lets nobody in yet. Wait, then try again; its log says how far it is."),
    _Refusal("TCP", r"server login (has been failing|failed)|cannot connect to server",
             "The pooler is there; the server behind it is not, or refuses the pooler: the pooler's log says why."),
    _Refusal("TCP", r"invalid response to SSL negotiation|expected authentication request|unsupported frontend",
             "Something else than PostgreSQL listens there: check host and port in the target's dsn."),
    _Refusal("TCP", r"closed the connection unexpectedly|Connection reset|could not receive data|unexpected eof",
             "The server's log says why it hung up; a balancer without a healthy server behind it does the same."),
    _Refusal("TLS", r"does not support SSL",
             "Switch TLS on at the server (ssl_cert_file and ssl_key_file have to exist), or write sslmode=prefer into "
             "the dsn where the way to the server needs no encryption.",
             "alter system set ssl = on;\nselect pg_reload_conf();",
             says="sslmode={sslmode} asks for encryption and the server has none"),
    _Refusal("authentication", r"no pg_hba\.conf entry|pg_hba\.conf rejects",
             "Add a line to pg_hba.conf on the server (its place: show hba_file), then select pg_reload_conf():\n"
             "    {hba}"),
    _Refusal("authentication", r"no password supplied",
             "Put it where libpq finds it, never into a notebook: a line 'host:port:database:role:password' in "
             "~/.pgpass (chmod 600), or ${{VARIABLE}} in the target's dsn.",
             says="the server asks role {role} for a password and none was given"),
    _Refusal("authentication", r"password authentication failed|28P01|SASL authentication failed|no such user",
             "The password is wrong or has expired, or there is no such role: the server does not say which. Look at "
             "the password in ~/.pgpass, the service file or the variable that the dsn names. As superuser in psql:\n"
             "    \\du {role}\n    \\password {role}"),
    _Refusal("authentication", r'role ".*" does not exist',
             "Correct user in the target's dsn, or create the role; this prints the SQL of one that suffices:\n"
             "    pgrunbooks doctor --target {target} --script"),
    _Refusal("authentication", r"is not permitted to log in", "As superuser:", "alter role {quoted_role} login;"),
    _Refusal("authentication", r"(Peer|Ident) authentication failed",
             "The server wants the operating system's user to be called as the role. Name host=localhost in the dsn "
             "to use a password, or add a map to pg_ident.conf."),
    _Refusal("authentication", r"authentication failed|authentication method|GSS|SSPI|LDAP|PAM|RADIUS|OAuth",
             "The server's log says more than it tells a client: look there for this role."),
    _Refusal("TLS", r"valid client certificate|certificate|private key|SSL|TLS",
             "Check sslrootcert, sslcert and sslkey in the dsn (their defaults lie in ~/.postgresql), and that the "
             "name in the server's certificate is the host of the dsn."),
    _Refusal("database", r'database ".*" does not exist|3D000|no such database',
             "Correct dbname in the target's dsn, or say --database DB.{databases}"),
    _Refusal("database", r"bouncer config error",
             "PgBouncer has no such database: look at [databases] in its ini file, or correct dbname in the dsn."),
    _Refusal("database", r"permission denied for database",
             "As superuser or owner of the database:", "grant connect on database {quoted_database} to {quoted_role};"),
    _Refusal("database", r"not currently accepting connections|invalid database",
             "Somebody closed this database (datallowconn) or a DROP DATABASE was interrupted: name another one."),
    _Refusal("database", r"session is (not )?read-only|server is (not )?in hot standby mode",
             "The dsn's target_session_attrs asks for another kind of server than the ones it names."),
    _Refusal("slots", r"too many clients already|53300|no more connections allowed",
             "Every slot is taken, reserved ones included. End what sits idle; from a session that is open already:",
             _WHO_IS_THERE, unseen=("authentication", "database")),
    _Refusal("slots", r"remaining connection slots are reserved",
             "Only the reserved slots are left. A superuser still gets in: see who is there, end what sits idle. From "
             "PostgreSQL 16 on, reserved_connections and pg_use_reserved_connections keep a slot for us.",
             _WHO_IS_THERE, unseen=("database",)),
    _Refusal("slots", r"too many connections for role",
             "The role's own CONNECTION LIMIT is used up: end one of its sessions, or as superuser:",
             "alter role {quoted_role} connection limit 5;", unseen=("database",)),
    _Refusal("slots", r"too many connections for database",
             "The database's own CONNECTION LIMIT is used up; as superuser:",
             "alter database {quoted_database} connection limit -1;"),
)  # fmt: skip
_UNKNOWN = _Refusal("authentication", "", "These are the server's own words; its log says more.")


def _refused(target: Target, way: _Way, steps: Sequence[Step], error: RunbookError) -> list[Step]:
    """Return the steps of a connection that was refused, up to the one where it was."""
    cause = error.__context__
    lines = _attempts(str(cause) if isinstance(cause, psycopg.Error) else str(error))
    told = [(next((it for it in _REFUSALS if re.search(it.pattern, line)), _UNKNOWN), line) for line in lines]
    # with several hosts or two attempts: the one that came furthest is the one to tell
    refusal, words = max(told, key=lambda it: (it[0] is not _UNKNOWN, STEPS.index(it[0].step)))
    place = next((it for it in way.places if it.path or it.port in words), way.places[0])
    values = {
        "role": way.role, "database": way.database, "place": place, "sslmode": way.sslmode, "target": target.name,
        "timeout_s": max(way.timeout_s, 2), "quoted_role": _quoted(way.role), "quoted_database": _quoted(way.database),
        "hba": _hba_line(words), "databases": "",
    }  # fmt: skip
    if "{databases}" in refusal.remedy:
        names = _databases_elsewhere(target)
        values["databases"] = f" This role may connect to: {_names(names)}." if names else ""
    failed = Step(
        refusal.step,
        "failed",
        way.hide(refusal.says.format(**values) if refusal.says else words),
        way.hide(refusal.remedy.format(**values)),
        refusal.sql.format(**values) if refusal.sql else None,
    )
    if refusal.step == "TCP":
        return [steps[0], failed]
    passed = {"TLS": _tls_words(way, None), "authentication": f"as {way.role}", "database": way.database}
    reached = list(steps)
    for name in STEPS[len(steps) : STEPS.index(refusal.step)]:
        unseen = name in refusal.unseen
        reached.append(Step(name, "not tried" if unseen else "ok", "" if unseen else passed[name]))
    return [*reached, failed]


def _attempts(text: str) -> list[str]:
    """Return each failed attempt that psycopg tells of: the server's words alone."""
    words = []
    for line in text.splitlines():
        line = re.sub(r"^- host: .*?, hostaddr: '[^']*': ", "", line)
        line = re.sub(r"^(cannot connect to .*?: )?(the server went away: )?(connection (failed|is bad): )?", "", line)
        line = re.sub(r"^connection to server (at|on socket) .*? failed: ", "", line)
        if line.strip() and not line.startswith(("\t", "Multiple connection attempts", "DETAIL:", "HINT:")):
            words.append(re.sub(r"^(FATAL|ERROR):\s+", "", line).strip())
    return words or ["no reason was given"]


def _quoted(name: str) -> str:
    """Return a name as an identifier; no server is at hand that could do it."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _hba_line(words: str) -> str:
    """Return the line of pg_hba.conf that would let in whom the server just refused."""
    match = re.search(r'for host "([^"]+)", user "(.+)", database "(.+?)"', words)
    if not match:
        return "hostssl  DATABASE  ROLE  ADDRESS/32  scram-sha-256"
    address, role, database = match.groups()
    if address == "[local]":
        return f'local  "{database}"  "{role}"  scram-sha-256'
    kind = "host" if "no encryption" in words else "hostssl"
    return f'{kind}  "{database}"  "{role}"  {address}/{128 if ":" in address else 32}  scram-sha-256'


def _databases_elsewhere(target: Target) -> list[str]:
    """Return the databases this role may connect to, asked in one that nearly every server has."""
    for database in ("postgres", "template1"):
        with contextlib.suppress(RunbookError, psycopg.Error), open_session(target, database=database) as session:
            return [row["name"] for row in session.rows(_DATABASES)]
    return []


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
    count(*) filter (where a.is_client) as used,
    count(*) filter (where a.is_client and a.usename = current_user) as used_by_role,
    current_setting('max_connections')::int as max_connections,
    current_setting('superuser_reserved_connections')::int as superuser_reserved,
    coalesce(current_setting('reserved_connections', true)::int, 0) as reserved,
    (select r.rolconnlimit from pg_catalog.pg_roles as r where r.rolname = current_user) as role_limit,
    pg_catalog.pg_backend_pid() as pid
from (
    select s.usename,
        coalesce(s.backend_type = 'client backend', s.datid is not null and s.usesysid is not null) as is_client
    from pg_catalog.pg_stat_activity as s
) as a
"""


def _opened(session: Session, way: _Way) -> Iterator[Step]:
    """Yield the steps after TCP of a connection that is open."""
    connection, server = session.connection.pgconn, session.server
    yield Step("TLS", "ok", _tls_words(way, bool(connection.ssl_in_use)))
    how = "with a password" if connection.used_password else "without a password"
    yield Step("authentication", "ok", f"as {server.role}, {how}")
    others = [row["name"] for row in session.rows(_DATABASES) if row["name"] != server.database]
    beside = f"; this role may also connect to {_names(others)}" if others else ""
    yield Step("database", "ok", f"{server.database}{beside}")
    row = session.rows(_SLOTS)[0]
    kept = row["superuser_reserved"] + row["reserved"]
    left = max(row["max_connections"] - kept - row["used"], 0)
    says = f"{row['used']} of {row['max_connections']} used, {left} left for everybody and {kept} reserved"
    if row["role_limit"] >= 0:
        says += f"; {row['used_by_role']} of the {row['role_limit']} that this role may have"
    if row["pid"] != session.connection.info.backend_pid:
        says += "; a pooler stands in between, and its limits count too"
    yield Step("slots", "ok", says)


def _tls_words(way: _Way, encrypted: bool | None) -> str:
    if all(place.path for place in way.places):
        return "not needed: a socket does not leave this machine"
    if encrypted is None:
        return f"nothing in the way (sslmode={way.sslmode})"
    if encrypted:
        return f"encrypted (sslmode={way.sslmode})"
    return f"not encrypted: sslmode={way.sslmode} allows that"


_ROLES = """
select
    r.rolname::text as name,
    pg_catalog.pg_has_role(r.oid, 'usage') as used,
    pg_catalog.pg_has_role(r.oid, 'member') as member
from pg_catalog.pg_roles as r
where r.rolname = any (array[
    'pg_monitor', 'pg_read_all_stats', 'pg_read_all_settings', 'pg_stat_scan_tables', 'pg_read_all_data',
    'pg_use_reserved_connections', 'pg_write_all_data'
])
order by r.rolname
"""

_WRITABLE = """
select
    count(*) as tables,
    (pg_catalog.array_agg(t.name order by t.name))[1:5] as names
from (
    select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) as name
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
        and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and (
            pg_catalog.pg_has_role(c.relowner, 'usage')
            or pg_catalog.has_schema_privilege(n.oid, 'usage') and (
                pg_catalog.has_table_privilege(c.oid, 'insert, update, delete, truncate')
                or pg_catalog.has_any_column_privilege(c.oid, 'insert, update')
            )
        )
) as t
"""


_MONITOR = ("pg_read_all_stats", "pg_read_all_settings", "pg_stat_scan_tables")


def _role(session: Session, *, at_home: bool) -> Iterator[Step]:
    """Yield what this role is on this server; ``at_home``: in the sandbox, where it may do everything by design."""
    server = session.server
    number = server.version.split()[0]
    kind = "a standby: grants and extensions are made on its primary" if server.in_recovery else "primary"
    if server.major in SUPPORTED:
        yield Step("version", "ok", f"PostgreSQL {number}, {kind}")
    else:
        tested = f"tested with {SUPPORTED[0]} to {SUPPORTED[-1]}"
        yield Step(
            "version", "optional", f"PostgreSQL {number}, {kind}: untested ({tested}); checks ask what fits best"
        )
    rights = {row["name"]: row for row in session.rows(_ROLES)}
    of = [name for name, row in rights.items() if row["used"]]
    if "pg_monitor" in of:  # which says it for the three that it stands for
        of = [name for name in of if name not in _MONITOR]
    idle = [name for name, row in rights.items() if row["member"] and not row["used"]]
    words = (
        "superuser" if server.superuser else f"member of {', '.join(of)}" if of else "member of no role that sees more"
    )
    if idle:
        words += f"; of {', '.join(idle)} too, but without inheriting it"
    yield Step("role", "ok", f"{server.role}, {words}")
    yield _boundary(session, at_home)
    yield from _reserve(session, rights.get("pg_use_reserved_connections"))


def _boundary(session: Session, at_home: bool) -> Step:
    """Return whether the role itself could write: 'read only' is a setting, which a cell of a notebook could undo."""
    writable = session.rows(_WRITABLE)[0]
    says = None
    if session.server.superuser:
        says = "this role is a superuser: it may do everything"
    elif writable["tables"]:
        more = writable["tables"] - len(writable["names"])
        tables = ", ".join(writable["names"]) + (f" and {more} more" if more else "")
        says = f"this role may write to {tables}"
    if says is None:
        return Step("read only", "ok", "this role may write to no table of this database")
    if at_home:
        return Step("read only", "ok", f"{says}, which is meant so in the sandbox; our sessions are read only")
    return Step(
        "read only",
        "warning",
        f"{says}. Our sessions are read only, but that is a guard rail; the role is the boundary.",
        f"Use a role of its own; its SQL:\n    pgrunbooks doctor --target {session.target.name} --script",
    )


def _reserve(session: Session, right: Mapping[str, Any] | None) -> Iterator[Step]:
    """Yield whether a slot is left for us when all others are taken; PostgreSQL 16 and later."""
    server = session.server
    if not right or server.superuser:
        return
    reserved = session.rows(_SLOTS)[0]["reserved"]
    grant = f"grant pg_use_reserved_connections to {server.quoted_role};"
    if not reserved:
        yield Step(
            "reserved slots",
            "optional",
            "none are kept: when the slots run out we are locked out like everybody else",
            "A superuser may keep two (after a restart of the server):",
            f"alter system set reserved_connections = 2;\n{grant}",
        )
    elif right["used"]:
        yield Step("reserved slots", "ok", f"{reserved} are kept for roles like this one")
    else:
        yield Step("reserved slots", "missing", f"{reserved} are kept, but not for this role", None, grant)


# ---- extensions and settings -------------------------------------------------------------------------------------

_AVAILABLE = """
select
    e.name::text as name,
    e.installed_version,
    e.default_version,
    e.installed_version <> e.default_version as behind,
    pg_catalog.current_setting('pg_stat_statements.max', true) is not null as statements_loaded,
    (
        select pg_catalog.string_agg(pg_catalog.quote_literal(btrim(l.name, ' "')), ', ' order by l.place)
        from pg_catalog.pg_settings as s,
            pg_catalog.unnest(pg_catalog.string_to_array(s.setting, ',')) with ordinality as l (name, place)
        where s.name = 'shared_preload_libraries' and btrim(l.name, ' "') <> ''
    ) as preloaded,
    exists (
        select from pg_catalog.pg_settings as s where s.name = 'shared_preload_libraries'
    ) as sees_preloaded
from pg_catalog.pg_available_extensions as e
where e.name = any (array['pg_stat_statements', 'pgstattuple', 'amcheck'])
order by e.name
"""
_USES: Mapping[str, str] = MappingProxyType(
    {
        "pg_stat_statements": "which statements take the time cannot be told",
        "pgstattuple": "bloat is estimated, not measured",
        "amcheck": "indexes cannot be checked for corruption",
    }
)


def _extensions(session: Session) -> Iterator[Step]:
    known = {row["name"]: row for row in session.rows(_AVAILABLE)}
    for name, use in _USES.items():
        needed = name == "pg_stat_statements"
        state: State = "missing" if needed else "optional"
        row = known.get(name)
        if row is None:
            yield Step(name, state, f"the server does not have it: {use}", "Install the server's package of contrib.")
            continue
        statements, why = [], []
        if needed and not row["statements_loaded"]:
            why.append("not preloaded")
            statements.append(_preload(row))
        if row["installed_version"] is None:
            why.append(f"not installed in {session.server.database}")
            statements.append(f"create extension {name};")
        if why:
            yield Step(name, state, f"{' and '.join(why)}: {use}", None, "\n".join(statements))
        elif row["behind"]:
            version = f"{row['installed_version']} is installed, {row['default_version']} comes with this server"
            yield Step(name, "optional", version, None, f"alter extension {name} update;")
        else:
            yield Step(name, "ok", f"{row['installed_version']}")


def _preload(row: Mapping[str, Any]) -> str:
    """Return how to preload pg_stat_statements; one literal each, or the server takes the list for one name."""
    if not row["sees_preloaded"]:
        return (
            "-- shared_preload_libraries is hidden from this role: add pg_stat_statements to what stands there, and\n"
            "-- restart the server:\nshow shared_preload_libraries;"
        )
    libraries = ", ".join(filter(None, [row["preloaded"], "'pg_stat_statements'"]))
    return f"alter system set shared_preload_libraries = {libraries};  -- then restart the server"


@dataclass(frozen=True)
class _Setting:
    name: str
    wanted: str
    blind: str
    state: State = "missing"


_SETTINGS = (
    _Setting("track_activities", "on", "what sessions do cannot be seen"),
    _Setting("track_counts", "on", "tables have no statistics, and autovacuum does not run"),
    _Setting("compute_query_id", "auto", "statements have no queryid, and pg_stat_statements stays empty"),
    _Setting("pg_stat_statements.track", "top", "pg_stat_statements stays empty"),
    _Setting("track_io_timing", "on", "time spent waiting for the disk is not told apart", "optional"),
    _Setting("track_activity_query_size", "4kB", "longer queries are cut", "optional"),
)
_SHOWN = """
select
    s.name,
    s.setting,
    pg_catalog.current_setting(s.name) as shown,
    s.context,
    s.source,
    pg_catalog.quote_ident(pg_catalog.current_database()) as quoted_database
from pg_catalog.pg_settings as s
where s.name = any (%(names)s)
order by s.name
"""


def _settings(session: Session) -> Iterator[Step]:
    rows = session.rows(_SHOWN, {"names": [it.name for it in _SETTINGS]})
    known = {row["name"]: row for row in rows}
    for it in _SETTINGS:
        row = known.get(it.name)
        if row is None:
            continue
        is_blind = int(row["setting"]) < 4096 if it.wanted == "4kB" else row["setting"] in ("off", "none")
        if not is_blind:
            yield Step(it.name, "ok", row["shown"])
            continue
        yield Step(it.name, it.state, f"{row['shown']}: {it.blind}", None, _change(it, row, session.server.quoted_role))


def _change(it: _Setting, row: Mapping[str, Any], role: str) -> str:
    """Return the statement that changes a setting where it was set, and whether that takes a reload or a restart."""
    where = {
        "database": f"alter database {row['quoted_database']} reset {it.name};  -- for new sessions",
        "user": f"alter role {role} reset {it.name};  -- for new sessions",
        "database user": f"alter role {role} in database {row['quoted_database']} reset {it.name};",
        "client": f"-- {it.name} is set in the dsn's options, or in PGOPTIONS: take it out there",
    }
    if row["source"] in where:
        return where[row["source"]]
    after = "  -- then restart the server" if row["context"] == "postmaster" else "\nselect pg_reload_conf();"
    return f"alter system set {it.name} = '{it.wanted}';{after}"


# ---- levels of rights --------------------------------------------------------------------------------------------

# pg_hba_file_rules and pg_file_settings refuse a member of pg_monitor (15 and 18) until it may read the view and
# execute the function below it. These rights are the database's own, a membership is the whole server's.
_FILES = """
grant select on pg_catalog.pg_hba_file_rules, pg_catalog.pg_file_settings to {role};
grant execute on function pg_catalog.pg_hba_file_rules(), pg_catalog.pg_show_all_file_settings() to {role};
"""

_RIGHTS = """
select
    pg_catalog.pg_has_role('pg_monitor', 'usage') or (
        pg_catalog.pg_has_role('pg_read_all_stats', 'usage')
        and pg_catalog.pg_has_role('pg_read_all_settings', 'usage')
        and pg_catalog.pg_has_role('pg_stat_scan_tables', 'usage')
    ) as monitors,
    pg_catalog.has_table_privilege('pg_catalog.pg_hba_file_rules', 'select')
        and pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'select')
        and pg_catalog.has_function_privilege('pg_catalog.pg_hba_file_rules()', 'execute')
        and pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute') as sees_files,
    pg_catalog.pg_has_role('pg_read_all_data', 'usage') as reads_all,
    pg_catalog.pg_has_role('pg_monitor', 'member') as may_monitor,
    pg_catalog.pg_has_role('pg_read_all_data', 'member') as may_read_all
"""

_UNREAD = """
select
    count(*) as relations,
    count(*) filter (where not r.readable) as unread,
    pg_catalog.array_agg(distinct r.schema) filter (where not r.readable) as schemas
from (
    select
        pg_catalog.quote_ident(n.nspname) as schema,
        pg_catalog.has_schema_privilege(n.oid, 'usage') and case c.relkind
            when 'S' then pg_catalog.has_sequence_privilege(c.oid, 'select')
            else pg_catalog.has_table_privilege(c.oid, 'select')
        end as readable
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm', 'S') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
) as r
"""

# What each level gives to checks, by the codes of checks.csv; a check that says so itself (sees_sessions) is added.
NEEDS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: (
            "xmin-horizon-held", "wait-event-hotspot", "wal-directory-growth", "replication-lag", "slow-query",
            "query-regression", "n-plus-one", "offset-pagination", "unbounded-result", "select-star",
            "log-directory-large",
        ),
        2: ("weak-authentication", "settings-file-error", "connection-not-encrypted"),
        3: (
            "sequence-exhaustion", "integer-key-exhaustion", "table-bloat", "index-bloat", "soft-delete-unindexed",
            "missing-index", "migration-failed", "migration-drift", "weak-password-hash",
        ),
    }
)  # fmt: skip


def _levels(session: Session) -> Iterator[Level]:
    server, rights, data = session.server, session.rows(_RIGHTS)[0], session.rows(_UNREAD)[0]
    role = server.quoted_role
    yield Level(
        1,
        "pg_monitor",
        rights["monitors"],
        "other roles' sessions and statements, replication, sizes, every setting",
        _membership("pg_monitor", session, inert=rights["may_monitor"]),
        checks=_enabled(1),
    )
    yield Level(
        2,
        "the views of pg_hba.conf and postgresql.conf",
        rights["sees_files"],
        f"who may connect and how, errors in the files; for database {server.database} alone. A managed service may "
        "refuse the grant; secrets that stand in the files are seen too",
        _FILES.strip().format(role=role),
        checks=_enabled(2),
    )
    unread, schemas = data["unread"], data["schemas"] or []
    narrower = "\n".join(
        f"grant usage on schema {schema} to {role};\n"
        f"grant select on all tables in schema {schema} to {role};\n"
        f"grant select on all sequences in schema {schema} to {role};"
        for schema in schemas
    )
    yield Level(
        3,
        "reading the tables",
        rights["reads_all"] or (data["relations"] > 0 and unread == 0),
        "sequences, bloat, key ranges and the what-if lab"
        + (f"; now {unread} of {data['relations']} tables and sequences cannot be read" if unread else "")
        + ". pg_read_all_data reads every table, password hashes in pg_authid among them",
        _membership("pg_read_all_data", session, inert=rights["may_read_all"]),
        narrower=narrower if 0 < len(schemas) <= _NAMED else None,
        checks=_enabled(3),
    )


def _membership(group: str, session: Session, *, inert: bool) -> str:
    """Return the grant of a role; ``inert``: it is a member that does not inherit, which a plain grant leaves so."""
    role = session.server.quoted_role
    if not inert:
        return f"grant {group} to {role};"
    return (
        f"grant {group} to {role} with inherit true;" if session.server.major >= 16 else f"alter role {role} inherit;"
    )


def _enabled(number: int) -> tuple[str, ...]:
    """Return the codes of the checks there are that need this level."""
    wanted = set(NEEDS[number])
    return tuple(code for code, check in registry().items() if code in wanted or (number == 1 and check.sees_sessions))


# ---- on paper ----------------------------------------------------------------------------------------------------


def script(target: Target) -> str:
    """Return the SQL, for psql, of a role that may see what every check needs and change nothing; no password."""
    name = " ".join(printable(target.name).split())
    return _SCRIPT.format(
        role=ROLE,
        target=name,
        version=metadata.version("pgrunbooks"),
        statement_timeout=f"{target.statement_timeout:g}s",
        lock_timeout=f"{target.lock_timeout:g}s",
        files=_FILES.strip().format(role=ROLE),
    )


_SCRIPT = """\
-- A role for pgrunbooks {version}, target {target}: it sees what the checks ask for and changes nothing.
-- Read it, take out what you do not want, and run it as superuser in psql, on the primary, in the database to watch:
--     psql -X -d DATABASE -f pgrunbooks.sql
-- It may run again; what stands here is then set anew. What is of one database only is said so: run it in each.

\\set ON_ERROR_STOP on
begin;

-- The role, where it does not exist. It has no password: set one afterwards (see the end).
select 'create role {role}'
where not exists (select from pg_catalog.pg_roles where rolname = '{role}') \\gexec

-- It may log in and nothing else; five sessions at once, so that it never fills a server that is in trouble.
alter role {role} with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit connection limit 5;

-- Guard rails for every session of it, whatever the client: a statement and a lock are waited for no longer than
-- this, a forgotten transaction ends by itself, and transactions are read only unless somebody asks otherwise.
alter role {role} set statement_timeout = '{statement_timeout}';
alter role {role} set lock_timeout = '{lock_timeout}';
alter role {role} set idle_in_transaction_session_timeout = '60s';
alter role {role} set default_transaction_read_only = on;

-- This database: connecting, where PUBLIC may not.
grant connect on database :"DBNAME" to {role};

-- Level 1, the whole server: what other roles' sessions and statements do, replication, sizes, every setting (also
-- primary_conninfo: a standby's password for its primary stands there, unless it is kept in a .pgpass).
grant pg_monitor to {role};

-- Level 2, this database: the rules of pg_hba.conf and the lines of postgresql.conf with their errors. The views and
-- the functions below them are for superusers alone otherwise. They show what stands in the files: where somebody
-- wrote a secret there (ldapbindpasswd, radiussecrets, primary_conninfo), that as well.
{files}

-- Level 3, the whole server: reading every table, for sequences, bloat, key ranges and the what-if lab. This includes
-- the rows of your users, and secrets of the catalog: password hashes (pg_authid), subscriptions' connection strings.
-- Where that is too much, take the line out and grant this instead, for each schema:
--     grant usage on schema SCHEMA to {role};
--     grant select on all tables in schema SCHEMA to {role};
--     grant select on all sequences in schema SCHEMA to {role};
grant pg_read_all_data to {role};

-- PostgreSQL 16 and later: the slots of reserved_connections, to get in when all others are taken.
select current_setting('server_version_num')::int >= 160000 as has_reserved_connections \\gset
\\if :has_reserved_connections
grant pg_use_reserved_connections to {role};
\\endif

commit;

-- The password, asked for and sent as a hash only; then put it into ~/.pgpass of whoever runs pgrunbooks:
-- \\password {role}
-- A line for pg_hba.conf, unless one fits already:
--     hostssl  DATABASE  {role}  ADDRESS/32  scram-sha-256
-- This database, once: which statements take the time (pg_stat_statements has to be in shared_preload_libraries).
-- create extension if not exists pg_stat_statements;
-- To undo it all, in each database where it ran: drop owned by {role};  and once at the end: drop role {role};
"""

_STYLES = {"failed": "bold red", "missing": "bold yellow", "warning": "bold yellow", "ok": "green"}
_CODES = 8  # checks named before the rest is counted


def show(found: Examination, console: Console) -> None:
    """Print an examination; SQL stands on lines of its own, unbroken, so that it can be copied."""
    from rich.text import Text

    sections = {
        "Connection": found.connection,
        "Role": found.role,
        "Extensions": found.extensions,
        "Settings": found.settings,
    }

    def put(text: Text) -> None:
        text.rstrip()
        console.print(text, soft_wrap=True, highlight=False)

    def say(words: str, indent: int, style: str = "", head: Text | None = None) -> None:
        for line in printable(words).splitlines() or [""]:
            pad = len(line) - len(line.lstrip())
            if pad:  # a line to copy
                put(Text(" " * indent + line, style))
                continue
            for piece in Text(line, style).wrap(console, max(console.width - indent, 30)):
                put((head or Text(" " * indent)) + piece)
                head = None

    def give(sql: str, indent: int) -> None:
        for line in printable(sql).splitlines():
            put(Text(" " * indent + line, "bold"))

    put(Text.assemble((_headline(found), "bold")))
    for title, steps in sections.items():
        if not steps:
            continue
        label = max(len(step.name) for step in steps)
        margin = 13 + label + 2
        put(Text(f"\n{title}"))
        for step in steps:
            head = Text.assemble("  ", (f"{step.state:<11}", _STYLES.get(step.state, "dim")), f"{step.name:<{label}}  ")
            say(step.says, margin, head=head)
            if step.remedy:
                say(step.remedy, margin, "dim")
            if step.sql:
                give(step.sql, margin)
    if found.levels:
        put(Text("\nRights, in three levels"))
    for level in found.levels:
        state = "ok" if level.there else "missing"
        head = Text.assemble("  ", (f"{state:<11}", _STYLES[state]), f"{level.number}  ")
        say(level.title, 16, head=head)
        if level.there:
            continue
        say(f"For {level.says}.", 16, "dim")
        say(f"Enables: {_names(level.checks, _CODES)}" if level.checks else "No check needs it yet.", 16, "dim")
        give(level.sql, 16)
        if level.narrower:
            say("or, narrower (tables made later need it again):", 16, "dim")
            give(level.narrower, 16)
        put(Text())


def _headline(found: Examination) -> str:
    name = printable(found.target)
    if not found.connected:
        failed = next(step for step in found.connection if step.state == "failed")
        return f"{name}: cannot connect ({failed.name})"
    count = found.missing
    return f"{name}: connected, {count or 'nothing'} {'is' if count < 2 else 'are'} missing or risky"


def _names(names: Sequence[str], most: int = _NAMED) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
