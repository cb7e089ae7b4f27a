"""What a file of the history holds: rows of several kinds, either one snapshot's or those of a whole month.

The schema has a version; what an older file did not measure yet is missing in it, and reads as None. Checksums of the
pages and a seal, which is one of the footer, tell a damaged file from a whole one.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow
from pyarrow import parquet

from pgrunbooks import store
from pgrunbooks.filing import Ids
from pgrunbooks.store import Location

# 2: the other databases' counters, checkpoints, subscriptions, slots, statements; 3: months and tablespaces; 4: a seal
SCHEMA_VERSION = 4
_SEALED = range(4, SCHEMA_VERSION + 1)
_SEAL = b"pgrb"  # and the footer's CRC-32; they stand right before the footer, where no reader of Parquet looks
_TAIL = 65536  # bytes that are read at once, as pyarrow does
DAMAGE = (pyarrow.ArrowException, OSError, ValueError)
_LOG = logging.getLogger(__name__)

_TEXT, INT, _BOOL, _TIME = pyarrow.string(), pyarrow.int64(), pyarrow.bool_(), pyarrow.timestamp("us", "UTC")
_RELATION = {
    **dict.fromkeys(("relation", "schema", "name", "relation_kind", "parent"), _TEXT),
    **dict.fromkeys(("oid", "heap_bytes", "toast_bytes", "index_bytes", "fsm_vm_bytes", "total_bytes"), INT),
    "estimated": _BOOL,
    **dict.fromkeys(("rows", "n_live", "n_dead", "inserted", "updated", "deleted", "hot_updated"), INT),
    **dict.fromkeys(("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze"), _TIME),
}
_SEQUENCE = dict.fromkeys(("last_value", "min_value", "max_value", "increment_by"), INT)
_CONFLICTS = tuple(f"confl_{why}" for why in ("tablespace", "lock", "snapshot", "bufferpin", "deadlock", "logicalslot"))
DATABASE_COUNTERS = (
    *("xact_commit", "xact_rollback", "blks_read", "blks_hit", "temp_files", "temp_bytes", "deadlocks", "conflicts"),
    *_CONFLICTS,
)
_DATABASE = {**dict.fromkeys(("database_bytes", *DATABASE_COUNTERS), INT), "stats_reset": _TIME}
CHECKPOINTS = ("timed_checkpoints", "requested_checkpoints")
_CLUSTER = {
    **{"wal_bytes": INT, "in_recovery": _BOOL, "server_version_num": INT, "started_at": _TIME},
    **dict.fromkeys(CHECKPOINTS, INT),
    **{"stats_reset": _TIME, "counting_since": _TIME},
}
ERRORS = ("apply_errors", "sync_errors")
_SUBSCRIPTION = {**dict.fromkeys(ERRORS, INT), "stats_reset": _TIME}
_SLOT = {"lsn_bytes": INT, "inactive_since": _TIME}
_TABLESPACE = {"tablespace_bytes": INT}
STATEMENT = {"queryid": INT, "calls": INT, "total_ms": pyarrow.float64(), "rows": INT}
COLUMNS = {
    "relation": _RELATION,
    "sequence": {**dict.fromkeys(("relation", "schema", "name"), _TEXT), "oid": INT, **_SEQUENCE},
    "key": {"name": _TEXT, "last_value": INT},
    "database": {"name": _TEXT, "oid": INT, **_DATABASE},
    "other_database": {"name": _TEXT, "oid": INT, **_DATABASE},
    "cluster": _CLUSTER,
    "subscription": {"name": _TEXT, "oid": INT, **_SUBSCRIPTION},
    "slot": {"name": _TEXT, **_SLOT},
    "statement": STATEMENT,
    "tablespace": {"name": _TEXT, "oid": INT, **_TABLESPACE},
}
_EVERY = {**_RELATION, **_SEQUENCE, **_DATABASE, **_CLUSTER, **_SUBSCRIPTION, **_SLOT, **STATEMENT, **_TABLESPACE}
SCHEMA = pyarrow.schema(list({"kind": _TEXT, "taken_at": _TIME, **_EVERY}.items()))
SERVER_KINDS = ("cluster", "database", "other_database", "subscription", "slot")  # few rows each
TIMES = frozenset(field.name for field in SCHEMA if field.type == _TIME)

MONTH = SCHEMA.append(pyarrow.field("member", pyarrow.int32()))


class Member(NamedTuple):
    """One snapshot: the name that its own file had, without the suffix, and when it was taken."""

    name: str
    at: datetime.datetime


class Facts(NamedTuple):
    """What a file says of itself: the snapshots in it, those that it replaces, and when it was written."""

    members: tuple[Member, ...]
    replaces: frozenset[str]
    written_at: datetime.datetime
    is_month: bool


def facts(place: Location, whose: Ids) -> Facts:
    """Return what a file says of itself; raises ValueError for one that is not of this database's history."""
    with store.opened(place) as source:
        try:
            metadata = _file(source).metadata.metadata or {}
        except DAMAGE:
            raise ValueError("damaged, or not a Parquet file") from None
    said = {
        key.decode().removeprefix("pgrunbooks."): value.decode()
        for key, value in metadata.items()
        if key.startswith(b"pgrunbooks.")
    }
    if not {"schema_version", "taken_at"} <= said.keys():
        raise ValueError("a Parquet file, but not a snapshot of pgrunbooks")
    if int(said["schema_version"]) > SCHEMA_VERSION:
        raise ValueError("written by a newer pgrunbooks")
    if (said.get("system_identifier"), said.get("database")) != whose:
        raise ValueError("a snapshot of another database")
    at = datetime.datetime.fromisoformat(said["taken_at"])
    if "members" not in said:
        stem = str(place).rpartition("/")[2].removesuffix(".parquet")
        return Facts((Member(stem, at),), frozenset(), at, False)
    members = tuple(Member(name, datetime.datetime.fromisoformat(then)) for name, then in json.loads(said["members"]))
    return Facts(members, frozenset(json.loads(said["replaces"])), at, True)


