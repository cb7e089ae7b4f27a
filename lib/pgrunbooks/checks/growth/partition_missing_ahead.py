"""Do time partitions exist ahead of now?

A table that is range partitioned by time needs its next partition before the time comes. The job that makes it has
failed, or nobody wrote one: then every insert of a current row fails, or lands in the default partition, which is no
cover: rows have to be moved out of it before their partition can be made. Decided by the newest upper bound: behind now
is critical, and ahead of now by less than ``warning`` or twice the width of the newest partition, whichever is shorter,
is a warning. MAXVALUE and infinity cover everything. A table without any partition for a time is critical, since all
its inserts fail, unless it has a default partition that holds nothing: it is not in use yet.

Partition keys that are one column of type date, timestamp or timestamptz are judged; a bound without a time zone is
read in the time zone of our session. A partition that is partitioned in turn needs to cover its own range only.
"""

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._partitions import BOUNDS
from pgrunbooks.checks._sessions import Row
from pgrunbooks.display import duration

_PARTITIONED = (
    """
with recursive """
    + BOUNDS
    + """
newest as materialized (
    select distinct on (b.relid)
        b.relid, b.relname, b.relkind, b.upper_text, b.lower_at, b.upper_at,
        pg_catalog.count(*) over (partition by b.relid) as partitions,
        pg_catalog.count(*) filter (where b.lower_at > now()) over (partition by b.relid) as partitions_ahead
    from bounds as b
    order by b.relid, b.upper_at desc nulls first, b.partition_oid
),
above (relid, attname, member) as (
    select t.partrelid, t.attname, t.partrelid from tables as t
    union all
    select a.relid, a.attname, h.inhparent
    from above as a
    join pg_catalog.pg_inherits as h on h.inhrelid = a.member
    where not exists (select from bounds as b join tables as t on t.partrelid = b.relid
                      where b.partition_oid = a.member and t.attname = a.attname)
),
own as materialized (
    select a.relid, b.lower_at, b.upper_at
    from above as a
    join bounds as b on b.partition_oid = a.member
    join tables as t on t.partrelid = b.relid and t.attname = a.attname
)
select
    pg_catalog.format('%I.%I', n.nspname, c.relname) as table,
    pg_catalog.quote_ident(n.nspname) as schema,
    c.relname::text as table_name,
    pg_catalog.quote_ident(t.attname) as column,
    t.typname::text as column_type,
    coalesce(w.partitions, 0) as partitions,
    coalesce(w.partitions_ahead, 0) as partitions_ahead,
    w.relname::text as newest_name,
    w.relkind = 'p' as newest_is_partitioned,
    w.upper_text,
    w.relid is not null and w.upper_at is null as is_unbounded,
    extract(epoch from now())::float8 as now_s,
    extract(epoch from w.lower_at)::float8 as lower_s,
    extract(epoch from w.upper_at)::float8 as upper_s,
    extract(epoch from o.lower_at)::float8 as own_lower_s,
    extract(epoch from o.upper_at)::float8 as own_upper_s,
    current_setting('TimeZone') as time_zone,
    pg_catalog.to_char(now()::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as now_local,
    pg_catalog.to_char(w.lower_at::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as lower_local,
    pg_catalog.to_char(w.upper_at::timestamp, 'YYYY-MM-DD HH24:MI:SS.US') as upper_local,
    pg_catalog.to_char(now() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as now_utc,
    pg_catalog.to_char(w.lower_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as lower_utc,
    pg_catalog.to_char(w.upper_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') as upper_utc,
    case when dc.oid is not null then pg_catalog.format('%I.%I', dn.nspname, dc.relname) end as default_partition,
    greatest(dc.reltuples, pg_catalog.pg_stat_get_live_tuples(dc.oid), 0)::int8 as default_rows
from tables as t
join pg_catalog.pg_class as c on c.oid = t.partrelid and c.relpersistence <> 't'
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join newest as w on w.relid = t.partrelid
left join own as o on o.relid = t.partrelid
left join pg_catalog.pg_class as dc on dc.oid = t.partdefid
left join pg_catalog.pg_namespace as dn on dn.oid = dc.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by n.nspname, c.relname
"""
)
SQL = {15: _PARTITIONED}

