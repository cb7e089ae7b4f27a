"""Drills: real faults made in a sandbox, and the healing of them. There is no way to point one at a target."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import psycopg

from pgrunbooks.check import Severity
from pgrunbooks.sandbox import Sandbox, wait_until


@dataclass(frozen=True)
class Incident:
    """A fault that stands: the object that the check must name, and how grave it must call it.

    ``settings`` are those of a target that it takes to see the fault, such as the ``pooler``.
    """

    kind: str
    name: str
    severity: Severity
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Drill:
    """One fault to practise on.

    ``symptom`` is what a pager would say. ``fault`` makes the fault in a sandbox for as long as its block lasts and
    yields the Incident once it is ripe under ``thresholds``, the limits that the target needs so that nobody waits
    for minutes.
    """

    code: str
    symptom: str
    fault: Callable[[Sandbox], AbstractContextManager[Incident]]
    thresholds: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))


@cache
def drills() -> Mapping[str, Drill]:
    """Find every drill: the code of its check -> Drill."""
    found = {}
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        if not module.name.rpartition(".")[2].startswith("_"):
            drill = importlib.import_module(module.name).drill
            found[drill.code] = drill
    return MappingProxyType(found)


class Actors:
    """The sessions that play an incident; leaving the block ends them, the last to come first."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._stage = contextlib.ExitStack()
        self.watcher = self._stage.enter_context(sandbox.connect(application_name="drill"))

    def __enter__(self) -> Actors:
        return self

    def __exit__(self, *error: object) -> None:
        self._stage.close()

    def enter(self, application: str, *statements: str, **settings: str) -> psycopg.Connection:
        """Open a session under an application's name and run statements in it.

        ``settings`` may name another ``database``, ``user`` or anything else that libpq knows.
        """
        connection = self.sandbox.connect(application_name=application, **settings)
        self._stage.callback(self._leave, connection)
        for statement in statements:
            connection.execute(statement)
        return connection

    def block(self, application: str, statement: str) -> psycopg.Connection:
        """Open a session and send a statement that is going to wait for a lock; return once it waits."""
        connection = self.enter(application)
        connection.pgconn.send_query(statement.encode())
        self.wait_until(
            "select exists (select from pg_locks where pid = %s and not granted)", connection.info.backend_pid
        )
        return connection

    def heal(self, *statements: str) -> None:
        """Have statements run when the block is left, after the sessions that entered later have gone."""
        for statement in reversed(statements):
            self._stage.callback(self.watcher.execute, statement)

    def wait_until(self, condition: str, *parameters: object) -> None:
        """Wait until a query of one boolean is true; raises TimeoutError after half a minute."""
        wait_until(self.watcher, condition, parameters)

    def waited(self, connection: psycopg.Connection, seconds: float) -> None:
        """Wait until a session has waited for its lock that long."""
        self.wait_until(
            "select max(clock_timestamp() - waitstart) >= make_interval(secs => %s)"
            " from pg_locks where not granted and pid = %s",
            seconds,
            connection.info.backend_pid,
        )

    def _leave(self, connection: psycopg.Connection) -> None:
        pid = connection.info.backend_pid
        with contextlib.suppress(psycopg.Error):
            connection.cancel_safe()
        connection.close()
        with contextlib.suppress(psycopg.Error):
            self.wait_until("select not exists (select from pg_stat_activity where pid = %s)", pid)


def pid(connection: psycopg.Connection) -> str:
    """Return a session's pid in digits, as findings name it."""
    return str(connection.info.backend_pid)
