"""Counters: what was counted, a day.

The server counts since the last reset, so a count means something only over the time that it covers. The rows of a
check carry that time as ``counters_age_s``. With a snapshot of the history the same columns hold the difference since
then and its age, and nothing that judges has to change.
"""

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration

DAY_S = 86400.0


def a_day(count: float | None, row: Row) -> float:
    """Return a count a day, over the time that the counters of a row cover, which is taken as one day at least."""
    return (count or 0) / (max(row["counters_age_s"] or 0.0, DAY_S) / DAY_S)


def window(row: Row) -> str:
    """Return the time that the counters of a row cover, as a title says it: ``in 3 d``."""
    age_s = row["counters_age_s"]
    return f"in {duration(age_s)}" if age_s else "since its counters were reset"


def evidence(rows: Rows, *columns: str) -> list[Row]:
    """Return the named columns of each row, without the empty ones."""
    return [{key: row[key] for key in columns if row.get(key) not in (None, "")} for row in rows]
