"""Does the working set fit in memory?

Pages that are not in ``shared_buffers`` are asked of the operating system, which has them in its own cache or reads the
disk. While the pages in use fit, nearly every request is a hit; when they no longer do, response times depend on that.
Decided by hits among all requests for pages of a database (its tables, indexes and the catalog) since the last snapshot
of the history, else over the age of its counters, once there are ``min_requests``. A large report reads past the cache
on purpose and lowers the share too.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._counters import evidence, since_database, window
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import size

_REQUESTS = """
select
    d.datname::text as database,
    d.blks_hit as hits,
    d.blks_read as reads,
    nullif(d.blk_read_time, 0) / 1000 as reading_s,
    pg_catalog.pg_size_bytes(current_setting('shared_buffers')) as shared_buffers_bytes,
    current_setting('block_size')::int8 as block_bytes,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database as d
cross join pg_catalog.pg_stat_bgwriter as b
where d.datname is not null
order by d.blks_read desc, d.datname
"""
SQL = {15: _REQUESTS}

REMEDIES = (
    Remedy(
        "See which tables are read past the cache, in the database itself",
        sql="select relid::regclass as relation, heap_blks_read, heap_blks_hit, idx_blks_read, idx_blks_hit"
        " from pg_statio_user_tables order by heap_blks_read + coalesce(idx_blks_read, 0) desc, relid limit 10;",
        risk="none",
        locks="none",
    ),
    Remedy(
        "Read less first: an index where a large table is scanned for few rows, old rows moved away. Then raise"
        " shared_buffers (a quarter of the memory is the usual start), which takes a restart",
        risk="low",
    ),
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each database with enough requests, of which too few were hits."""
    for counted in rows:
        row = _since(counted, context)
        hits, reads = row["hits"] or 0, row["reads"] or 0
        if hits + reads >= max(limits["min_requests"], 1) and hits / (hits + reads) <= limits["warning"]:
            yield _finding(row, hits / (hits + reads))


def _since(row: Row, context: Context) -> Row:
    counted = since_database(row, context, hits="blks_hit", reads="blks_read")
    return {**counted, "reading_s": None} if counted else row  # no snapshot holds how long reading took


def _finding(row: Row, ratio: float) -> Finding:
    read = (row["reads"] or 0) * row["block_bytes"]
    return Finding(
        severity="warning",
        kind="database",
        name=row["database"],
        title=f"Database {row['database']} finds {ratio:.1%} of its pages in memory; {size(read)} came from beyond "
        f"{window(row)}",
        impact=f"What is in use does not fit into shared_buffers ({size(row['shared_buffers_bytes'])}): its queries "
        "are as fast as the operating system's cache and the disk.",
        evidence=evidence([{**row, "hit_share": ratio}], *row, "hit_share"),
        remedies=REMEDIES,
    )


check = Check(
    "cache-hit-low",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-SHARED-BUFFERS",),
    runbook="query_performance",
    uses_counters=True,
    since_snapshot=True,
)
