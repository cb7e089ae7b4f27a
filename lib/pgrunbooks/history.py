"""History: what was measured over time, as immutable Parquet files, one a snapshot.

A file is written aside, fsynced and then named, so no reader ever sees half of one and no writer waits for another. It
lies in ``<folder>/<system identifier>/<database>/<UTC stamp>.parquet``: what a snapshot belongs to is the server and
the database, whatever target they were reached by. DuckDB, in memory, answers questions over many files.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import psycopg
import pyarrow
from pyarrow import parquet

from pgrunbooks.check import Since, Skip
from pgrunbooks.display import duration, size, when
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.filing import Ids, history_folder, ids
from pgrunbooks.filing import place as filed
from pgrunbooks.session import Session, refused
from pgrunbooks.sizes import inventory_pages, pages, unblocked
from pgrunbooks.verdict import utc_now
from pgrunbooks.workload import Statement, Workload, read_workload

SCHEMA_VERSION = 2  # 2: the other databases' counters, checkpoints, subscriptions, slots, statements
MIN_AGE_S = 3600.0  # a rate over less than an hour says more about the hour than about the database
_STAMP = "%Y%m%dT%H%M%SZ"
_ABANDONED_S = 3600.0
_LOG = logging.getLogger(__name__)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_DAMAGE = (pyarrow.ArrowException, OSError, ValueError)
_Rows: TypeAlias = Sequence[dict[str, Any]]


_TEXT, _INT, _BOOL, _TIME = pyarrow.string(), pyarrow.int64(), pyarrow.bool_(), pyarrow.timestamp("us", "UTC")
_RELATION = {
    **dict.fromkeys(("relation", "schema", "name", "relation_kind", "parent"), _TEXT),
    **dict.fromkeys(("oid", "heap_bytes", "toast_bytes", "index_bytes", "fsm_vm_bytes", "total_bytes"), _INT),
    "estimated": _BOOL,
    **dict.fromkeys(("rows", "n_live", "n_dead", "inserted", "updated", "deleted", "hot_updated"), _INT),
    **dict.fromkeys(("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze"), _TIME),
}
_SEQUENCE = dict.fromkeys(("last_value", "min_value", "max_value", "increment_by"), _INT)
_CONFLICTS = tuple(f"confl_{why}" for why in ("tablespace", "lock", "snapshot", "bufferpin", "deadlock", "logicalslot"))
_DATABASE_COUNTERS = (
    *("xact_commit", "xact_rollback", "blks_read", "blks_hit", "temp_files", "temp_bytes", "deadlocks", "conflicts"),
    *_CONFLICTS,
)
_DATABASE = {**dict.fromkeys(("database_bytes", *_DATABASE_COUNTERS), _INT), "stats_reset": _TIME}
_CHECKPOINTS = ("timed_checkpoints", "requested_checkpoints")
_CLUSTER = {
    **{"wal_bytes": _INT, "in_recovery": _BOOL, "server_version_num": _INT, "started_at": _TIME},
    **dict.fromkeys(_CHECKPOINTS, _INT),
    **{"stats_reset": _TIME, "counting_since": _TIME},
}
_ERRORS = ("apply_errors", "sync_errors")
_SUBSCRIPTION = {**dict.fromkeys(_ERRORS, _INT), "stats_reset": _TIME}
_SLOT = {"lsn_bytes": _INT, "inactive_since": _TIME}
_STATEMENT = {"queryid": _INT, "calls": _INT, "total_ms": pyarrow.float64(), "rows": _INT}
_COLUMNS = {
    "relation": _RELATION,
    "sequence": {**dict.fromkeys(("relation", "schema", "name"), _TEXT), "oid": _INT, **_SEQUENCE},
    "database": {"name": _TEXT, "oid": _INT, **_DATABASE},
    "other_database": {"name": _TEXT, "oid": _INT, **_DATABASE},
    "cluster": _CLUSTER,
    "subscription": {"name": _TEXT, "oid": _INT, **_SUBSCRIPTION},
    "slot": {"name": _TEXT, **_SLOT},
    "statement": _STATEMENT,
}
_EVERY = {**_RELATION, **_SEQUENCE, **_DATABASE, **_CLUSTER, **_SUBSCRIPTION, **_SLOT, **_STATEMENT}
_SCHEMA = pyarrow.schema(list({"kind": _TEXT, "taken_at": _TIME, **_EVERY}.items()))
_SERVER_KINDS = ("cluster", "database", "other_database", "subscription", "slot")  # few rows each
_TIMES = frozenset(field.name for field in _SCHEMA if field.type == _TIME)

_DATABASES = """
select
    pg_catalog.quote_ident(d.datname) as name,
    d.datname::text as database,
    d.oid::int8 as oid,
    d.datname = pg_catalog.current_database() as is_here,
    s.xact_commit, s.xact_rollback, s.blks_read, s.blks_hit, s.temp_files, s.temp_bytes, s.deadlocks, s.conflicts,
    c.confl_tablespace, c.confl_lock, c.confl_snapshot, c.confl_bufferpin, c.confl_deadlock,
    s.conflicts - c.confl_tablespace - c.confl_lock - c.confl_snapshot - c.confl_bufferpin - c.confl_deadlock
        as confl_logicalslot,
    s.stats_reset
