"""When is the disk full?

A full disk stops every write; where WAL cannot be written PostgreSQL shuts itself down, and it does not start again
before there is room. Days or weeks before, it takes an afternoon to make room. Decided by the sizes of the tablespaces
in the snapshots of the history, against ``disk_bytes`` of the target less the WAL of now; a tablespace that the target
names under ``tablespaces`` has a volume of its own and is judged by itself. The limits are held against the early end
of the interval that holds the day with a probability of 80 %, so that a doubtful forecast warns earlier.

A bulk load, a purge or VACUUM FULL is a shift of the level and no growth; dropped partitions that come back regularly
are carried on. Without eight snapshots over three days, or where the newest is older than a week (and three times the
usual distance), nothing is foretold. What else lies on the volume, such as logs and temporary files, is not known here.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Severity, Skip
from pgrunbooks.checks._history import DAY_S, NOW, lacks, skip, taken
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import size
from pgrunbooks.session import Session

if TYPE_CHECKING:
    from pgrunbooks.forecast import Days, Forecast
    from pgrunbooks.months import Snapshot

SQL = {15: NOW}
_WAL = """
select coalesce(sum(l.size), 0)::int8 as wal_bytes
from pg_catalog.pg_ls_waldir() as l
"""
_MOST, _DAYS = 120, 180.0
_STALE_DAYS = 7.0
_SOON_DAYS = 90.0  # what grows is looked up where a volume may be full by then


def deepen(session: Session, rows: Rows, limits: Limits, seconds: float) -> Rows:
    """Return a row for each volume whose size the target names: what it holds, and its sizes of the past."""
    target, now_s = session.target, rows[0]["now_s"]
    if target.disk_bytes is None and not target.tablespaces:
        return []
    snapshots = taken(session, most=_MOST, days=_DAYS)
    if not snapshots:
        return [lacks(session, "there is no history of this database")]
    from pgrunbooks import growth

    sizes: dict[datetime.datetime, dict[str, int | None]] = defaultdict(dict)
    for row in growth.tablespace_sizes(snapshots):
        sizes[row["taken_at"]][row["name"]] = row["tablespace_bytes"]
    (wal,) = session.rows(_WAL, timeout_s=seconds)
    volumes = []
    for name, disk_bytes in (*target.tablespaces.items(), (None, target.disk_bytes)):
        if disk_bytes is not None:
            points = _points(sizes, name, tuple(target.tablespaces))
            wal_bytes = 0 if name else wal["wal_bytes"]
            volume = {"tablespace": name, "disk_bytes": disk_bytes, "wal_bytes": wal_bytes, "now_s": now_s}
            told = _told(session, points, now_s) or {
                "points": points,
                **_moved(points, snapshots, disk_bytes - wal_bytes),
            }
            volumes.append({**volume, **told})
    return volumes


def _points(
    sizes: Mapping[datetime.datetime, Mapping[str, int | None]], name: str | None, apart: Sequence[str]
) -> list[tuple[datetime.datetime, int]]:
    """Return the size of one tablespace over time, or of all that share the target's disk; what is unknown is none."""
    points = []
    for at, known in sizes.items():
        values = [known.get(name)] if name else [value for it, value in known.items() if it not in apart]
        whole = [value for value in values if value is not None]
        if whole and len(whole) == len(values):
            points.append((at, sum(whole)))
    return points


def _told(session: Session, points: Sequence[tuple[datetime.datetime, int]], now_s: float) -> dict[str, Any] | None:
    """Return why these points are not enough for a forecast; None where they are."""
    from pgrunbooks.forecast import forecast  # numpy is for those who keep a history

    basis = forecast(points).basis
    if basis != "model":
        tell = "1 snapshot tells" if len(points) == 1 else f"{len(points)} snapshots tell"
        why = f"{tell} the size of the tablespaces; a forecast needs 8 over 3 days"
        return lacks(session, why)
    age_days = (now_s - points[-1][0].timestamp()) / DAY_S
    usual = median((after[0] - before[0]).total_seconds() for before, after in pairwise(points)) / DAY_S
    if age_days > max(_STALE_DAYS, 3 * usual):
        return lacks(session, f"the newest snapshot is {age_days:.0f} days old")
    return None


