"""How far is transaction id wraparound?

Transaction ids have 32 bits. Rows older than about two thousand million transactions would seem to lie in the future,
so vacuum freezes them in time; where it cannot, the server refuses all writes a little before the end and stays that
way until it has. Decided by the oldest id of each database, ``age(datfrozenxid)``, as a share of 2^31. Autovacuum
begins to freeze by force at autovacuum_freeze_max_age, 9 % by default: a database at 40 % has been waiting for long.
The oldest tables are those of the database that is asked.
"""

from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Rows
from pgrunbooks.checks._vacuum import held_back
from pgrunbooks.checks._wraparound import XIDS, findings

SQL = {15: XIDS.sql}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each database by the share of its transaction ids that is in use."""
    return findings(rows, limits, XIDS)


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return the holder of the horizon, where freezing without it would leave at least half of the age."""
    ids = finding.evidence[0]["ids"]
    return [it for it in held_back(finding, others) if it.evidence and 2 * it.evidence[0]["transactions"] >= ids]


check = Check(
    "xid-wraparound",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND",),
    runbook="vacuum_health",
)
