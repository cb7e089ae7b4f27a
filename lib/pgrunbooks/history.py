"""History: what was measured over time, as immutable Parquet files, one a snapshot and one a month that is over.

A file appears whole, so no reader ever sees half of one and no writer waits for another. It lies in
``<history>/<system identifier>/<database>/``: what a snapshot belongs to is the server and the database, whatever
target they were reached by. DuckDB, in memory, answers questions over many snapshots.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias

import psycopg
import pyarrow

from pgrunbooks import months, snapshot_file
from pgrunbooks.check import Since, Skip
from pgrunbooks.display import duration, size, when
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.filing import Ids, history_folder, ids
from pgrunbooks.filing import place as filed
from pgrunbooks.months import STAMP, Snapshot
from pgrunbooks.session import Session, refused
from pgrunbooks.sizes import inventory_pages, pages, unblocked
from pgrunbooks.snapshot_file import (
    CHECKPOINTS,
    COLUMNS,
    DAMAGE,
    DATABASE_COUNTERS,
    ERRORS,
    SCHEMA,
    SERVER_KINDS,
    STATEMENT,
    TIMES,
)
from pgrunbooks.store import Location, each, put, shown
from pgrunbooks.targets import load_history
from pgrunbooks.verdict import utc_now
from pgrunbooks.workload import Statement, Workload, read_workload

MIN_AGE_S = 3600.0  # a rate over less than an hour says more about the hour than about the database
_LOG = logging.getLogger(__name__)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_Rows: TypeAlias = Sequence[dict[str, Any]]

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

# pg_tablespace_size needs CREATE or pg_read_all_stats, but for the database's own default one; a relation's file that
# goes away while it walks is left out.
_TABLESPACES = """
select
    pg_catalog.quote_ident(t.spcname) as name,
    t.oid::int8 as oid,
    case
        when pg_catalog.has_tablespace_privilege(t.oid, 'create')
            or pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage')
        then pg_catalog.pg_tablespace_size(t.oid)
    end as tablespace_bytes
from pg_catalog.pg_tablespace as t
order by t.oid
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


# ---- writing ---------------------------------------------------------------------------------------------------


def record_snapshot(
    session: Session, *, at: datetime.datetime | None = None, folder: Location | None = None
) -> Location:
    """Measure the session's database, write one file of the history and return where it is; then tidy the months up.

    ``at`` is the time that the snapshot is filed under, by default now. Raises ConfigurationError where the history
    cannot be written to, and RunbookError where the catalog cannot be read or the store cannot be reached.
    """
    at = (at or utc_now()).astimezone(datetime.UTC)
    whose = ids(session)
    folder = folder or history_folder()
    place = filed(folder, whose)

    def write(file: BinaryIO) -> None:
        with snapshot_file.writer_of(file, whose, at) as writer:
            for rows in filter(None, _measured(session, at, folder)):
                writer.write_table(pyarrow.Table.from_pylist([{"taken_at": at, **row} for row in rows], schema=SCHEMA))

    keep = load_history().keep
    try:
        path = put(place, at.strftime(STAMP), write)
    except psycopg.Error as error:
        refusal = refused(error, session.server)
        raise RunbookError(f"no snapshot: {refusal.reason if isinstance(refusal, Skip) else refusal}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{place}: no history can be written: {reason}; set PGRUNBOOKS_HISTORY") from None
    try:
        months.tidy(place, whose, at, keep)
    except (*DAMAGE, RunbookError, MemoryError) as error:  # the snapshot is safe; the next one tries again
        _LOG.warning("%s: the months were not tidied up: %s", shown(place), snapshot_file.reason(error))
    return path


def _measured(session: Session, at: datetime.datetime, folder: Location) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a snapshot, those of one kind together so that a reader can pass the others over."""
    here, *others = _databases(session)
    yield [{"kind": "cluster", **_cluster(session)}]
    yield [{"kind": "database", **here, **session.rows(_DATABASE_SIZE)[0]}]
    yield [{"kind": "other_database", **row} for row in others]
    yield [{"kind": "tablespace", **row} for row in session.rows(_TABLESPACES)]
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
    return {name: getattr(statement, name) for name in STATEMENT}


def _fitting(sql: Mapping[int, str], session: Session) -> str:
    return sql[max(lowest for lowest in sql if lowest <= max(session.server.major, 15))]


def _since_when(session: Session, at: datetime.datetime, folder: Location) -> Iterator[dict[str, Any]]:
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
        name: datetime.datetime.fromisoformat(value) if value and name in TIMES else value
        for name, value in row.items()
    }


# ---- reading ---------------------------------------------------------------------------------------------------


def snapshots(whose: Session | Ids, *, folder: Location | None = None) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots of a session's database (or of ``ids``), oldest first, and what was left aside and why.

    A file that is damaged, foreign or newer than this program is one line of the second list, never a failure. Raises
    RunbookError where the store cannot be reached.
    """
    whose = ids(whose) if isinstance(whose, Session) else whose
    return months.index(filed(folder or history_folder(), whose), whose)


