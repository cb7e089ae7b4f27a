"""The outlook: what runs out and when, from what the checks of growth measured now and the history knew before."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pgrunbooks import growth
from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row
from pgrunbooks.checks.growth import disk_full_forecast
from pgrunbooks.checks.growth.sequence_exhaustion import LARGEST, use
from pgrunbooks.display import duration, size
from pgrunbooks.forecast import Days, Forecast, forecast
from pgrunbooks.growth import read_known
from pgrunbooks.months import Snapshot
from pgrunbooks.verdict import Verdict

YEARS = 10
_USED = 0.01
_DAY_S = 86400.0
_HORIZON_DAYS = 365.0 * YEARS


def headline(
    verdict: Verdict, taken: Sequence[Snapshot], pair: Sequence[Snapshot], left_aside: Sequence[str] = ()
) -> str:
    """Return in a few lines how large the database is and grows, when the disk is full, and what came since.

    ``verdict`` is that of the growth report, ``taken`` and ``left_aside`` those of ``history.snapshots``, ``pair`` that
    of ``growth.compared``.
    """
    known = growth.database_sizes(taken)
    name = verdict.server.database if verdict.server else verdict.target.name
    if not known:
        lines = [f"{name}: its size is not known to this role."]
    else:
        foretold = forecast([(row["taken_at"], row["database_bytes"]) for row in known])
        lines = [f"{name} holds {size(known[-1]['database_bytes'])} and {rate_in_words(foretold)}."]
    lines.append(_disk(verdict.rows.get(disk_full_forecast.check.code)))
    sizes = growth.database_sizes(pair)
    if len(sizes) == 2:
        by = sizes[1]["database_bytes"] - sizes[0]["database_bytes"]
        span = duration((pair[1].at - pair[0].at).total_seconds())
        lines.append(f"Since {pair[0].at:%Y-%m-%d %H:%M} UTC ({span}): {signed(by)}.")
    else:
        lines.append(
            "There is no snapshot that is an hour older to compare with: growth shows from the next report on."
        )
    if taken:
        count = f"{len(taken)} snapshot{'s' if len(taken) > 1 else ''}"
        lines.append(f"The history holds {count}, the first of {taken[0].at:%Y-%m-%d %H:%M} UTC.")
    return "\n".join([*lines, *left_aside])


def rate_in_words(foretold: Forecast) -> str:
    """Return how something grows, with the 80 % interval of its rate: 'grows by 1 GB a day (900 MB to 1.1 GB)'."""
    if foretold.daily_bytes is None:
        return f"its growth is not known yet ({foretold.model})"
    low, rate, high = foretold.daily_bytes
    if foretold.is_plateau or low == rate == high == 0:
        return "does not grow any more" if foretold.is_plateau else "does not grow"
    verb = "grows by" if rate >= 0 else "shrinks by"
    few = "" if foretold.basis == "model" else f", from {foretold.points} points only"
    return f"{verb} {size(abs(rate))} a day ({signed(low)} to {signed(high)}{few})"


def signed(by: float) -> str:
    """Return a difference of sizes with its sign."""
    return f"{'-' if by < 0 else '+'}{size(abs(by))}"


def _disk(rows: Rows | None) -> str:
    if rows is None:
        return "When the disk is full could not be asked; the verdict says why."
    if not rows:
        return "When the disk is full is not known: the target does not name its disk_bytes."
    return " ".join(_volume(row) for row in rows)


def _volume(row: Row) -> str:
    name = f"The volume of tablespace {row['tablespace']}" if row.get("tablespace") else "The disk"
    if "why" in row:
        return f"When the disk is full is not known: {row['why']}."
    foretold = forecast(row["points"])
    days = foretold.days_until(row["disk_bytes"] - row["wal_bytes"])
    used = foretold.last[1] + row["wal_bytes"] if foretold.last else 0
    held = f"{size(used)} of {size(row['disk_bytes'])} are taken"
    if days is None or days.lower is None:
        return f"{name} is not full within a year: {held}."
    age = (row["now_s"] - row["points"][-1][0].timestamp()) / _DAY_S
    if days.upper is not None and days.upper - age <= 0:
        return f"{name} is full: {held}."
    today = datetime.datetime.fromtimestamp(row["now_s"], datetime.UTC)
    left = [None if it is None else max(it - age, 0.0) for it in (days.lower, days.median, days.upper)]
    middle = "" if left[1] is None else f", most likely {today + datetime.timedelta(days=left[1]):%Y-%m-%d}"
    latest = "more than 365" if left[2] is None else _number(left[2])
    return f"{name} is full in {_number(left[0] or 0.0)} to {latest} days{middle}: {held}."


def _number(days: float) -> str:
    return f"{days:.0f}" if days >= 10 else f"{days:.1f}"


# ---- numbers that run out ----------------------------------------------------------------------------------------


def exhaustion(verdict: Verdict, taken: Sequence[Snapshot], most: int = 10) -> list[dict[str, Any]]:
    """Return when the numbers of sequences and integer keys are used up, the first to end first.

    Columns: object, column (that ends it), used_share, left (numbers), daily (numbers a day), earliest, middle and
    latest (dates, the 80 % interval; None beyond ten years), runs_out (the interval in words), because (how that is
    known). Where the history holds too few values there is no date, and ``because`` says so. What has used less
    than a percent of its numbers, and has no date within ten years, is left out.
    """
    ends = [
        *_sequences(verdict.rows.get("sequence-exhaustion", ())),
        *_keys(verdict.rows.get("integer-key-exhaustion", ())),
    ]
    wanted = {(kind, row["object"]) for kind, row in ends}
    past = _values_over_time(taken, wanted)
    rows = [_when(row, past.get((kind, row["object"]), [])) for kind, row in ends]
    rows = [row for row in rows if row["earliest"] or row["used_share"] >= _USED]
    return sorted(rows, key=lambda row: (row["earliest"] or "9999", -row["used_share"], row["object"]))[:most]


def _sequences(rows: Rows) -> Iterable[tuple[str, dict[str, Any]]]:
    for row in rows:
        if row["last_value"] is not None:
            used, column = use(row), f"{row['table']} ({row['column']})" if row["column"] else None
            yield "sequence", {
                "object": row["sequence"], "column": column, "used_share": used.used_share, "left": used.left,
                "_step": row["increment"],
            }  # fmt: skip


def _keys(rows: Rows) -> Iterable[tuple[str, dict[str, Any]]]:
    for row in rows:
        if row["max_value"] is not None:
            largest = LARGEST[row["column_type"]]
            yield "key", {
                "object": row["column"], "column": None, "used_share": max(row["max_value"], 0) / largest,
                "left": largest - row["max_value"], "_step": 1,
            }  # fmt: skip


def _values_over_time(
    taken: Sequence[Snapshot], wanted: set[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[datetime.datetime, int]]]:
    """Return the values that each sequence and key had at the snapshots, oldest first."""
    points: dict[tuple[str, str], list[tuple[datetime.datetime, int]]] = defaultdict(list)
    for kind, column in (("sequence", "relation"), ("key", "name")):
        if any(it[0] == kind for it in wanted):
            for at, name, value in read_known(taken, kind, column, "last_value"):
                if value is not None and (kind, name) in wanted:
                    points[kind, name].append((at, value))
    return {of: sorted(some) for of, some in points.items()}


def _when(row: dict[str, Any], points: Sequence[tuple[datetime.datetime, int]]) -> dict[str, Any]:
    step = row.pop("_step")
    counted = [(at, (value - points[0][1]) // step) for at, value in points]  # numbers given out, up or down
    foretold = forecast(counted)
    row |= {"daily": None, "earliest": None, "middle": None, "latest": None}
    row |= {"runs_out": "not known", "because": foretold.model}
    if foretold.daily_bytes is None or foretold.last is None:
        return row
    days = foretold.days_until(foretold.last[1] + row["left"], _HORIZON_DAYS)
    row["daily"] = max(foretold.daily_bytes[1], 0.0)
    return row | _dates(foretold.last[0], days or Days(None, None, None))


def _dates(last: datetime.datetime, days: Days) -> dict[str, str | None]:
    def date(left: float | None) -> str | None:
        return None if left is None else f"{last + datetime.timedelta(days=left):%Y-%m-%d}"

    earliest, latest = date(days.lower), date(days.upper)
    words = f"{earliest} to {latest}" if latest else f"{earliest} at the earliest"
    if earliest is None:
        words = f"not within {YEARS} years"
    elif earliest == latest:
        words = earliest
    return {"earliest": earliest, "middle": date(days.median), "latest": latest, "runs_out": words}


# ---- partitions --------------------------------------------------------------------------------------------------


def partitions_ahead(verdict: Verdict) -> list[dict[str, Any]]:
    """Return how far the partitions of each table reach that is partitioned by time, the shortest first.

    Columns: table, partitions, ahead (those that begin in the future), until (the end of the newest, a text), left_s
    (from now, negative where that is over; None where there is no end), default_partition.
    """
    rows = [
        {
            "table": row["table"],
            "partitions": row["partitions"],
            "ahead": row["partitions_ahead"],
            "until": "without end" if row["is_unbounded"] else (row["upper_text"] or "").strip("'") or None,
            "left_s": None if row["upper_s"] is None else row["upper_s"] - row["now_s"],
            "default_partition": row["default_partition"],
        }
        for row in verdict.rows.get("partition-missing-ahead", ())
    ]
    return sorted(rows, key=lambda row: (row["left_s"] is None, row["left_s"], row["table"]))
