"""Progress: what long operations run now, how far each is, and when its phase ends at the pace of this moment."""

from __future__ import annotations

import time
from typing import Any

from pgrunbooks.session import Session

OVER_S = 1.0

# The views share their meaning, not their columns: done and total are in blocks, tuples, bytes or lock holders,
# whichever the phase counts. https://www.postgresql.org/docs/18/progress-reporting.html
_OPERATIONS = """
with progress as (
    select
        p.pid, 'vacuum' as operation, p.datname, p.relid, p.phase,
        case p.phase when 'scanning heap' then p.heap_blks_scanned when 'vacuuming heap' then p.heap_blks_vacuumed end
            as done,
        case when p.phase in ('scanning heap', 'vacuuming heap') then p.heap_blks_total end as total,
        'blocks' as unit
    from pg_catalog.pg_stat_progress_vacuum as p
    union all
    select
        p.pid, 'analyze', p.datname, p.relid, p.phase,
        case p.phase when 'acquiring sample rows' then p.sample_blks_scanned end,
        case p.phase when 'acquiring sample rows' then p.sample_blks_total end,
        'blocks'
    from pg_catalog.pg_stat_progress_analyze as p
    union all
    select
        p.pid, pg_catalog.lower(p.command), p.datname, p.relid, p.phase,
        case
            when p.phase like 'waiting for%' then p.lockers_done
            when p.blocks_total > 0 then p.blocks_done else p.tuples_done
        end,
        case
            when p.phase like 'waiting for%' then p.lockers_total
            when p.blocks_total > 0 then p.blocks_total else p.tuples_total
        end,
        case when p.phase like 'waiting for%' then 'transactions' when p.blocks_total > 0 then 'blocks' else 'rows' end
    from pg_catalog.pg_stat_progress_create_index as p
    union all
    select
        p.pid, pg_catalog.lower(p.command), p.datname, p.relid, p.phase, p.heap_blks_scanned, p.heap_blks_total,
        'blocks'
    from pg_catalog.pg_stat_progress_cluster as p
    union all
    select
        p.pid, pg_catalog.lower(p.command), p.datname, p.relid, pg_catalog.lower(p.type), p.bytes_processed,
        p.bytes_total, 'bytes'
    from pg_catalog.pg_stat_progress_copy as p
    union all
    select p.pid, 'base backup', null, null, p.phase, p.backup_streamed, p.backup_total, 'bytes'
    from pg_catalog.pg_stat_progress_basebackup as p
)
select
    p.pid,
    p.operation,
    p.datname::text as database,
    case
        when c.oid is not null then pg_catalog.format('%I.%I', n.nspname, c.relname)
        when p.relid <> 0 then p.relid::text
    end as relation,
    p.phase,
    extract(epoch from clock_timestamp() - coalesce(a.query_start, a.xact_start, a.backend_start))::float8 as running_s,
    p.done,
    nullif(p.total, 0) as total,
    p.unit,
    case when a.wait_event is not null then a.wait_event_type || ':' || a.wait_event end as waits_for,
    pg_catalog.pg_blocking_pids(p.pid) as blocked_by
from progress as p
left join pg_catalog.pg_stat_activity as a on a.pid = p.pid
left join pg_catalog.pg_class as c on c.oid = p.relid and p.datname = pg_catalog.current_database()
left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
order by running_s desc nulls last, p.pid
"""


def operations(session: Session, *, over_s: float = OVER_S) -> list[dict[str, Any]]:
    """Return the running vacuums, analyzes, index builds, rewrites, copies and base backups, the oldest first.

    Columns: pid, operation, database, relation, phase, running_s, done_share (of this phase), phase_ends_in_s,
    waits_for, blocked_by (pids). The server counts within a phase only, so the estimate is of this phase: what is left
    of it at the pace between two looks ``over_s`` apart. It is None where nothing moved, or the phase counts nothing.
    Raises psycopg's error where the server refuses, and ConnectionLostError where it went away.
    """
    before = {_identity(row): row for row in session.rows(_OPERATIONS)}
    if not before:
        return []
    start = time.monotonic()
    time.sleep(over_s)
    after = session.rows(_OPERATIONS)
    passed_s = time.monotonic() - start
    return [_measured(row, before.get(_identity(row)), passed_s) for row in after]


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["pid"], row["operation"], row["relation"], row["phase"], row["total"]


def _measured(row: dict[str, Any], before: dict[str, Any] | None, passed_s: float) -> dict[str, Any]:
    done, total = row.pop("done"), row.pop("total")
    moved = done - before["done"] if before and done is not None and before["done"] is not None else 0
    share = done / total if total and done is not None else None
    ends_in_s = (total - done) / (moved / passed_s) if total and moved > 0 else None
    blocked_by = row.pop("blocked_by")
    tail = {"waits_for": row.pop("waits_for"), "blocked_by": blocked_by or None}
    del row["unit"]
    return {**row, "done_share": share, "phase_ends_in_s": ends_in_s, **tail}