def reason(problem: Exception) -> str:
    """Return in words why a file is left aside."""
    return (problem.strerror if isinstance(problem, OSError) else None) or " ".join(str(problem).split())


def writer_of(
    file: BinaryIO, whose: Ids, at: datetime.datetime
) -> contextlib.AbstractContextManager[parquet.ParquetWriter]:
    """Return a writer, to be used in a ``with``, for the rows of one snapshot, taken at that time."""
    return _writer(file, SCHEMA, _signed(whose, at))


def writer_of_month(
    file: BinaryIO, whose: Ids, at: datetime.datetime, members: Sequence[Member], replaces: Collection[str]
) -> contextlib.AbstractContextManager[parquet.ParquetWriter]:
    """Return a writer like that of ``writer_of`` for many snapshots, whose number is the column ``member``."""
    metadata = {
        **_signed(whose, at),
        "pgrunbooks.members": json.dumps([(it.name, it.at.isoformat()) for it in members]),
        "pgrunbooks.replaces": json.dumps(sorted(replaces)),
    }
    return _writer(file, MONTH, metadata)


def _signed(whose: Ids, at: datetime.datetime) -> dict[str, str]:
    return {
        "pgrunbooks.schema_version": str(SCHEMA_VERSION),
        "pgrunbooks.taken_at": at.isoformat(),
        "pgrunbooks.system_identifier": whose[0],
        "pgrunbooks.database": whose[1],
    }


@contextlib.contextmanager
def _writer(file: BinaryIO, schema: pyarrow.Schema, metadata: dict[str, str]) -> Iterator[parquet.ParquetWriter]:
    schema = schema.with_metadata(metadata)
    with parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        yield writer
    _, footer = _seal_and_footer(file)
    file.seek(-len(footer), os.SEEK_END)
    file.write(_SEAL + _checksum(footer) + footer)


def _seal_and_footer(file: BinaryIO) -> tuple[bytes, bytes]:
    """Return the bytes of the footer and those that may be its seal; anything where the file is no Parquet file."""
    start = max(file.seek(0, os.SEEK_END) - _TAIL, 0)
    file.seek(start)
    tail = file.read()
    size = int.from_bytes(tail[-8:-4], "little") + 8
    if size + 8 > len(tail) and start:
        start = max(start + len(tail) - size - 8, 0)
        file.seek(start)
        tail = file.read()
    return tail[-size - 8 : -size], tail[-size:]


def _checksum(footer: bytes) -> bytes:
    return zlib.crc32(footer).to_bytes(4, "little")


def is_whole(place: Location) -> bool:
    """Tell whether every page of a file can be read; names it in the log where not."""
    try:
        with store.opened(place) as source:
            file = _file(source)
            for number in range(file.num_row_groups):
                file.read_row_group(number)
    except DAMAGE:
        _LOG.warning("%s: left aside: damaged", store.shown(place))
        return False
    return True


def read(
    place: Location, kind: str, columns: Sequence[str], members: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a kind, those of a month with the column ``member``; times are microseconds.

    What an older file did not measure is missing in its rows. Raises one of ``DAMAGE`` where the file is damaged.
    """
    return [row for part in parts(place, kind, columns, members) for row in part.to_pylist() if row["kind"] == kind]


def parts(
    place: Location, kind: str, columns: Sequence[str], members: Collection[int] | None = None
) -> Iterator[pyarrow.Table]:
    """Yield tables that hold the rows of a kind; one of a month holds those of the ``members`` alone.

    Rows of another kind may be among those of a single snapshot. Raises as ``read`` does.
    """
    wanted = ["kind", *columns] if members is None else ["kind", "member", *columns]
    with store.opened(place) as source:
        file = _file(source)
        for number in range(file.num_row_groups):
            if _may_hold(file.metadata.row_group(number), kind):
                table = _plain(file.read_row_group(number, columns=wanted))
                yield table if members is None else _only(table, members)


def _file(source: BinaryIO) -> parquet.ParquetFile:
    """Return a file to read from. Raises one of ``DAMAGE`` where its footer is not what was written."""
    seal, footer = _seal_and_footer(source)
    is_sealed = seal == _SEAL + _checksum(footer)
    if seal.startswith(_SEAL) and not is_sealed:
        raise ValueError("damaged: its footer was changed")
    file = parquet.ParquetFile(source, page_checksum_verification=True)
    version = (file.metadata.metadata or {}).get(b"pgrunbooks.schema_version", b"0")
    if int(version) in _SEALED and not is_sealed:
        raise ValueError("damaged: its seal was changed")
    return file


def _plain(table: pyarrow.Table) -> pyarrow.Table:
    """Return a table with microseconds for times: pyarrow would import pandas for these, which takes a second."""
    plain = [field.with_type(INT) if field.name in TIMES else field for field in table.schema]
    return table.cast(pyarrow.schema(plain))


def _only(table: pyarrow.Table, members: Collection[int]) -> pyarrow.Table:
    from pyarrow import compute  # and pandas with it: for months only

    return table.filter(compute.is_in(table["member"], pyarrow.array(list(members), pyarrow.int32())))


def _may_hold(group: parquet.RowGroupMetaData, kind: str) -> bool:
    """Tell whether a part of a file may have rows of a kind; each is written in parts of its own."""
    kinds = group.column(0).statistics
    return kinds is None or not kinds.has_min_max or kinds.min <= kind <= kinds.max
