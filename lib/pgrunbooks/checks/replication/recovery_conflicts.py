"""Are queries cancelled on the standby?

A standby must replay what the primary did: rows vacuumed away, tables dropped or locked. A query on the standby that
still needs them may hold replay up for ``max_standby_streaming_delay``, and is then cancelled with 'conflict with
recovery'. Now and then is the price of reading there; every few minutes means that reports and vacuum do not go
together. Decided by the queries that were cancelled since the last snapshot of the history; without one by those a day
over the age of the counters, which is taken as one day at least.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import DAY_S, a_day, evidence, since_database, window
from pgrunbooks.checks._sessions import Row, count

_CONFLICTS_15 = """
select
    c.datname::text as database,
    c.confl_snapshot as snapshot,
    c.confl_lock as lock,
    c.confl_bufferpin as buffer_pin,
    c.confl_deadlock as deadlock,
    c.confl_tablespace as tablespace,
    0::int8 as logical_slot,
    current_setting('max_standby_streaming_delay') as max_standby_streaming_delay,
    current_setting('hot_standby_feedback') as hot_standby_feedback,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database_conflicts as c
join pg_catalog.pg_stat_database as d on d.datid = c.datid
cross join pg_catalog.pg_stat_bgwriter as b
where pg_catalog.pg_is_in_recovery()
order by c.datname
"""

_CONFLICTS_16 = """
select
    c.datname::text as database,
    c.confl_snapshot as snapshot,
    c.confl_lock as lock,
    c.confl_bufferpin as buffer_pin,
    c.confl_deadlock as deadlock,
    c.confl_tablespace as tablespace,
    c.confl_active_logicalslot as logical_slot,
    current_setting('max_standby_streaming_delay') as max_standby_streaming_delay,
    current_setting('hot_standby_feedback') as hot_standby_feedback,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s
from pg_catalog.pg_stat_database_conflicts as c
join pg_catalog.pg_stat_database as d on d.datid = c.datid
cross join pg_catalog.pg_stat_bgwriter as b
where pg_catalog.pg_is_in_recovery()
order by c.datname
"""
SQL = {15: _CONFLICTS_15, 16: _CONFLICTS_16}

_REASONS = {
    "snapshot": "rows that they still saw were vacuumed away",
    "lock": "a table that they read was locked or dropped",
    "buffer_pin": "a page that they held was cleaned up",
    "deadlock": "they and replay waited for each other",
    "tablespace": "a tablespace that they used was dropped",
    "logical_slot": "a logical slot needed what was removed",
}


_COUNTERS = {
    "snapshot": "confl_snapshot",
    "lock": "confl_lock",
    "buffer_pin": "confl_bufferpin",
    "deadlock": "confl_deadlock",
    "tablespace": "confl_tablespace",
    "logical_slot": "confl_logicalslot",
}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each database of the standby by the queries that were cancelled there since the last snapshot, or a day."""
    for total in rows:
        counted = since_database(total, context, **_COUNTERS)
        row = counted or total
        cancelled = sum(row[reason] or 0 for reason in _REASONS)
        severity = grade(cancelled if counted else a_day(cancelled, row), limits)
        if not severity or not cancelled:
            continue
        most = max(_REASONS, key=lambda reason: row[reason] or 0)
        rate = f" ({a_day(cancelled, row):.3g} a day)" if (row["counters_age_s"] or 0) > DAY_S else ""
        yield Finding(
            severity=severity,
            kind="database",
            name=row["database"],
            title=f"{count(cancelled, 'conflict')} with recovery cancelled what ran in database {row['database']} of"
            f" this standby, {window(row)}{rate}",
            impact=f"Their clients got an error that is not theirs; most of them because {_REASONS[most]}.",
            evidence=evidence([{**row, "cancelled_a_day": a_day(cancelled, row)}], *row, "cancelled_a_day"),
            remedies=_remedies(row, most),
        )


def _remedies(row: Row, most: str) -> tuple[Remedy, ...]:
    feedback = Remedy(
        "Let the standby tell the primary which rows its queries still see; a long query here then keeps vacuum from"
        " cleaning up there",
        sql="alter system set hot_standby_feedback = on;\nselect pg_reload_conf();",
        risk="low",
        locks="none",
        undo="alter system set hot_standby_feedback = off;\nselect pg_reload_conf();",
    )
    delay = row["max_standby_streaming_delay"]
    patience = Remedy(
        f"Give queries on this standby more than {delay} before they are cancelled; its data is older by as much",
        sql="alter system set max_standby_streaming_delay = '10min';\nselect pg_reload_conf();",
        risk="low",
        locks="none",
        undo=f"alter system set max_standby_streaming_delay = '{delay}';\nselect pg_reload_conf();",
    )
    again = Remedy("In the application: try again on SQLSTATE 40001, and send long reports to a standby of their own")
    offer_feedback = most == "snapshot" and row["hot_standby_feedback"] == "off"
    return (*([feedback] if offer_feedback else []), patience, again)


check = Check(
    "recovery-conflicts",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CONFLICT",),
    runbook="replication_health",
    uses_counters=True,
    since_snapshot=True,
)