from pg_catalog.pg_database as d
join pg_catalog.pg_stat_database as s on s.datid = d.oid
join pg_catalog.pg_stat_database_conflicts as c on c.datid = d.oid
order by is_here desc, d.oid
"""

# pg_database_size walks a folder and locks nothing; it needs CONNECT or pg_read_all_stats.
_DATABASE_SIZE = """
select
    case
        when pg_catalog.has_database_privilege(d.oid, 'connect')
            or pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')
        then pg_catalog.pg_database_size(d.oid)
    end as database_bytes
from pg_catalog.pg_database as d
where d.datname = pg_catalog.current_database()
"""

# A crash empties all counters and gives those of the whole server a new stats_reset; somebody who resets some of them
# by name leaves the older of two alone.
_CLUSTER_15 = """
select
    pg_catalog.pg_wal_lsn_diff(
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end,
        '0/0'
    )::int8 as wal_bytes,
    pg_catalog.pg_is_in_recovery() as in_recovery,
    current_setting('server_version_num')::int8 as server_version_num,
    pg_catalog.pg_postmaster_start_time() as started_at,
    b.checkpoints_timed as timed_checkpoints,
    b.checkpoints_req as requested_checkpoints,
    b.stats_reset,
    least(b.stats_reset, a.stats_reset) as counting_since
from pg_catalog.pg_stat_bgwriter as b
cross join pg_catalog.pg_stat_archiver as a
"""

_CLUSTER_17 = """
select
    pg_catalog.pg_wal_lsn_diff(
        case
            when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
            else pg_catalog.pg_current_wal_lsn()
        end,
        '0/0'
    )::int8 as wal_bytes,
    pg_catalog.pg_is_in_recovery() as in_recovery,
    current_setting('server_version_num')::int8 as server_version_num,
    pg_catalog.pg_postmaster_start_time() as started_at,
    c.num_timed as timed_checkpoints,
    c.num_requested as requested_checkpoints,
    c.stats_reset,
    least(c.stats_reset, a.stats_reset) as counting_since
from pg_catalog.pg_stat_checkpointer as c
cross join pg_catalog.pg_stat_archiver as a
"""
_CLUSTER_NOW = {15: _CLUSTER_15, 17: _CLUSTER_17}

_SUBSCRIPTIONS = """
select
    s.subname::text as name,
    s.subid::int8 as oid,
    s.apply_error_count as apply_errors,
    s.sync_error_count as sync_errors,
    s.stats_reset
from pg_catalog.pg_stat_subscription_stats as s
order by s.subid
"""

# What a reader confirmed moves on when it reads: to compare it says more than two looks at whether it is there.
_SLOTS_15 = """
select
    s.slot_name::text as name,
    pg_catalog.pg_wal_lsn_diff(coalesce(s.confirmed_flush_lsn, s.restart_lsn), '0/0')::int8 as lsn_bytes,
    null::timestamptz as inactive_since
from pg_catalog.pg_replication_slots as s
where not s.active and not s.temporary
order by s.slot_name
"""

_SLOTS_17 = """
select
    s.slot_name::text as name,
    pg_catalog.pg_wal_lsn_diff(coalesce(s.confirmed_flush_lsn, s.restart_lsn), '0/0')::int8 as lsn_bytes,
    s.inactive_since
