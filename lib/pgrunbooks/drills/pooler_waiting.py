"""PgBouncer has one server connection for the shop, and a worker keeps it in a transaction."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.errors import SandboxError
from pgrunbooks.sandbox import DATABASE, Sandbox

USER = "postgres"
# Runs PgBouncer until our end of its standard input closes: it does not outlive us, whatever happens to us.
_WHILE_WE_LIVE = '"$0" "$1" & read line; kill $!; wait'


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Start a PgBouncer with a single server connection before the sandbox, and let one client wait for it."""
    with pooler(sandbox) as console, queue(console) as incident:
        yield incident


@contextmanager
def pooler(sandbox: Sandbox) -> Iterator[str]:
    """Run a PgBouncer with one server connection for the shop; yield the libpq string of its admin console.

    Raises SandboxError where there is no PgBouncer, or where it does not start.
    """
    program = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if not program:
        raise SandboxError("this drill needs PgBouncer: apt-get install pgbouncer")
    with tempfile.TemporaryDirectory(prefix="pgrunbooks-pooler-") as folder:
        log, settings = Path(folder, "pgbouncer.log"), Path(folder, "pgbouncer.ini")
        settings.write_text(
            f"[databases]\n{DATABASE} = host={sandbox.socket} dbname={DATABASE} user={USER}\n"
            f"[pgbouncer]\nlisten_port = 6432\nunix_socket_dir = {folder}\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 1\n"
        )
        account = {}
        if os.geteuid() == 0:  # which PgBouncer refuses to be: it runs as whom the server runs as
            owner = sandbox.data.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
            account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        with (
            log.open("w") as output,
            subprocess.Popen(
                ["sh", "-c", _WHILE_WE_LIVE, program, str(settings)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                **account,  # type: ignore[call-overload]
            ),  # leaving this block closes its input and waits until it has ended
        ):
            console = f"host={folder} port=6432 dbname=pgbouncer user={USER}"
            _wait_for(console, log)
            yield console


@contextmanager
def queue(console: str) -> Iterator[Incident]:
    """Keep the pool's only server connection in a transaction, and let a second client wait for longer than 1 s."""
    shop = make_conninfo(console, dbname=DATABASE)
    with closing(psycopg.connect(console, autocommit=True, prepare_threshold=None, row_factory=dict_row)) as admin:
        with (
            closing(psycopg.connect(shop, autocommit=True, application_name="invoice-worker")) as worker,
            closing(psycopg.connect(shop, autocommit=True, application_name="checkout")) as waiter,
        ):
            worker.execute("begin")
            waiter.pgconn.send_query(b"select 1")
            _wait_until(
                lambda: any(pool["cl_waiting"] and pool["maxwait"] >= 1 for pool in admin.execute("show pools"))
            )
            yield Incident("pool", f"{DATABASE}/{USER}", "warning", settings={"pooler": console})
        _wait_until(lambda: not any(pool["cl_waiting"] for pool in admin.execute("show pools")))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("PgBouncer's queue is not what it should be after 30 s")
        time.sleep(0.05)


def _wait_for(console: str, log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(console, autocommit=True).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                lines = log.read_text().splitlines() or ["it says nothing"]
                raise SandboxError(f"PgBouncer does not start: {lines[-1]}") from None
            time.sleep(0.05)


drill = Drill(
    "pooler-waiting",
    symptom="Requests time out, and the database shows next to no load: a handful of sessions, nobody waits.",
    fault=fault,
    thresholds={"pooler-waiting": {"warning": "1s", "critical": "1h"}},
)
