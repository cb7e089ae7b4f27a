"""How far is multixact wraparound?

A row that several transactions lock together (foreign keys do that on every busy parent) carries a multixact id, of
which there are 2^32 too, with the same end as transaction ids: vacuum replaces the old ones in time, or the server
refuses to make new ones and such locks fail. Decided by the oldest of each database, ``mxid_age(datminmxid)``, as a
share of 2^31. Autovacuum begins by force at autovacuum_multixact_freeze_max_age, 19 % by default. The oldest tables
are those of the database that is asked.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Rows
from pgrunbooks.checks._wraparound import MULTIXACTS, findings

SQL = {15: MULTIXACTS.sql}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each database by the share of its multixact ids that is in use."""
    return findings(rows, limits, MULTIXACTS)


check = Check(
    "multixact-wraparound",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-MULTIXACT-WRAPAROUND",),
    runbook="vacuum_health",
)