def spread(session: Session, *, most: int, days: float, folder: Location | None = None) -> list[Snapshot]:
    """Return at most so many snapshots of the last ``days`` before the newest, evenly spread over them, oldest first.

    One that is damaged or foreign is left aside, and named in the log.
    """
    taken, left_aside = snapshots(session, folder=folder)
    for line in left_aside:
        _LOG.warning("%s", line)
    if not taken:
        return []
    end = taken[-1].at
    near = [it for it in taken if (end - it.at).total_seconds() <= days * 86400]
    if len(near) <= most:
        return near
    wide_s = (end - near[0].at).total_seconds() / most
    # the last of each bucket; the newest is the last of its own
    return list({int((end - it.at).total_seconds() / wide_s): it for it in near}.values())[-most:]


def read_rows(snapshot: Snapshot | Location, kind: str) -> list[dict[str, Any]]:
    """Return the rows of one kind in a snapshot (or its own file), such as 'relation', 'database' or 'sequence'.

    Relations come back as ``size_inventory`` returns them, but with times as datetimes. What an older file did not
    measure yet is None in its rows, or no row at all. Raises pyarrow's ArrowException or OSError where the file is
    damaged.
    """
    path, member = (snapshot.path, snapshot.member) if isinstance(snapshot, Snapshot) else (snapshot, None)
    columns = COLUMNS[kind]
    measured = snapshot_file.read(path, kind, list(columns), None if member is None else [member])
    rows = [{name: _read(name, row.get(name)) for name in columns} for row in measured]
    if kind == "relation":
        for row in rows:
            row["kind"] = row.pop("relation_kind")
    return rows


def _read(name: str, value: Any) -> Any:
    """Return a value with the time that was read as microseconds."""
    return _time(value) if name in TIMES and value is not None else value


def _time(microseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def since(session: Session, *, now: datetime.datetime | None = None, folder: Location | None = None) -> Since | None:
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
            checkpoints=cluster_then if _counted_on(cluster_then, cluster, CHECKPOINTS) else None,
            subscriptions={
                row["oid"]: subscriptions[row["oid"]]
                for row in _subscriptions(session)
                if _counted_on(subscriptions.get(row["oid"]), row, ERRORS)
            },
            slots=slots,
        )
    return None


def workload_since(
    session: Session, *, now: datetime.datetime | None = None, folder: Location | None = None
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
    newer = {**dict.fromkeys(DATABASE_COUNTERS, 0), "stats_reset": None} if others else None
    pairs = [(row, known.get(row["oid"], newer)) for row in now]
    return {row["database"]: old for row, old in pairs if old and _counted_on(old, row, DATABASE_COUNTERS)}


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
    session: Session, folder: Location, *, before: datetime.datetime
) -> Iterator[tuple[Snapshot, dict[str, _Rows]]]:
    """Yield the snapshots up to a time with what they say of the server, by kind; opens no more than is asked for.

    Those of a standby are none of its primary's, which has the same identifier, and the other way round.
    """
    whose = ids(session)
    for snapshot in months.newest_first(filed(folder, whose), whose, before=before):
        try:
            rows: dict[str, _Rows] = {kind: read_rows(snapshot, kind) for kind in SERVER_KINDS}
        except DAMAGE as problem:
            _LOG.warning("%s: left aside: %s", shown(snapshot.path), snapshot_file.reason(problem))
            continue
        if rows["cluster"][0]["in_recovery"] == session.server.in_recovery:
            yield snapshot, rows


# ---- asking many files at once -----------------------------------------------------------------------------------

_GROWTH = """
with tables as (
    select
        snapshot,
        case when $roll_up then coalesce(parent, relation) else relation end as relation,
        count(parent) as partitions,
        sum(total_bytes)::bigint as total_bytes,
        bool_or(estimated) as estimated
    from measured
    where kind = 'relation' and relation_kind <> 'temporary'
    group by all
)
select
    relation,
    coalesce(max(partitions) filter (snapshot = $last), max(partitions)) as partitions,
    max(total_bytes) filter (snapshot = $first) as first_bytes,
    max(total_bytes) filter (snapshot = $previous) as previous_bytes,
    max(total_bytes) filter (snapshot = $last) as last_bytes,
    coalesce(last_bytes, 0) - coalesce(first_bytes, 0) as grown_bytes,
    bool_or(estimated) as estimated
from tables
group by relation
order by grown_bytes desc, last_bytes desc nulls last, relation
"""

