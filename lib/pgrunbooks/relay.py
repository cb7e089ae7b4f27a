"""The relay: pg_dump reads a production server through a connection of ours, so it needs no password and no TLS.

The embedded pg_dump has no TLS, and it lifts every time-out that it finds. So it speaks to a private socket here, and
its statements are run on a guarded session: whatever psycopg can reach, it can dump, and nothing waits without bound.
https://www.postgresql.org/docs/18/protocol.html describes the messages.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import pq

from pgrunbooks.errors import ConnectionLostError, RunbookError
from pgrunbooks.session import Session

_PORT = 5432  # of the name of the socket only
_START_S = 20.0
_NOT_ENCRYPTED = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_CANCEL = 80877102
_LIFTS_A_GUARD = re.compile(
    rb"\s*SET (statement|lock|idle_in_transaction_session|transaction)_timeout\b", re.IGNORECASE
)
_TOLD = (
    b"server_version",
    b"server_encoding",
    b"client_encoding",
    b"standard_conforming_strings",
    b"integer_datetimes",
    b"is_superuser",
    b"session_authorization",
    b"in_hot_standby",
)


class DumpError(RunbookError):
    """pg_dump did not come to its end; the message is its last word."""


def dump(session: Session, program: Path, arguments: Sequence[str], *, filter_lines: Sequence[str] = ()) -> str:
    """Run pg_dump with these arguments on the connection of a session, which it keeps in a state of its own.

    The session's time-outs hold: a statement of pg_dump that sets one is answered and not run. ``filter_lines`` are
    those of its option --filter. Raises DumpError, and ConnectionLostError where the server went away.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pgrunbooks-dump-") as folder,
        socket.socket(socket.AF_UNIX) as listener,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as complaints,
        tempfile.TemporaryFile() as patterns,
    ):
        listener.bind(f"{folder}/.s.PGSQL.{_PORT}")
        listener.listen(1)
        listener.settimeout(_START_S)
        patterns.write("".join(f"{line}\n" for line in filter_lines).encode())
        patterns.seek(0)
        conninfo = f"host={folder} port={_PORT} user=relay dbname=relay sslmode=disable gssencmode=disable"
        filtered = ["--filter=-"] if filter_lines else []
        command = [str(program), "--encoding=UTF8", *filtered, *arguments, f"--dbname={conninfo}"]
        environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "HOME": folder}
        with subprocess.Popen(command, stdin=patterns, stdout=output, stderr=complaints, env=environment) as process:
            try:
                _serve(listener, session.connection.pgconn, process)
            except psycopg.OperationalError:
                raise ConnectionLostError("the server went away while its schema was read") from None
            finally:
                if process.poll() is None:
                    process.terminate()
        output.seek(0)
        complaints.seek(0)
        if process.returncode != 0:
            if session.connection.pgconn.status != pq.ConnStatus.OK:
                raise ConnectionLostError("the server went away while its schema was read")
            raise DumpError(_complaint(complaints.read().decode(errors="replace")))
        return output.read().decode()


def _complaint(text: str) -> str:
    errors = [line for line in text.splitlines() if "error:" in line] or text.splitlines() or ["it said nothing"]
    return re.sub(r"^pg_dump: error: (query failed: )?", "", errors[0].strip())


def _serve(listener: socket.socket, server: pq.abc.PGconn, process: subprocess.Popen[bytes]) -> None:
    """Answer one client until it has gone."""
    try:
        client, _ = listener.accept()
    except TimeoutError:
        return  # pg_dump could not even start; its exit status tells
    with client, client.makefile("rwb") as stream:
        while (code := struct.unpack("!i", _payload(stream)[:4])[0]) in _NOT_ENCRYPTED:
            stream.write(b"N")
            stream.flush()
        if code == _CANCEL:
            return
        stream.write(b"".join(_welcome(server)))
        stream.flush()
        while (kind := stream.read(1)) not in (b"", b"X"):
            payload = _payload(stream)
            if kind != b"Q":
                raise DumpError(f"it sent a message of the kind {kind!r}, which the relay does not know")
            stream.write(b"".join(_answer(server, payload.rstrip(b"\0"))))
            stream.flush()
        process.wait()


def _payload(stream: object) -> bytes:
    """Read the rest of a message: a length that counts itself, then the bytes."""
    read = stream.read  # type: ignore[attr-defined]
    head = read(4)
    return bytes(read(struct.unpack("!i", head)[0] - 4)) if len(head) == 4 else b"\0\0\0\0"


def _message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!i", len(payload) + 4) + payload


def _welcome(server: pq.abc.PGconn) -> Iterator[bytes]:
    yield _message(b"R", struct.pack("!i", 0))
    for name in _TOLD:
        value = server.parameter_status(name)
        if value is not None:
            yield _message(b"S", name + b"\0" + value + b"\0")
    yield _message(b"K", struct.pack("!ii", 0, 0))
    yield _ready(server)


def _ready(server: pq.abc.PGconn) -> bytes:
    states = {pq.TransactionStatus.IDLE: b"I", pq.TransactionStatus.INTRANS: b"T", pq.TransactionStatus.INERROR: b"E"}
    return _message(b"Z", states.get(pq.TransactionStatus(server.transaction_status), b"I"))


def _answer(server: pq.abc.PGconn, sql: bytes) -> Iterator[bytes]:
    """Run one statement and return the messages that a server would send of its result."""
    if _LIFTS_A_GUARD.match(sql):
        yield _message(b"C", b"SET\0")
        yield _ready(server)
        return
    result = server.exec_(sql)
    if result.status == pq.ExecStatus.TUPLES_OK:
        yield from _rows(result)
    elif result.status == pq.ExecStatus.EMPTY_QUERY:
        yield _message(b"I", b"")
    elif result.status == pq.ExecStatus.COMMAND_OK:
        yield _message(b"C", (result.command_status or b"") + b"\0")
    else:
        yield _refusal(result)
    yield _ready(server)


def _rows(result: pq.abc.PGresult) -> Iterator[bytes]:
    columns = range(result.nfields)
    header = b"".join(
        (result.fname(it) or b"") + b"\0" + struct.pack("!ihihih", 0, 0, result.ftype(it), -1, -1, 0) for it in columns
    )
    yield _message(b"T", struct.pack("!h", len(columns)) + header)
    count = struct.pack("!h", len(columns))
    for row in range(result.ntuples):
        values = (result.get_value(row, it) for it in columns)
        cells = (b"\xff\xff\xff\xff" if it is None else struct.pack("!i", len(it)) + it for it in values)
        yield _message(b"D", count + b"".join(cells))
    yield _message(b"C", (result.command_status or b"") + b"\0")


def _refusal(result: pq.abc.PGresult) -> bytes:
    fields = (
        (b"S", pq.DiagnosticField.SEVERITY),
        (b"C", pq.DiagnosticField.SQLSTATE),
        (b"M", pq.DiagnosticField.MESSAGE_PRIMARY),
    )
    told = [letter + (result.error_field(field) or b"?") + b"\0" for letter, field in fields]
    return _message(b"E", b"".join(told) + b"\0")
