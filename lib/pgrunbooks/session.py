"""A session is one guarded connection: read only, bounded in time, easy to recognise, with no secret in its errors."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import dict_row

from pgrunbooks.check import Skip
from pgrunbooks.errors import ConfigurationError, ConnectError, ConnectionLostError
from pgrunbooks.sandbox import Sandbox, default_sandbox
from pgrunbooks.targets import SANDBOX, Target, load_target

APPLICATION_NAME = "pgrunbooks"
CONNECT_TIMEOUT_S = 5
T = TypeVar("T")
# A server enforces its own time-outs; one that is frozen or cut off does not, and is given up this long after them.
_GRACE_S = 2.0

_SERVER = """
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::int as version_num,
    pg_catalog.current_database() as database,
    current_user::text as role,
    pg_catalog.quote_ident(current_user) as quoted_role,
    pg_catalog.pg_is_in_recovery() as in_recovery,
    pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_sessions,
    current_setting('is_superuser') = 'on' as superuser,
    coalesce(
        (select d.stats_reset from pg_catalog.pg_stat_database as d where d.datname = pg_catalog.current_database()),
        (select b.stats_reset from pg_catalog.pg_stat_bgwriter as b)
    ) as stats_reset,
    extract(epoch from now() - coalesce(
        (select d.stats_reset from pg_catalog.pg_stat_database as d where d.datname = pg_catalog.current_database()),
        (select b.stats_reset from pg_catalog.pg_stat_bgwriter as b)
    ))::float8 as counters_age_s,
    (select pg_catalog.jsonb_object_agg(e.extname, e.extversion) from pg_catalog.pg_extension as e) as extensions
"""

# A role's search_path may lead to functions and operators of others before those of PostgreSQL.
_OUR_NAMES_FIRST = (
    "select pg_catalog.set_config('search_path', pg_catalog.btrim(pg_catalog.concat("
    "'pg_catalog, ', pg_catalog.current_setting('search_path')), ', '), true)"
)

_MEMORY = "select sum(m.total_bytes)::int8 as memory_bytes from pg_catalog.pg_backend_memory_contexts as m"


@dataclass(frozen=True)
class Server:
    """The server as this role sees it; ``sees_sessions``: it may read what other roles' sessions do."""

    version: str
    version_num: int
    system_identifier: str | None
    database: str
    role: str
    quoted_role: str
    in_recovery: bool
    stats_reset: str | None
    counters_age_s: float | None
    sees_sessions: bool
    superuser: bool
    extensions: Mapping[str, str]

    @property
    def major(self) -> int:
        """Return the major version, such as 18."""
        return self.version_num // 10000

    def document(self) -> dict[str, Any]:
        """Return the part of this that goes into findings.json."""
        fields = ("version", "version_num", "system_identifier", "database", "role", "in_recovery", "stats_reset")
        return {name: getattr(self, name) for name in fields}


@dataclass(frozen=True)
class Cost:
    """What a session has asked of its server: statements, the seconds they took as seen from here, its memory.

    ``memory_bytes`` is what the backend holds now, by pg_backend_memory_contexts; None where the role may not see it.
    """

    statements: int
    seconds: float
    memory_bytes: int | None