_TABLE_SIZES = """
select snapshot, sum(total_bytes)::bigint as total_bytes, bool_or(estimated) as estimated
from measured
where kind = 'relation' and coalesce(parent, relation) = $relation
group by snapshot
order by snapshot
"""


# Of a partitioned table what grew in the partitions that are there; those that were dropped are no growth.
_STEPS = """
with sized as (
    select snapshot, oid, coalesce(parent, relation) as root, total_bytes, estimated
    from measured
    where kind = 'relation' and relation_kind <> 'temporary'
        and (schema not in ('pg_catalog', 'information_schema') or name = 'pg_largeobject')
),
runs as (
    select snapshot, lag(snapshot) over (order by snapshot) as before from (select distinct snapshot from sized)
),
large as (
    select root from sized
    where snapshot = (select max(snapshot) from sized)
    group by root having sum(total_bytes) >= $least_bytes
)
select
    m.root as table,
    m.snapshot,
    r.before,
    sum(m.total_bytes)::bigint as total_bytes,
    sum(m.total_bytes - coalesce(b.total_bytes, 0))::bigint as grown_bytes,
    bool_or(m.estimated or coalesce(b.estimated, false)) as estimated
from sized as m
join large as l on l.root = m.root
join runs as r on r.snapshot = m.snapshot
left join sized as b on b.snapshot = r.before and b.oid = m.oid
where r.before is not null
group by m.root, m.snapshot, r.before
having count(b.oid) > 0
order by m.root, m.snapshot
"""
_STEPPED = ("relation", "relation_kind", "parent", "schema", "name", "oid", "total_bytes", "estimated")


def growth(taken: Sequence[Snapshot], *, roll_up: bool = True) -> list[dict[str, Any]]:
    """Return how much each table grew between the first, the previous and the last of some snapshots, most first.

    Columns: relation, partitions, first_bytes, previous_bytes and last_bytes (None where it did not exist then),
    grown_bytes, daily_bytes (None where first and last are less than an hour apart), estimated (one of the sizes
    was). The previous snapshot is the newest that is an hour older than the last. Partitions are summed up under
    their root unless ``roll_up`` is false; temporary tables are left out. Fewer than two snapshots: no rows.
    """
    if len(taken) < 2:
        return []
    first, last = taken[0], taken[-1]
    span_s = (last.at - first.at).total_seconds()
    before = [it for it in taken if (last.at - it.at).total_seconds() >= MIN_AGE_S]
    moments = {"first": first, "previous": before[-1] if before else None, "last": last}
    asked = list(dict.fromkeys(it for it in moments.values() if it))
    numbers = {name: asked.index(it) if it else None for name, it in moments.items()}
    columns = ("relation", "relation_kind", "parent", "total_bytes", "estimated")
    tables, damaged = _measured_in(asked, "relation", columns)
    if damaged:
        return growth([it for it in taken if it.path not in damaged], roll_up=roll_up)
    rows = _ask(_GROWTH, tables, roll_up=roll_up, **numbers)
    days = span_s / 86400
    return [{**row, "daily_bytes": row["grown_bytes"] / days if span_s >= MIN_AGE_S else None} for row in rows]


def growers(taken: Sequence[Snapshot], most: int = 10) -> list[dict[str, Any]]:
    """Return the rows of ``growth`` for the tables that grew most; those that did not grow are left out."""
    return [row for row in growth(taken)[:most] if row["grown_bytes"] > 0]


