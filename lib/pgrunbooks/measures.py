"""What a snapshot measures: the server, its databases and slots, and the sizes and counters of one database."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psycopg import errors as pg

from pgrunbooks.check import Skip, variant
from pgrunbooks.checks.growth import integer_key_exhaustion
from pgrunbooks.session import Session
from pgrunbooks.sizes import LOCK_TIMEOUT_S, inventory_pages, pages, unblocked
from pgrunbooks.snapshot_file import STATEMENT, TIMES
from pgrunbooks.workload import Statement, read_workload

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
_CLUSTER = {15: _CLUSTER_15, 17: _CLUSTER_17}

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
_KEYS_S = 3.0
_BLOCKS_A_SEQUENCE = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


def by_kind(session: Session, inactive_slots: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a snapshot, those of one kind together so that a reader can pass the others over.

    ``inactive_slots`` are those of ``slots``, each with when it became so.
    """
    here, *others = databases(session)
    yield [{"kind": "cluster", **cluster(session)}]
    yield [{"kind": "database", **here, **session.rows(_DATABASE_SIZE)[0]}]
    yield [{"kind": "other_database", **row} for row in others]
    yield [{"kind": "tablespace", **row} for row in session.rows(_TABLESPACES)]
    yield [{"kind": "subscription", **row} for row in subscriptions(session)]
    yield [{"kind": "slot", **row} for row in inactive_slots]
    yield [{"kind": "statement", **_counted(it)} for it in _statements(session)]
    yield [{"kind": "key", **row} for row in _keys(session)]
    for page in pages(session, _SEQUENCES):
        readable = {row["oid"]: {row["oid"]} for row in page if row["readable"]}
        values = unblocked(session, readable, _LAST_VALUES, modes=_BLOCKS_A_SEQUENCE, most=_SEQUENCES_AT_ONCE)
        yield [{"kind": "sequence", **row, "last_value": values.get(row["oid"], {}).get("last_value")} for row in page]
    for page in inventory_pages(session):
        yield [{"kind": "relation", "relation_kind": row["kind"], **_without_kind(row)} for row in page]


def databases(session: Session) -> list[dict[str, Any]]:
    """Return what was counted in each database, the session's own first."""
    return [_with_times(row) for row in session.rows(_DATABASES)]


def cluster(session: Session) -> dict[str, Any]:
    """Return what the whole server counts, and since when."""
    return _with_times(session.rows(variant(_CLUSTER, session.server.major))[0])


def subscriptions(session: Session) -> list[dict[str, Any]]:
    """Return the errors of each subscription."""
    return [_with_times(row) for row in session.rows(_SUBSCRIPTIONS)]


def slots(session: Session) -> list[dict[str, Any]]:
    """Return the inactive slots; before 17 no server tells since when they are."""
    return [_with_times(row) for row in session.rows(variant(_SLOTS, session.server.major))]


def _statements(session: Session) -> Sequence[Statement]:
    """Return what pg_stat_statements counted in the session's database; nothing where it cannot be read."""
    read = read_workload(session)
    return () if isinstance(read, Skip) else read.statements


def _keys(session: Session) -> list[dict[str, Any]]:
    """Return the largest value of each integer key that integer-key-exhaustion reads; none where a lock is in the way.

    What has to be left out this time is there the next. A catalog of tens of thousands of keys takes too long for a
    snapshot and has none.
    """
    sql = variant(integer_key_exhaustion.SQL, session.server.major)
    try:
        rows = session.rows(sql, lock_timeout_s=LOCK_TIMEOUT_S, timeout_s=_KEYS_S)
    except (pg.LockNotAvailable, pg.QueryCanceled, pg.UndefinedTable):
        return []
    return [{"name": row["column"], "last_value": row["max_value"]} for row in rows if row["max_value"] is not None]


def _counted(statement: Statement) -> dict[str, Any]:
    return {name: getattr(statement, name) for name in STATEMENT}


def _without_kind(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _with_times(row).items() if name != "kind"}


def _with_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.datetime.fromisoformat(value) if value and name in TIMES else value
        for name, value in row.items()
    }
