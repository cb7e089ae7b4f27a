"""Does a table grow unlike its own past?

A job that fails to clean up, an import that runs twice, a column that somebody began to fill: it shows first in how
fast a table grows. So does an import that no longer runs. Decided by the growth between the last two snapshots of the
history, a day, against the interval that holds the next one with a probability of 99 % where it behaves as it did:
Student's interval around the median of the past rates by their median deviation, stretched to what was seen before and
to one percent of the table at least. Tables below ``min_bytes`` are left out.

Partitions count under their root, and a partition that was dropped is not a table that shrank. The past needs ten
rates; more than the last 40 snapshots, spread over 60 days, are not read. Without a history nothing is said.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._history import DAY_S, NOW, lacks, skip, taken
from pgrunbooks.checks._sessions import Row, literal
from pgrunbooks.display import duration, size
from pgrunbooks.session import Session

SQL = {15: NOW}
_MOST, _DAYS = 40, 60.0
_RATES = 10
_STALE_DAYS = 7.0
_SHARE = 0.01  # of the table: what a few pages more or less may come to
# Student's t for 99 %, by degrees of freedom up to; scipy would take longer to import than all the rest
_T = ((9, 3.25), (12, 3.05), (15, 2.95), (20, 2.85), (30, 2.75), (10**9, 2.7))


def deepen(session: Session, rows: Rows, limits: Limits, seconds: float) -> Rows:
    """Return a row for each large table: its latest rate, those before, and when it was measured."""
    snapshots = taken(session, most=_MOST, days=_DAYS)
    if len(snapshots) < _RATES + 2:
        held = (
            "there is no history of this database" if not snapshots else f"the history holds {len(snapshots)} snapshots"
        )
        return [lacks(session, f"{held}; {_RATES + 2} are needed to know how a table grows")]
    age_days = (rows[0]["now_s"] - snapshots[-1].at.timestamp()) / DAY_S
    if age_days > _STALE_DAYS:
        return [lacks(session, f"the newest snapshot is {age_days:.0f} days old")]
    from pgrunbooks import growth

    least_bytes = session.target.limits("growth-anomaly")["min_bytes"]
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for step in growth.table_steps(snapshots, least_bytes):
        steps[step["table"]].append(step)
    return [row for table, own in steps.items() if (row := _row(table, own, snapshots[-1].at))]


def _row(table: str, steps: Sequence[Mapping[str, Any]], newest: datetime.datetime) -> dict[str, Any] | None:
    """Return what is to be judged of a table; None where it was not measured often enough, or not well enough."""
    last, *_ = reversed(steps)
    known = [it for it in steps[:-1] if not it["estimated"]]
    if last["taken_at"] != newest or last["estimated"] or len(known) < _RATES:
        return None
    return {
        "table": table,
        "total_bytes": last["total_bytes"],
        "grown_bytes": last["grown_bytes"],
        "grown_s": (last["taken_at"] - last["before"]).total_seconds(),
        "until": last["taken_at"].isoformat(),
        "past_daily_bytes": [
            _daily(it["grown_bytes"], (it["taken_at"] - it["before"]).total_seconds()) for it in known
        ],
    }


def _daily(grown_bytes: float, seconds: float) -> float:
    return grown_bytes / max(seconds, 1.0) * DAY_S


def interval(past: Sequence[float], total_bytes: float, seconds: float) -> tuple[float, float]:
    """Return between which rates, in bytes a day, the next one of a table is to be expected with 99 %."""
    middle = median(past)
    deviation = 1.4826 * median(abs(rate - middle) for rate in past)
    t = next(value for freedom, value in _T if len(past) - 1 <= freedom)
    half = max(t * deviation * (1 + 1 / len(past)) ** 0.5, _daily(_SHARE * total_bytes, seconds))
    return min(middle - half, *past), max(middle + half, *past)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report each table whose latest rate lies outside of the interval."""
    for row in rows:
        if told := skip(row):
            yield told
        elif row["total_bytes"] >= limits["min_bytes"]:
            low, high = interval(row["past_daily_bytes"], row["total_bytes"], row["grown_s"])
            rate = _daily(row["grown_bytes"], row["grown_s"])
            if not low <= rate <= high:
                yield _finding(row, rate, low, high)


def _finding(row: Row, rate: float, low: float, high: float) -> Finding:
    table, span, usual = row["table"], duration(row["grown_s"]), median(row["past_daily_bytes"])
    verb = "shrank" if row["grown_bytes"] < 0 else "grew"
    title = f"{table} {verb} by {size(abs(row['grown_bytes']))} in {span}; usual are {size(usual)} a day"
    more = "It takes room that nobody planned for; something writes more than it did, or no longer cleans up."
    less = "Something that used to write has stopped or writes less, or rows were removed: was that meant?"
    return Finding(
        severity="warning",
        kind="table",
        name=table,
        title=title,
        impact=more if rate > high else less,
        evidence=[
            {
                "table": table,
                "total_bytes": row["total_bytes"],
                "grown_bytes": row["grown_bytes"],
                "over_s": row["grown_s"],
                "daily_bytes": rate,
                "usual_daily_bytes": usual,
                "expected_low_bytes": low,
                "expected_high_bytes": high,
                "past_rates": len(row["past_daily_bytes"]),
                "until": row["until"],
            }
        ],
        remedies=(
            Remedy(
                "See what is written: inserts, updates and deletes since the counters began, and when it was vacuumed",
                sql="select relid::regclass as table, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup, last_autovacuum\n"
                "from pg_stat_user_tables\n"
                f"where relid = {literal(table)}::regclass\n"
                f"    or relid in (select relid from pg_partition_tree({literal(table)}))\norder by relid;",
                risk="none",
                locks="none",
            ),
            Remedy("Ask who deployed, imported or cleaned up since the snapshot before", risk="none"),
        ),
    )


check = Check(
    "growth-anomaly",
    sql=SQL,
    judge=judge,
    deepen=deepen,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ALL-TABLES-VIEW",),
    runbook="growth_report",
)