from pg_catalog.pg_replication_slots as s
where not s.active and not s.temporary
order by s.slot_name
"""
_SLOTS = {15: _SLOTS_15, 17: _SLOTS_17}

_SEQUENCES = """
select
    c.oid::int8 as oid,
    pg_catalog.quote_ident(n.nspname) as schema,
    pg_catalog.quote_ident(c.relname) as name,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as relation,
    s.seqmin as min_value,
    s.seqmax as max_value,
    s.seqincrement as increment_by,
    pg_catalog.has_sequence_privilege(c.oid, 'usage, select')
        and (c.relpersistence = 'p' or not pg_catalog.pg_is_in_recovery()) as readable
from pg_catalog.pg_sequence as s
join pg_catalog.pg_class as c on c.oid = s.seqrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relpersistence <> 't' and c.oid > %(after)s::int8::oid
order by c.oid
limit %(most)s
"""

_LAST_VALUES = """
select o.oid::int8 as oid, pg_catalog.pg_sequence_last_value(o.oid) as last_value
from unnest(%(oids)s::oid[]) as o (oid)
order by o.oid
"""

# pg_sequence_last_value takes ROW EXCLUSIVE and keeps it until the statement ends: few at a time
_SEQUENCES_AT_ONCE = 200
_BLOCKS_A_SEQUENCE = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


class Snapshot(NamedTuple):
    """One file of the history: when it was taken, and where it is."""

    at: datetime.datetime
    path: Path


# ---- writing ---------------------------------------------------------------------------------------------------


def record_snapshot(session: Session, *, at: datetime.datetime | None = None, folder: Path | None = None) -> Path:
    """Measure the session's database and write one file of the history; return its path.

    ``at`` is the time that the snapshot is filed under, by default now. Raises ConfigurationError where the folder
    cannot be written to, and RunbookError where the catalog cannot be read.
    """
    at = (at or utc_now()).astimezone(datetime.UTC)
    identifier, database = ids(session)
    folder = folder or history_folder()
    place = filed(folder, (identifier, database))
    stamp = at.strftime(_STAMP)
    metadata = {
        "pgrunbooks.schema_version": str(SCHEMA_VERSION),
        "pgrunbooks.taken_at": at.isoformat(),
        "pgrunbooks.system_identifier": identifier,
        "pgrunbooks.database": database,
    }
    aside = place / f".{stamp}-{secrets.token_hex(4)}.partial"
    try:
        place.mkdir(parents=True, exist_ok=True)
        _clear(place)
        try:
            with aside.open("xb") as file:
                with parquet.ParquetWriter(file, _SCHEMA.with_metadata(metadata), compression="zstd") as writer:
                    for rows in filter(None, _measured(session, at, folder)):
                        table = pyarrow.Table.from_pylist([{"taken_at": at, **row} for row in rows], schema=_SCHEMA)
                        writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            return _publish(aside, place, stamp)
        finally:
            aside.unlink(missing_ok=True)
    except psycopg.Error as error:
        refusal = refused(error, session.server)
        raise RunbookError(f"no snapshot: {refusal.reason if isinstance(refusal, Skip) else refusal}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{place}: no history can be written: {reason}; set PGRUNBOOKS_HISTORY") from None


def _clear(place: Path) -> None:
    """Remove what a writer that was killed left behind; one that still lives is never that old."""
    for aside in place.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - aside.stat().st_mtime > _ABANDONED_S:
                aside.unlink()


def _publish(aside: Path, place: Path, stamp: str) -> Path:
    """Give a finished file its name; never takes that of another, as a rename would."""
    path = place / f"{stamp}.parquet"
    try:
        os.link(aside, path)
    except OSError:  # somebody was first within this second, or the file system has no links
        path = aside.rename(place / f"{aside.stem.removeprefix('.')}.parquet")
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def _measured(session: Session, at: datetime.datetime, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a snapshot, those of one kind together so that a reader can pass the others over."""
    here, *others = _databases(session)
    yield [{"kind": "cluster", **_cluster(session)}]
    yield [{"kind": "database", **here, **session.rows(_DATABASE_SIZE)[0]}]
    yield [{"kind": "other_database", **row} for row in others]
    yield [{"kind": "subscription", **row} for row in _subscriptions(session)]
    yield [{"kind": "slot", **row} for row in _since_when(session, at, folder)]
    yield [{"kind": "statement", **_counted(it)} for it in _statements(session)]
    for page in pages(session, _SEQUENCES):
        readable = {row["oid"]: {row["oid"]} for row in page if row["readable"]}
        values = unblocked(session, readable, _LAST_VALUES, modes=_BLOCKS_A_SEQUENCE, most=_SEQUENCES_AT_ONCE)
        yield [{"kind": "sequence", **row, "last_value": values.get(row["oid"], {}).get("last_value")} for row in page]
    for page in inventory_pages(session):
        yield [{"kind": "relation", "relation_kind": row["kind"], **_without_kind(row)} for row in page]


