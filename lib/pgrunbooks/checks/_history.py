"""History: which snapshots the checks that look back at many of them read, and what to say where there are too few.

Nothing is imported or read where there is no history. Where there is one no more than some files are opened, however
many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgrunbooks import filing
from pgrunbooks.check import Skip
from pgrunbooks.checks._sessions import Row
from pgrunbooks.session import Session

if TYPE_CHECKING:
    from pgrunbooks.months import Snapshot

DAY_S = 86400.0
NOW = """
select extract(epoch from now())::float8 as now_s
"""


def taken(session: Session, *, most: int, days: float) -> list[Snapshot]:
    """Return at most so many snapshots of the session's database, evenly spread over the last ``days``."""
    if not filing.has_history(session):
        return []
    from pgrunbooks import history  # Parquet is for those who keep a history

    return history.spread(session, most=most, days=days)


def lacks(session: Session, why: str) -> dict[str, Any]:
    """Return the row that says why the history is not enough, and how it gets there."""
    return {"why": why, "remedy": f"pgrunbooks snapshot --target {session.target.name} (daily, from cron)"}


def skip(row: Row) -> Skip | None:
    """Return what ``lacks`` said in a row as the answer of a check; None where it said nothing."""
    return Skip(row["why"], row["remedy"]) if "why" in row else None