_GAP = 24  # so many partitions in a row are written out; beyond, those from now on
_STAMPS = ("%Y_%m_%d_%H", "%Y%m%d%H", "%Y_%m_%d", "%Y-%m-%d", "%Y%m%d", "%Y_%m", "%Y-%m", "%Y%m", "%Y")


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each table whose newest partition ends before now, or too soon after."""
    for row in rows:
        end = row["own_lower_s"] if row["upper_s"] is None else row["upper_s"]
        empty_default = row["default_partition"] and not row["default_rows"]
        if row["is_unbounded"] or _is_complete(row) or (end is None and empty_default):
            continue
        left_s = None if end is None else end - row["now_s"]
        if left_s is None or left_s < 0:
            yield _finding(row, left_s, limits, critical=True)
        elif left_s < ahead(row, limits):
            yield _finding(row, left_s, limits, critical=False)


def ahead(row: Row, limits: Limits) -> float:
    """Return how far ahead of now the partitions should reach, in seconds."""
    if row["lower_s"] is None or row["upper_s"] is None:
        return limits["warning"]
    return min(limits["warning"], 2 * float(row["upper_s"] - row["lower_s"]))


def _is_complete(row: Row) -> bool:
    """Tell whether a partition that is partitioned in turn covers its own range, or has it behind itself."""
    own = row["own_upper_s"]
    return own is not None and (own <= row["now_s"] or (row["upper_s"] is not None and row["upper_s"] >= own))


def _finding(row: Row, left_s: float | None, limits: Limits, *, critical: bool) -> Finding:
    table, until = row["table"], (row["upper_text"] or "").strip("'")
    if row["upper_s"] is None:
        title = f"Table {table} has no partition for any time"
    elif critical:
        title = f"Table {table} has no partition for now: the newest ended {duration(-(left_s or 0))} ago, at {until}"
    else:
        title = f"Table {table} has partitions for {duration(left_s or 0)} only, until {until}"
    default = row["default_partition"]
    when = "Now" if critical else "From then on"
    fate = f"new rows land in {default}, out of which they have to be moved again" if default else "every insert fails"
    return Finding(
        severity="critical" if critical else "warning",
        kind="table",
        name=table,
        title=title,
        impact=f"{when} {fate}.",
        evidence=[
            {
                "table": table,
                "partition_key": row["column"],
                "partitions": row["partitions"],
                "newest": row["newest_name"],
                "newest_until": until or None,
                "left_s": left_s,
                "width_s": None if row["lower_s"] is None else row["upper_s"] - row["lower_s"],
                "default_partition": default,
            }
        ],
        remedies=(
            _create(row, limits),
            Remedy(
                "So that it cannot happen again: have a job make partitions well ahead (pg_partman, or a line of cron),"
                " and let it raise an alarm where it fails",
                risk="low",
            ),
        ),
    )


@dataclass(frozen=True)
class Clock:
    """The wall clock that a table's bounds follow, with how far the newest partition reaches on it."""

    zone: str
    now: datetime.datetime
    lower: datetime.datetime
    upper: datetime.datetime

    @property
    def months(self) -> int | None:
        """Return the width of the newest partition in months, None where it is not a number of whole ones."""
        at = self.lower
        if at.day > 28 or (at.day, at.time()) != (self.upper.day, self.upper.time()):
            return None
        return (self.upper.year - at.year) * 12 + self.upper.month - at.month

    def step(self, start: datetime.datetime) -> datetime.datetime:
        """Return the end of a partition as wide as the newest one that begins at ``start``."""
        if not self.months:
            return start + (self.upper - self.lower)
        years, month = divmod(start.month - 1 + self.months, 12)
        return start.replace(year=start.year + years, month=month + 1)

    def literal(self, at: datetime.datetime, column_type: str) -> str:
        """Return a bound as it stands in SQL; with its zone where the column has one."""
        if column_type == "date":
            return f"'{at:%Y-%m-%d}'"
        text = at.isoformat(" ")
        return f"'{text} {self.zone}'" if column_type == "timestamptz" else f"'{text}'"


