"""Is WAL archiving failing?

The archiver copies each finished WAL segment to where backups need it, and tries a segment that fails again for ever.
Until that works the server keeps every segment from there on: pg_wal grows until the disk is full, and no backup can be
restored to a later moment than the last segment that arrived. Decided by whether the last attempt failed, and by how
many segments are ready and still wait: an archiver without a command, or one that is too slow, fails at nothing.
With ``archive_mode = on`` a standby archives nothing, so it is judged only where that is ``always``.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import evidence
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import duration, size

# The command itself is left out: it may hold the key of a bucket.
_ARCHIVER = """
select
    current_setting('archive_mode') as archive_mode,
    pg_catalog.pg_is_in_recovery() as in_recovery,
    a.last_failed_time > coalesce(a.last_archived_time, '-infinity') as last_attempt_failed,
    a.failed_count,
    a.last_failed_wal,
    a.last_failed_time,
    a.archived_count,
    a.last_archived_wal,
    a.last_archived_time,
    extract(epoch from clock_timestamp() - a.last_archived_time)::float8 as last_archived_s,
    f.ready_files,
    f.ready_files * pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) as ready_bytes
from pg_catalog.pg_stat_archiver as a
cross join (
    select count(*) as ready_files
    from pg_catalog.pg_ls_archive_statusdir() as s
    where s.name like '%.ready'
) as f
order by f.ready_files
"""
SQL = {15: _ARCHIVER}

REMEDIES = (
    Remedy(
        "Read why: the server log has what the command said, in this file",
        sql="select pg_current_logfile();",
        risk="none",
        locks="none",
    ),
    Remedy(
        "See the command, try it by hand as the server's user, and repair what it needs: room, network, credentials."
        " The archiver goes on by itself within a minute",
        sql="select name, setting from pg_settings where name in ('archive_command', 'archive_library') order by name;",
        risk="none",
        locks="none",
    ),
    Remedy("Never delete files from pg_wal: what was not archived is needed by the next restore, and by a crash"),
)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report a last attempt that failed as critical, and too many segments that wait as a warning."""
    for row in rows:
        if row["archive_mode"] == "off" or (row["in_recovery"] and row["archive_mode"] != "always"):
            continue
        severity = "critical" if row["last_attempt_failed"] else grade(row["ready_files"], limits)
        if severity:
            yield _finding(row, severity)


def _finding(row: Row, severity: str) -> Finding:
    waiting, age_s = row["ready_files"] or 0, row["last_archived_s"]
    since = "no segment was ever archived" if age_s is None else f"the last one arrived {duration(age_s)} ago"
    if row["last_attempt_failed"]:
        title = f"WAL archiving fails at segment {row['last_failed_wal']}; {since}"
    else:
        title = f"{count(waiting, 'WAL segment')} wait to be archived; {since}"
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind="cluster",
        name="cluster",
        title=title,
        impact=f"{count(waiting, 'segment')} ({size(row['ready_bytes'] or 0)}) stay in pg_wal, more with every write, "
        "until the disk is full. A backup can be restored up to the last archived segment and no further.",
        evidence=evidence(
            [row],
            "archive_mode",
            "failed_count",
            "last_failed_wal",
            "last_failed_time",
            "last_archived_wal",
            "last_archived_time",
            "archived_count",
            "ready_files",
            "ready_bytes",
        ),
        remedies=REMEDIES,
    )


check = Check(
    "wal-archiving-failing",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-ARCHIVING-WAL",),
    runbook="replication_health",
)
