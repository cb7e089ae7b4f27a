"""Has a page failed its checksum?

The server writes a checksum with every page and verifies it when it reads the page back. A failure means that disk,
controller, memory or file system changed what was stored: a query that needs the page ends with an error, and others
may follow. Decided by the failures that the server has counted for a database, or for the objects that all databases
share, since its counters were reset; base backups count what they find as well. One is enough.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import duration

SHARED = "cluster"  # what belongs to no database has no name of its own

_FAILURES = """
select
    d.datname::text as database,
    d.datname = pg_catalog.current_database() as is_current,
    d.checksum_failures,
    d.checksum_last_failure as last_failure,
    extract(epoch from clock_timestamp() - d.checksum_last_failure)::float8 as last_failure_s,
    d.stats_reset as counted_since
from pg_catalog.pg_stat_database as d
order by d.checksum_failures desc nulls last, d.datname
"""
SQL = {15: _FAILURES}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report every database in which a page has failed."""
    for row in rows:
        failures = row["checksum_failures"] or 0
        if failures > 0:
            where = f"Database {row['database']}" if row["database"] else "What all databases share"
            ago = "" if row["last_failure_s"] is None else f", the last one {duration(row['last_failure_s'])} ago"
            yield Finding(
                severity="critical",
                kind="database",
                name=row["database"] or SHARED,
                title=f"{where} has had {count(failures, 'checksum failure')}{ago}",
                impact="Stored data was changed behind the server's back. Queries that need such a page fail, standbys"
                " and older backups may still have it whole, and the hardware may be about to damage more.",
                evidence=[row],
                remedies=tuple(_remedies(row)),
            )


def _remedies(row: Row) -> Iterable[Remedy]:
    yield Remedy(
        "Find the pages: the server log names file and block under 'page verification failed', in this file",
        sql="select pg_current_logfile();",
        risk="none",
        locks="none",
    )
    yield Remedy(
        "Keep every base backup from before the failure, check disks, memory and the kernel's log, and fail over to a"
        " standby that verifies (pg_checksums --check on it, stopped) or restore; never set ignore_checksum_failure for"
        " more than the rescue of single rows",
        risk="none",
    )
    if row["database"]:
        yield Remedy(
            f"Only once it is repaired, in database {row['database']}: empty all its counters, autovacuum's too",
            sql="select pg_stat_reset();",
            risk="low",
            locks="none",
            undo="none: the counters begin again",
        )


check = Check(
    "checksum-failure",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/checksums.html",),
    runbook="maintenance",
    uses_counters=True,
)