def _databases(session: Session) -> list[dict[str, Any]]:
    """Return what was counted in each database, the session's own first."""
    return [_with_times(row) for row in session.rows(_DATABASES)]


def _cluster(session: Session) -> dict[str, Any]:
    return _with_times(session.rows(_fitting(_CLUSTER_NOW, session))[0])


def _subscriptions(session: Session) -> list[dict[str, Any]]:
    return [_with_times(row) for row in session.rows(_SUBSCRIPTIONS)]


def _slots(session: Session) -> list[dict[str, Any]]:
    """Return the inactive slots; before 17 no server tells since when they are."""
    return [_with_times(row) for row in session.rows(_fitting(_SLOTS, session))]


def _statements(session: Session) -> Sequence[Statement]:
    """Return what pg_stat_statements counted in the session's database; nothing where it cannot be read."""
    read = read_workload(session)
    return () if isinstance(read, Skip) else read.statements


def _counted(statement: Statement) -> dict[str, Any]:
    return {name: getattr(statement, name) for name in _STATEMENT}


def _fitting(sql: Mapping[int, str], session: Session) -> str:
    return sql[max(lowest for lowest in sql if lowest <= max(session.server.major, 15))]


def _since_when(session: Session, at: datetime.datetime, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield each inactive slot with when it became so: what the server says, else the first snapshot that saw it so.

    Each snapshot hands this time on to the next while nobody read the slot in between, so one file tells it all.
    """
    slots, before = _slots(session), {}
    if any(slot["inactive_since"] is None for slot in slots):
        last = next(_newest_first(session, folder, before=at), None)
        before = {slot["name"]: slot for slot in last[1]["slot"]} if last else {}
    for slot in slots:
        then = before.get(slot["name"])
        unread_since = then["inactive_since"] if then and then["lsn_bytes"] == slot["lsn_bytes"] else at
        yield {**slot, "inactive_since": slot["inactive_since"] or unread_since}


def _without_kind(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _with_times(row).items() if name != "kind"}


def _with_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.datetime.fromisoformat(value) if value and name in _TIMES else value
        for name, value in row.items()
    }


# ---- reading ---------------------------------------------------------------------------------------------------


def snapshots(whose: Session | Ids, *, folder: Path | None = None) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots of a session's database (or of ``ids``), oldest first, and what was left aside and why.

    A file that is damaged, foreign or newer than this program is one line of the second list, never a failure.
    """
    identifier, database = ids(whose) if isinstance(whose, Session) else whose
    found, warnings = [], []
    for path in sorted(filed(folder or history_folder(), (identifier, database)).glob("*.parquet")):
        if path.name.startswith("."):
            continue
        try:
            found.append(Snapshot(_taken_at(path, identifier, database), path))
        except (OSError, ValueError) as problem:
            warnings.append(f"{path}: left aside: {_reason(problem)}")
    return sorted(found), warnings


def _taken_at(path: Path, identifier: str, database: str) -> datetime.datetime:
    """Return when a file was taken; raises ValueError for one that is not a snapshot of this database."""
    with path.open("rb") as file:
        try:
            metadata = parquet.read_schema(file).metadata or {}
        except _DAMAGE:
            raise ValueError("damaged, or not a Parquet file") from None
    facts = {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"pgrunbooks.")}
    if not {"pgrunbooks.schema_version", "pgrunbooks.taken_at"} <= facts.keys():
        raise ValueError("a Parquet file, but not a snapshot of pgrunbooks")
    if int(facts["pgrunbooks.schema_version"]) > SCHEMA_VERSION:
        raise ValueError("written by a newer pgrunbooks")
    if (facts.get("pgrunbooks.system_identifier"), facts.get("pgrunbooks.database")) != (identifier, database):
        raise ValueError("a snapshot of another database")
    return datetime.datetime.fromisoformat(facts["pgrunbooks.taken_at"])