def database_sizes(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return the size of the database at each snapshot, oldest first. Columns: taken_at, database_bytes."""
    tables, _ = _measured_in(taken, "database", ("database_bytes",))
    known = [
        {"taken_at": taken[number].at, "database_bytes": value}
        for table in tables
        for number, value, kind in _values(table, "snapshot", "database_bytes", "kind")
        if kind == "database" and value is not None
    ]
    return sorted(known, key=lambda row: row["taken_at"])


def table_sizes(taken: Sequence[Snapshot], relation: str) -> list[dict[str, Any]]:
    """Return the size of a table with all its partitions at each snapshot that has it, oldest first.

    Columns: taken_at, total_bytes, estimated.
    """
    tables, _ = _measured_in(taken, "relation", ("relation", "parent", "total_bytes", "estimated"))
    rows = _ask(_TABLE_SIZES, tables, relation=relation)
    return [{"taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]


def tablespace_sizes(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return the size of each tablespace at each snapshot, oldest first. Columns: taken_at, name, tablespace_bytes.

    The bytes are None where the role of that run might not look. Snapshots of older versions hold none.
    """
    tables, _ = _measured_in(taken, "tablespace", ("name", "tablespace_bytes"))
    known = [
        {"taken_at": taken[number].at, "name": name, "tablespace_bytes": value}
        for table in tables
        if "tablespace_bytes" in table.column_names
        for number, name, value, kind in _values(table, "snapshot", "name", "tablespace_bytes", "kind")
        if kind == "tablespace"
    ]
    return sorted(known, key=lambda row: (row["taken_at"], row["name"]))


def table_steps(taken: Sequence[Snapshot], least_bytes: float) -> list[dict[str, Any]]:
    """Return how much each table of that size grew from one snapshot to the next, partitions under their root.

    Columns: table, before, taken_at, total_bytes, grown_bytes, estimated. A partition that was dropped in between
    counts for nothing, one that was made with all that it holds.
    """
    tables, _ = _measured_in(taken, "relation", _STEPPED)
    rows = _ask(_STEPS, tables, least_bytes=least_bytes)
    return [{"before": taken[row.pop("before")].at, "taken_at": taken[row.pop("snapshot")].at, **row} for row in rows]


def what_moved(before: Snapshot, after: Snapshot) -> str | None:
    """Return in words which table's size changed most between two snapshots, and what that looks like; None: none."""
    then = {row["oid"]: row for row in read_rows(before, "relation")}
    now = {row["oid"]: row for row in read_rows(after, "relation")}
    moves = [
        ((now[oid]["total_bytes"] if oid in now else 0) - (then[oid]["total_bytes"] if oid in then else 0), oid)
        for oid in then.keys() | now.keys()
    ]
    by, oid = max(moves, key=lambda it: (abs(it[0]), it[1]), default=(0, 0))
    if not by:
        return None
    old, new = then.get(oid), now.get(oid)
    row = new or old or {}
    name = f"{'partition ' if row['parent'] else ''}{row['relation']}"
    if not new:
        return f"{name} was dropped"
    if not old:
        return f"{name} was made and filled"
    if by > 0:
        return f"{name} was loaded"
    emptied = (new["rows"] or 0) < 0.9 * (old["rows"] or 0)
    return f"{name} was purged" if emptied else f"{name} was rewritten (VACUUM FULL, CLUSTER)"


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


def _ask(sql: str, tables: Sequence[pyarrow.Table], **parameters: Any) -> list[dict[str, Any]]:
    """Ask DuckDB about some tables, which are called ``measured`` together."""
    import duckdb  # a tenth of a second that a look at one file need not wait for

    if not tables:
        return []
    with duckdb.connect(":memory:", config=months.QUIET) as engine:
        engine.register("measured", pyarrow.concat_tables(tables, promote_options="default"))
        answer = engine.execute(sql, parameters)
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


def _measured_in(
    taken: Sequence[Snapshot], kind: str, columns: Sequence[str]
) -> tuple[list[pyarrow.Table], set[Location]]:
    """Return columns of a kind with ``snapshot``, the number in ``taken``, and the files that proved damaged.

    Each file is read once; the damaged ones are named in the log.
    """
    numbers: dict[Location, dict[int | None, int]] = {}
    for number, snapshot in enumerate(taken):
        numbers.setdefault(snapshot.path, {})[snapshot.member] = number
    damaged = set()

    def read(path: Location) -> list[pyarrow.Table]:
        try:
            return list(_numbered(path, numbers[path], kind, columns))
        except DAMAGE as problem:
            _LOG.warning("%s: left aside: %s", shown(path), snapshot_file.reason(problem))
            damaged.add(path)
            return []

    tables = [table for some in each(read, list(numbers)) for table in some]
    return tables, damaged


def _numbered(
    path: Location, numbers: Mapping[int | None, int], kind: str, columns: Sequence[str]
) -> Iterator[pyarrow.Table]:
    """Yield the rows of a kind in a file with the numbers of their snapshots."""
    members = sorted(member for member in numbers if member is not None)
    for table in snapshot_file.parts(path, kind, columns, members or None):
        if members:
            lookup = [numbers.get(member, 0) for member in range(members[-1] + 1)]
            snapshot = pyarrow.array(lookup, pyarrow.int32()).take(table["member"].combine_chunks())
            yield table.drop_columns("member").append_column("snapshot", snapshot)
        else:
            snapshot = pyarrow.repeat(pyarrow.scalar(numbers[None], pyarrow.int32()), table.num_rows)
            yield table.append_column("snapshot", snapshot)


def _values(table: pyarrow.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