def clock(row: Row) -> Clock | None:
    """Return the clock on which the newest partition is months or days wide: our session's, or else UTC's."""
    clocks = []
    for zone, suffix in ((row["time_zone"], "local"), ("UTC", "utc")):
        texts = [row[f"{name}_{suffix}"] for name in ("now", "lower", "upper")]
        if None in texts:
            return None
        try:
            clocks.append(Clock(zone, *(datetime.datetime.fromisoformat(text) for text in texts)))
        except ValueError:  # before Christ, or after 9999
            return None
    midnight = [it for it in clocks if it.lower.time() == it.upper.time() == datetime.time()]
    return midnight[0] if midnight and row["column_type"] == "timestamptz" else clocks[0]


def following(clock: Clock, wanted_s: float) -> list[tuple[datetime.datetime, datetime.datetime]]:
    """Return the bounds of the partitions that are missing from the newest one on until ``wanted_s`` ahead of now.

    Where these are more than a page, they begin with the one that holds now.
    """
    until = clock.now + datetime.timedelta(seconds=wanted_s - 1)  # epochs are rounded
    missing: list[tuple[datetime.datetime, datetime.datetime]] = []
    start = clock.upper
    if not clock.months and start < clock.now:  # days or seconds wide, and years behind: not step by step
        width = clock.upper - clock.lower
        start += max(0, (clock.now - start) // width - _GAP) * width
    while start < until or not missing:
        missing.append((start, clock.step(start)))
        start = missing[-1][1]
    if len(missing) <= _GAP and missing[0][0] == clock.upper:
        return missing
    return [bounds for bounds in missing if bounds[1] > clock.now]


def _create(row: Row, limits: Limits) -> Remedy:
    at, default = clock(row), row["default_partition"]
    if at is None or row["newest_is_partitioned"]:
        like = " as the others are, with partitions of its own" if row["newest_is_partitioned"] else ""
        return Remedy(f"Make the next partition{like}", risk="low")
    wanted_s = ahead(row, limits)
    if row["own_upper_s"] is not None:  # not beyond its own end
        wanted_s = min(wanted_s, row["own_upper_s"] - row["now_s"])
    bounds = following(at, wanted_s)
    names = [f"{row['schema']}.{name}" for name in _names(row, at, [lower for lower, _ in bounds])]
    kind = row["column_type"]
    steps = [
        f"create table {name} partition of {row['table']}"
        f" for values from ({at.literal(lower, kind)}) to ({at.literal(upper, kind)});"
        for name, (lower, upper) in zip(names, bounds, strict=True)
    ]
    gap = f"; the gap from {row['upper_text']} on is left" if bounds[0][0] != at.upper else ""
    return Remedy(
        f"Make what is missing, as wide as {row['newest_name']}{gap}"
        + (f"; fails while {default} holds rows of that time, which have to be moved first" if default else ""),
        sql="\n".join(("begin;", "set local lock_timeout = '2s';", *steps, "commit;")),
        risk="low",
        locks="ACCESS EXCLUSIVE on the table"
        + (f", and on {default} while that is read" if default else ", for a moment")
        + "; gives up after 2 s of waiting for it",
        undo="\n".join(f"drop table {name};" for name in names),
    )


def _names(row: Row, at: Clock, lowers: Sequence[datetime.datetime]) -> list[str]:
    """Return names like the newest partition's, with the time that each begins at, quoted where they have to be."""
    newest = row["newest_name"]
    suffix = "_%Y_%m_%d" if all(it.time() == datetime.time() for it in lowers) else "_%Y_%m_%d_%H%M%S"
    names = [_cut(row["table_name"], 63 - len(f"{it:{suffix}}")) + f"{it:{suffix}}" for it in lowers]
    for stamp in _STAMPS:
        stamped = [newest.removesuffix(f"{at.lower:{stamp}}") + f"{it:{stamp}}" for it in lowers]
        if newest.endswith(f"{at.lower:{stamp}}") and len({newest, *stamped}) == len(lowers) + 1:
            names = stamped
            break
    return [it if re.fullmatch(r"[a-z_][a-z0-9_]*", it) else '"' + it.replace('"', '""') + '"' for it in names]


def _cut(name: str, length: int) -> str:
    """Return a name in at most that many bytes, as PostgreSQL would cut it."""
    return name.encode()[:length].decode(errors="ignore")


check = Check(
    "partition-missing-ahead",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE",),
    runbook="growth_report",
)