def _reason(problem: Exception) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)


def read_rows(snapshot: Snapshot | Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of one kind in a snapshot, such as 'relation', 'database' or 'sequence'.

    Relations come back as ``size_inventory`` returns them, but with times as datetimes. What an older file did not
    measure yet is None in its rows, or no row at all. Raises pyarrow's ArrowException or OSError where the file is
    damaged.
    """
    path = snapshot if isinstance(snapshot, Path) else snapshot.path
    columns = _COLUMNS[kind]
    with path.open("rb") as source:
        file = parquet.ParquetFile(source)
        groups = [it for it in range(file.num_row_groups) if _may_hold(file.metadata.row_group(it), kind)]
        table = file.read_row_groups(groups, columns=["kind", *columns])
    # pyarrow's own filters and times would import pandas, which takes longer than all the rest
    plain = [field.with_type(_INT) if field.name in _TIMES else field for field in table.schema]
    measured = [row for row in table.cast(pyarrow.schema(plain)).to_pylist() if row["kind"] == kind]
    rows = [{name: _read(name, row.get(name)) for name in columns} for row in measured]
    if kind == "relation":
        for row in rows:
            row["kind"] = row.pop("relation_kind")
    return rows


def _read(name: str, value: Any) -> Any:
    """Return a value with the time that was read as microseconds."""
    return _time(value) if name in _TIMES and value is not None else value


def _time(microseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def _may_hold(group: parquet.RowGroupMetaData, kind: str) -> bool:
    """Tell whether a part of a file may have rows of a kind; each is written in parts of its own."""
    kinds = group.column(0).statistics
    return kinds is None or not kinds.has_min_max or kinds.min <= kind <= kinds.max


def since(session: Session, *, now: datetime.datetime | None = None, folder: Path | None = None) -> Since | None:
    """Return what the newest snapshot that is at least an hour old had measured; None without one.

    Counters that were reset since are left out. A crash empties all of them, and those of a database that was made
    anew begin at nothing: a counter that is lower than it was counts as reset too.
    """
    now = (now or utc_now()).astimezone(datetime.UTC)
    latest = now - datetime.timedelta(seconds=MIN_AGE_S)
    for snapshot, then in _newest_first(session, folder or history_folder(), before=latest):
        age_s = (now - snapshot.at).total_seconds()
        slots = _unread(then["slot"], _slots(session), now)
        (cluster_then,), cluster = then["cluster"], _cluster(session)
        if cluster_then["counting_since"] not in (None, cluster["counting_since"]):
            return Since(age_s, slots=slots)
        subscriptions = {row["oid"]: row for row in then["subscription"]}
        return Since(
            age_s,
            databases=_databases_then(then, _databases(session)),
            checkpoints=cluster_then if _counted_on(cluster_then, cluster, _CHECKPOINTS) else None,
            subscriptions={
                row["oid"]: subscriptions[row["oid"]]
                for row in _subscriptions(session)
                if _counted_on(subscriptions.get(row["oid"]), row, _ERRORS)
            },
            slots=slots,
        )
    return None


def workload_since(
    session: Session, *, now: datetime.datetime | None = None, folder: Path | None = None
) -> Workload | Skip:
    """Return the session's workload since the newest snapshot that is at least an hour old, else since its reset.

    ``window_s`` says which; a snapshot from before the reset of pg_stat_statements is not compared.
    """
    current = read_workload(session)
    if isinstance(current, Skip):
        return current
    now = (now or utc_now()).astimezone(datetime.UTC)
    latest = now - datetime.timedelta(seconds=MIN_AGE_S)
    for snapshot, _ in _newest_first(session, folder or history_folder(), before=latest):
        age_s = (now - snapshot.at).total_seconds()
        then = [Statement("", **row) for row in read_rows(snapshot, "statement")]
        if then and (current.window_s or 0.0) > age_s:
            return replace(current.since(Workload(tuple(then))), window_s=age_s)
        break
    return current


def _databases_then(then: Mapping[str, _Rows], now: _Rows) -> dict[str, dict[str, Any]]:
    """Return what was counted in each database that was not reset since, by name; nothing at all in a newer one."""
    (here,), others = then["database"], then["other_database"]
    known = {now[0]["oid"] if here["oid"] is None else here["oid"]: here, **{row["oid"]: row for row in others}}
    # every server has other databases, but files of version 1 have not
    newer = {**dict.fromkeys(_DATABASE_COUNTERS, 0), "stats_reset": None} if others else None
    pairs = [(row, known.get(row["oid"], newer)) for row in now]
    return {row["database"]: old for row, old in pairs if old and _counted_on(old, row, _DATABASE_COUNTERS)}


def _counted_on(then: Mapping[str, Any] | None, now: Mapping[str, Any], counters: Sequence[str]) -> bool:
    """Tell whether an object was there at the time of a snapshot and has not been reset since."""
    if then is None or then["stats_reset"] != now["stats_reset"]:
        return False
    return all((now[name] or 0) >= (then[name] or 0) for name in counters)


def _unread(then: _Rows, now: _Rows, at: datetime.datetime) -> dict[str, float]:
    """Return for how many seconds each slot that was and is inactive has not been read."""
    lsn_bytes = {row["name"]: row["lsn_bytes"] for row in now}
    return {
        row["name"]: (at - row["inactive_since"]).total_seconds()
        for row in then
        if row["name"] in lsn_bytes and lsn_bytes[row["name"]] == row["lsn_bytes"]
    }


def _newest_first(
    session: Session, folder: Path, *, before: datetime.datetime
) -> Iterator[tuple[Snapshot, dict[str, _Rows]]]:
    """Yield the snapshots up to a time with what they say of the server, by kind; opens no more than is asked for.

    Those of a standby are none of its primary's, which has the same identifier, and the other way round.
    """
    whose = ids(session)
    latest = before.strftime(_STAMP)
    for path in sorted(filed(folder, whose).glob("[0-9]*.parquet"), reverse=True):
        if path.name[: len(latest)] > latest:
            continue
        try:
            snapshot = Snapshot(_taken_at(path, *whose), path)
            rows: dict[str, _Rows] = {kind: read_rows(path, kind) for kind in _SERVER_KINDS}
        except _DAMAGE as problem:
            _LOG.warning("%s: left aside: %s", path, _reason(problem))
            continue
        if snapshot.at <= before and rows["cluster"][0]["in_recovery"] == session.server.in_recovery:
            yield snapshot, rows


# ---- asking many files at once -----------------------------------------------------------------------------------

_GROWTH = """
with measured as (
    select
        filename as file,
        case when $roll_up then coalesce(parent, relation) else relation end as relation,
        count(parent) as partitions,
        sum(total_bytes)::bigint as total_bytes,
        bool_or(estimated) as estimated
    from read_parquet($files, union_by_name = true, filename = true)
    where kind = 'relation' and relation_kind <> 'temporary'
    group by all
)
select
    relation,
    coalesce(max(partitions) filter (file = $last), max(partitions)) as partitions,
    max(total_bytes) filter (file = $first) as first_bytes,
    max(total_bytes) filter (file = $previous) as previous_bytes,
    max(total_bytes) filter (file = $last) as last_bytes,
    coalesce(last_bytes, 0) - coalesce(first_bytes, 0) as grown_bytes,
    bool_or(estimated) as estimated
from measured
group by relation
order by grown_bytes desc, last_bytes desc nulls last, relation
"""

_DATABASE_SIZES = """
select epoch_us(taken_at) as taken_us, database_bytes
from read_parquet($files, union_by_name = true)
where kind = 'database' and database_bytes is not null
order by taken_us
"""


def growth(taken: Sequence[Snapshot], *, roll_up: bool = True) -> list[dict[str, Any]]:
    """Return how much each table grew between the first, the previous and the last of some snapshots, most first.

    Columns: relation, partitions, first_bytes, previous_bytes and last_bytes (None where it did not exist then),
    grown_bytes, daily_bytes (None where first and last are less than an hour apart), estimated (one of the sizes
    was). The previous snapshot is the newest that is an hour older than the last. Partitions are summed up under
    their root unless ``roll_up`` is false; temporary tables are left out. Fewer than two snapshots: no rows.
    """
    return _of_whole_files(lambda whole: _growth(whole, roll_up), taken)


def growers(taken: Sequence[Snapshot], most: int = 10) -> list[dict[str, Any]]:
    """Return the rows of ``growth`` for the tables that grew most; those that did not grow are left out."""
    return [row for row in growth(taken)[:most] if row["grown_bytes"] > 0]


def database_sizes(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return the size of the database at each snapshot, oldest first. Columns: taken_at, database_bytes."""
    rows = _of_whole_files(lambda whole: _ask(_DATABASE_SIZES, whole), taken)
    return [{"taken_at": _time(row.pop("taken_us")), **row} for row in rows]


def summary(taken: Sequence[Snapshot], left_aside: Sequence[str] = ()) -> str:
    """Return in a few lines what the history holds, and how the database grew; nothing is guessed."""
    if not taken:
        return "\n".join(["No snapshot so far.", *left_aside])
    known = database_sizes(taken)
    if len(known) < 2:
        return "\n".join(["1 snapshot so far: growth shows from the second on.", *left_aside])
    first, last = known[0], known[-1]
    span_s = (last["taken_at"] - first["taken_at"]).total_seconds()
    grown = last["database_bytes"] - first["database_bytes"]
    rate = f", {size(abs(grown) * 86400 / span_s)} a day" if grown and span_s >= MIN_AGE_S else ""
    return "\n".join(
        [
            f"{len(taken)} snapshots since {when(first['taken_at'].isoformat())} ({duration(span_s)}).",
            f"The database {'shrank' if grown < 0 else 'grew'} by {size(abs(grown))}{rate}.",
            *left_aside,
        ]
    )


def _growth(taken: Sequence[Snapshot], roll_up: bool) -> list[dict[str, Any]]:
    if len(taken) < 2:
        return []
    first, last = taken[0], taken[-1]
    span_s = (last.at - first.at).total_seconds()
    before = [it for it in taken if (last.at - it.at).total_seconds() >= MIN_AGE_S]
    moments = {"first": first, "previous": before[-1] if before else None, "last": last}
    files = {name: str(it.path) if it else None for name, it in moments.items()}
    rows = _ask(_GROWTH, [it for it in moments.values() if it], roll_up=roll_up, **files)
    days = span_s / 86400
    return [{**row, "daily_bytes": row["grown_bytes"] / days if span_s >= MIN_AGE_S else None} for row in rows]


def _of_whole_files(
    question: Callable[[Sequence[Snapshot]], list[dict[str, Any]]], taken: Sequence[Snapshot]
) -> list[dict[str, Any]]:
    """Ask; where a file proves damaged inside, name it in the log, leave it aside, and ask about the others."""
    import duckdb  # a tenth of a second that a look at one file need not wait for

    try:
        return question(taken)
    except duckdb.Error:
        whole = [snapshot for snapshot in taken if _is_whole(snapshot)]
        if len(whole) == len(taken):
            raise
        return question(whole)


def _ask(sql: str, taken: Sequence[Snapshot], **parameters: Any) -> list[dict[str, Any]]:
    import duckdb  # as above

    files = list(dict.fromkeys(str(snapshot.path) for snapshot in taken))
    if not files:
        return []
    # all that is needed is built in; an extension must never be looked for on the network
    quiet: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    with duckdb.connect(":memory:", config=quiet) as engine:
        answer = engine.execute(sql, {"files": files, **parameters})
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


def _is_whole(snapshot: Snapshot) -> bool:
    try:
        with snapshot.path.open("rb") as file:
            parquet.read_table(file)
    except _DAMAGE:
        _LOG.warning("%s: left aside: damaged", snapshot.path)
        return False
    return True