def _moved(
    points: Sequence[tuple[datetime.datetime, int]], snapshots: Sequence["Snapshot"], room_bytes: float
) -> dict[str, Any]:
    """Return what each level shift was, and what grows most where that is of interest soon."""
    from pgrunbooks import growth
    from pgrunbooks.forecast import forecast

    told = forecast(points)
    files = {it.at: it for it in snapshots}
    shifts = [
        {
            "at": it.at.isoformat(),
            "shift_bytes": it.bytes,
            "cause": growth.what_moved(files[it.after], files[it.at]) if {it.after, it.at} <= files.keys() else None,
        }
        for it in told.shifts
    ]
    until = told.days_until(room_bytes)
    is_soon = until and until.lower is not None and until.lower <= _SOON_DAYS
    return {"shifts": shifts, "growers": growth.growers(snapshots, most=5) if is_soon else []}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Hold the early end of the interval against the limits, for each volume."""
    if not rows:
        yield Skip("the target does not say how large its disk is; add the key 'disk_bytes' to it in targets.yml")
    for row in rows:
        if told := skip(row):
            yield told
            continue
        from pgrunbooks.forecast import forecast  # as above

        foretold = forecast(row["points"])
        days = foretold.days_until(row["disk_bytes"] - row["wal_bytes"])
        age = (row["now_s"] - row["points"][-1][0].timestamp()) / DAY_S
        if days is None or days.lower is None:
            continue
        lower_s = max(days.lower - age, 0.0) * DAY_S
        severity: Severity | None = (
            "critical" if lower_s <= limits["critical"] else "warning" if lower_s <= limits["warning"] else None
        )
        if severity:
            yield _finding(row, foretold, days, age, severity, context)


def _finding(row: Row, foretold: "Forecast", days: "Days", age: float, severity: Severity, context: Context) -> Finding:
    name, points = row["tablespace"], row["points"]
    used = points[-1][1] + row["wal_bytes"]
    what = f"The volume of tablespace {name}" if name else "The disk"
    left = [None if it is None else max(it - age, 0.0) for it in (days.lower, days.median, days.upper)]
    low, rate, high = foretold.daily_bytes or (0.0, 0.0, 0.0)
    is_full = left[1] == 0
    when = "is full" if is_full else f"is full in {_days(left[0])} to {_days(left[2])} days"
    return Finding(
        severity=severity,
        kind="tablespace" if name else "target",
        name=name or context.target.name,
        title=f"{what} {when}: {size(used)} of {size(row['disk_bytes'])} are taken, and {size(rate)} a day come on top",
        impact="Then every write fails"
        + (", and the server stops, since it cannot write WAL." if not name else " that needs room there."),
        evidence=[
            {
                "used_bytes": used,
                "wal_bytes": row["wal_bytes"],
                "disk_bytes": int(row["disk_bytes"]),
                "earliest_days": left[0],
                "middle_days": left[1],
                "latest_days": left[2],
                "daily_bytes": rate,
                "daily_low_bytes": low,
                "daily_high_bytes": high,
                "model": foretold.model,
                "snapshots": foretold.points,
            },
            *(
                {"level_shift_at": it["at"], "shift_bytes": it["shift_bytes"], "cause": it["cause"]}
                for it in row["shifts"]
            ),
            *({"table": it["relation"], "grown_bytes": it["grown_bytes"]} for it in row["growers"]),
        ],
        remedies=_remedies(row, rate),
    )


def _days(days: float | None) -> str:
    return "more than 365" if days is None else f"{days:.0f}" if days >= 10 else f"{days:.1f}"


def _remedies(row: Row, rate: float) -> Sequence[Remedy]:
    month = size(30 * max(rate, 0.0))
    grower = row["growers"][0]["relation"] if row["growers"] else None
    most = f"; {grower} grew most" if grower else ""
    return (
        Remedy(f"Give the volume more room, then 'disk_bytes' its new size; a month takes {month}", risk="low"),
        Remedy(
            f"Have less come on top{most}: drop or detach old partitions, delete what nobody needs. DELETE alone gives"
            " nothing back to the disk, but what is written next finds room",
            risk="high",
        ),
    )


check = Check(
    "disk-full-forecast",
    sql=SQL,
    judge=judge,
    deepen=deepen,
    docs=("https://www.postgresql.org/docs/current/disk-full.html",),
    runbook="growth_report",
)