class Session:
    """An open, guarded connection to a target, and what is known of the server behind it.

    Use it as a context manager, or close it; ``rows`` is how checks ask.
    """

    def __init__(self, target: Target, connection: psycopg.Connection, sandbox: Sandbox | None = None) -> None:
        self.target = target
        self.connection = connection
        self.sandbox = sandbox  # kept: the sandbox runs for as long as somebody holds it
        self._statements, self._seconds, self._begun_at = 0, 0.0, 0.0
        self._watchdog: threading.Timer | None = None
        self._gave_up = False
        self._kept: dict[str, Any] = {}
        self._closing = contextlib.ExitStack()
        self.server = self._look_at_server()

    def rows(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        lock_timeout_s: float | None = None,
        timeout_s: float | None = None,
        one_statement: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the rows of a query as plain records: numbers, texts, booleans, None, and times as ISO texts.

        Each query is a read-only transaction of its own with both time-outs, which holds behind a pooler too;
        ``lock_timeout_s`` and ``timeout_s`` shorten the target's; ``one_statement`` has the server refuse a text that
        holds more than one, which is for texts that are not our own.
        Raises ConnectionLostError where the server went away or answers no more, and psycopg's error for anything else.
        """
        with self.losses_told():
            try:
                self.begin(lock_timeout_s, timeout_s)
                cursor = self.connection.cursor(row_factory=dict_row)
                # binary, since only the extended protocol takes one statement at a time; encoded here, since psycopg
                # takes a client of SQL_ASCII for one that writes ASCII
                rows = cursor.execute(sql.encode(), parameters, binary=one_statement).fetchall()
            finally:
                self.end()
        return [{name: _plain(value) for name, value in row.items()} for row in rows]

    @contextlib.contextmanager
    def losses_told(self) -> Iterator[None]:
        """Turn what psycopg says of a server that went away into ConnectionLostError; other errors stay."""
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if self.connection.closed or self.connection.broken:
                reason = "it answers no more" if self._gave_up else _one_line(error)
                raise ConnectionLostError(f"the server went away: {reason}") from None
            raise

    def begin(self, lock_timeout_s: float | None = None, timeout_s: float | None = None) -> None:
        """Begin a read-only transaction with both time-outs, which hold until ``end``."""
        lock_timeout = min(lock_timeout_s or self.target.lock_timeout, self.target.lock_timeout)
        timeout = min(timeout_s or self.target.statement_timeout, self.target.statement_timeout)
        self._begun_at = time.monotonic()
        self._watchdog = threading.Timer(timeout + _GRACE_S, self._give_up)
        self._watchdog.daemon = True
        self._watchdog.start()
        # a server of SQL_ASCII keeps any bytes, and refuses to show what is no UTF-8 to a client that wants UTF-8
        as_kept = self.connection.info.parameter_status("server_encoding") == "SQL_ASCII"
        self.connection.execute(
            "begin isolation level read committed read only; "  # others wait, where a role has them by default
            f"set local statement_timeout = {max(timeout * 1000, 1):.0f}; "
            f"set local lock_timeout = {lock_timeout * 1000:.0f}; set local datestyle = iso; "
            f"set local intervalstyle = postgres; {_OUR_NAMES_FIRST}"
            + ("; set local client_encoding = 'SQL_ASCII'" if as_kept else "")
        )

    def end(self) -> None:
        """End the transaction that ``begin`` began; harmless on a connection that is gone."""
        try:
            # after an interrupt a statement may still be under way: a commit would raise in the interrupt's place
            if not self.connection.closed and self.connection.info.transaction_status != TransactionStatus.ACTIVE:
                self.connection.execute("commit")  # a rollback would count in the server's statistics
        finally:
            if self._watchdog:
                self._watchdog.cancel()
                if self._watchdog.is_alive():  # an interrupt may have come before it began
                    self._watchdog.join(_GRACE_S)  # no thread of ours is under way when the interpreter ends
            self._statements += 1
            self._seconds += time.monotonic() - self._begun_at

    def cost(self) -> Cost:
        """Return what this session has cost its server so far."""
        statements, seconds, memory = self._statements, self._seconds, None
        with contextlib.suppress(psycopg.Error, ConnectionLostError):
            memory = self.rows(_MEMORY)[0]["memory_bytes"]
        return Cost(statements, seconds, memory)

    def _give_up(self) -> None:
        """Cut the wire of a server that answers no more, so that whoever waits for it goes on."""
        self._gave_up = True
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self.connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    @property
    def lends_power(self) -> bool:
        """Tell whether to plan what others wrote would lend them a superuser's rights; never so on the sandbox.

        EXPLAIN runs nothing of a statement, but planning it may call functions that it names.
        """
        return self.server.superuser and self.sandbox is None

    def keep(self, name: str, open_resource: Callable[[], contextlib.AbstractContextManager[T]]) -> T:
        """Return what is costly to open, opened once for this session and closed with it."""
        if name not in self._kept:
            self._kept[name] = self._closing.enter_context(open_resource())
        kept: T = self._kept[name]
        return kept

    def close(self) -> None:
        """Close the connection, and whatever was kept for it."""
        try:
            self._closing.close()
        finally:
            self.connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look_at_server(self) -> Server:
        facts = self.rows(_SERVER)[0]
        identifier = None
        try:
            row = self.rows("select system_identifier::text as identifier from pg_catalog.pg_control_system()")[0]
            identifier = row["identifier"]
        except psycopg.Error:
            pass  # a managed service may keep it to itself
        return Server(**{**facts, "extensions": facts["extensions"] or {}}, system_identifier=identifier)


def open_session(target: Target | str, *, database: str | None = None, ask_why: bool = True) -> Session:
    """Connect to a target, or to another database of its server, and return the guarded session.

    The sandbox is started where it does not run. Raises ConfigurationError for a target that is wrong and
    ConnectError, in one line without a secret, for one that does not answer; where a lock on the system catalog keeps
    everybody out, the line says whose it is, unless it is not to ``ask_why``.
    """
    if isinstance(target, str):
        target = load_target(target)
    dsn, sandbox = target.dsn, None
    if target.name == SANDBOX and not dsn:
        sandbox = default_sandbox().start()
        dsn = sandbox.url()
    overrides = {"application_name": APPLICATION_NAME, "client_encoding": "utf8"}
    if database:
        overrides["dbname"] = database
    parameters = conninfo_to_dict(make_conninfo(dsn, **overrides))
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT_S))
    try:
        connection = _connect(target, parameters)
        try:
            return Session(target, connection, sandbox)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        refusal = ConnectError(f"cannot look at {target.name}: {_one_line(error)}")
    except ConnectError as error:
        refusal = error
    if ask_why and "lock timeout" in str(refusal):
        from pgrunbooks import locked_out  # which opens a session itself

        if why := locked_out.why(target, str(parameters.get("dbname") or os.environ.get("PGDATABASE", ""))):
            raise ConnectError(f"cannot connect to {target.name}: {why}") from None
    raise refusal


def _connect(target: Target, parameters: dict[str, Any]) -> psycopg.Connection:
    guards = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{target.statement_timeout * 1000:.0f}",
        "lock_timeout": f"{target.lock_timeout * 1000:.0f}",
        "idle_in_transaction_session_timeout": "60000",
        "datestyle": "iso",  # a role may have others, which psycopg cannot read
        "intervalstyle": "postgres",
    }
    options = " ".join([parameters.get("options") or "", *(f"-c {name}={value}" for name, value in guards.items())])
    with _refusals(target.name, parameters):
        try:
            return _open({**parameters, "options": options.strip()})
        except psycopg.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            return _open(parameters)  # PgBouncer takes no options; every query of ours carries its guards itself


@contextlib.contextmanager
def _refusals(name: str, parameters: Mapping[str, Any]) -> Iterator[None]:
    """Turn what libpq says of a connection that failed into one line that holds no secret."""
    try:
        yield
    except (psycopg.OperationalError, UnicodeError) as error:
        reason = _one_line(error)
        for key in ("password", "sslpassword"):
            if parameters.get(key):
                reason = reason.replace(str(parameters[key]), "***")
        raise ConnectError(f"cannot connect to {name}: {reason}") from None
    except psycopg.ProgrammingError:
        raise ConfigurationError(f"{name}: its connection string has an option that libpq does not know") from None


def _open(parameters: dict[str, Any]) -> psycopg.Connection:
    # prepare_threshold=None: a prepared statement does not survive a transaction pooler
    connection = psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
    for kind in ("text", "varchar", "bpchar", "name", '"char"'):
        connection.adapters.register_loader(kind, _TextLoader)
        connection.adapters.register_loader(kind, _BinaryTextLoader)
    return connection


class _TextLoader(Loader):
    r"""Read any text: a byte that is no UTF-8 is written out, as in ``caf\xe9``.

    SQL_ASCII databases keep such bytes, and through the names of databases and roles, which all databases share, they
    reach sessions elsewhere.
    """

    def load(self, data: Buffer) -> str:
        """Return the text."""
        return bytes(data).decode("utf-8", "backslashreplace")


class _BinaryTextLoader(_TextLoader):
    format = Format.BINARY


def _one_line(error: BaseException) -> str:
    """Return the telling part of libpq's message: one line, without psycopg's advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [
        line for line in lines if not line.startswith(("Multiple connection attempts", "- host:", "Is the server"))
    ]
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"^connection failed: ", "", text)


def pooler_rows(target: Target, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a command such as ``show pools`` from the admin console of the target's PgBouncer.

    Raises ConnectError where the console does not answer.
    """
    parameters = conninfo_to_dict(target.pooler or "")
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT_S))
    with _refusals(f"the pooler of {target.name}", parameters), _open(parameters) as connection:
        return connection.cursor(row_factory=dict_row).execute(sql).fetchall()


def refused(error: psycopg.Error, server: Server) -> Skip | str:
    """Return what a server's refusal means: a Skip with its remedy, or why the check failed."""
    message = error.diag.message_primary or _one_line(error)
    if isinstance(error, pg.InsufficientPrivilege):
        return Skip(message, f"grant pg_monitor to {server.quoted_role};")
    if isinstance(error, (pg.UndefinedTable, pg.UndefinedFunction, pg.UndefinedColumn, pg.FeatureNotSupported)):
        return Skip(f"this server has no such view, function or column: {message}")
    if isinstance(error, pg.LockNotAvailable):
        return f"a lock on the catalog was not to be had within the lock time-out: {message}"
    if isinstance(error, pg.QueryCanceled):
        return f"stopped: {message}"
    return f"{type(error).__name__}: {message}"


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, float) and value != value:
        return None
    return value
