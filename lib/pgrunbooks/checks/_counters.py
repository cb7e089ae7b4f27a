"""Counters: what was counted, a day.

The server counts since the last reset, so a count means something only over the time that it covers. The rows of a
check carry that time as ``counters_age_s``. With a snapshot of the history the same columns hold the difference since
then and its age, and what judges them need not know which it is.
"""

from collections.abc import Mapping
from typing import Any

from pgrunbooks.check import Context, Rows
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration

DAY_S = 86400.0


def since(row: Row, context: Context, then: Mapping[str, Any] | None, **columns: str) -> Row | None:
    """Return a row with what was counted since the last snapshot, whose row is ``then``; None without one.

    Each of ``columns`` names the snapshot's counter that belongs to it. A snapshot that lacks one of them, as older
    ones do, is none.
    """
    if context.since is None or then is None or any(then[name] is None for name in columns.values()):
        return None
    counted = {column: (row[column] or 0) - then[name] for column, name in columns.items()}
    return {**row, **counted, "counters_age_s": context.since.age_s}


def since_database(row: Row, context: Context, **columns: str) -> Row | None:
    """Return a row of a database with what was counted there since the last snapshot; None without one."""
    return since(row, context, context.since.databases.get(row["database"]) if context.since else None, **columns)


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
