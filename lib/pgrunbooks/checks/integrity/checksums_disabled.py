"""Are data checksums on?

With checksums the server notices when the storage returns something else than was written, before the damage spreads
into standbys and backups. Without them nobody notices until a query returns nonsense or crashes. They cost a few per
cent at most, and are on by default since PostgreSQL 18 in clusters that were made new; one that was upgraded keeps what
it had. Decided by the setting ``data_checksums``.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows

_SETTING = """
select current_setting('data_checksums') as data_checksums
order by data_checksums
"""
SQL = {15: _SETTING}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report a cluster whose pages carry no checksums."""
    for row in rows:
        if row["data_checksums"] == "off":
            yield Finding(
                severity="info",
                kind="cluster",
                name="cluster",
                title="Data checksums are off",
                impact="Damage done by disk, memory or file system goes unnoticed, into standbys and backups too.",
                evidence=[row],
                remedies=(
                    Remedy(
                        "In the next maintenance window, with the server stopped: pg_checksums --enable -D <data"
                        " directory>; it rewrites every page (a standby can go first, then switch over to it)",
                        risk="high",
                        undo="pg_checksums --disable -D <data directory>, with the server stopped",
                    ),
                ),
            )


check = Check(
    "checksums-disabled",
    sql=SQL,
    judge=judge,
    docs=(
        "https://www.postgresql.org/docs/current/checksums.html",
        "https://www.postgresql.org/docs/current/app-pgchecksums.html",
    ),
    runbook="maintenance",
)
