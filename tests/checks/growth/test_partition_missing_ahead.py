import datetime
from urllib.parse import quote

import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.growth.partition_missing_ahead import judge
from pgrunbooks.drills import Actors

LIMITS = catalogue()["partition-missing-ahead"].limits()
DAY = 86400.0
NOW = datetime.datetime(2026, 11, 15, 12)
EPOCH = NOW.timestamp()
EVERY_DAY = """
do $$ begin
    for day in {} loop
        execute format('create table %I partition of {} for values from (%L) to (%L)',
            to_char(now() + make_interval(days => day), '"{}"YYYYMMDD'),
            date_trunc('day', now()) + make_interval(days => day),
            date_trunc('day', now()) + make_interval(days => day + 1));
    end loop;
end $$
"""


def table(left_s=30 * DAY, width_s=30 * DAY, **changes):
    upper_s = None if left_s is None else EPOCH + left_s
    lower_s = None if upper_s is None or width_s is None else upper_s - width_s

    def text(at_s):
        return None if at_s is None else (NOW + datetime.timedelta(seconds=at_s - EPOCH)).isoformat(" ")

    times = {"now": text(EPOCH), "lower": text(lower_s), "upper": text(upper_s)}
    row = {
        "table": "a.t",
        "schema": "a",
        "table_name": "t",
        "column": "at",
        "column_type": "timestamptz",
        "partitions": 0 if upper_s is None else 5,
        "newest_name": None if upper_s is None else "t5",
        "newest_is_partitioned": False,
        "upper_text": upper_s and f"'{text(upper_s)}+00'",
        "is_unbounded": False,
        "now_s": EPOCH,
        "lower_s": lower_s,
        "upper_s": upper_s,
        "own_lower_s": None,
        "own_upper_s": None,
        "time_zone": "UTC",
        **{f"{name}_{clock}": value for name, value in times.items() for clock in ("local", "utc")},
        "default_partition": None,
        "default_rows": None,
    }
    assert not set(changes) - set(row)
    return {**row, **changes}


def severities(row, context):
    return [it.severity for it in judge([row], LIMITS, context)]


def bounds(lower, upper, **changes):
    times = {"lower_local": lower, "upper_local": upper, "lower_utc": lower, "upper_utc": upper}
    ends = {
        f"{name}_s": (datetime.datetime.fromisoformat(times[f"{name}_utc"])).timestamp() for name in ("lower", "upper")
    }
    return table(**{**times, **ends, **changes})


def made(row, context):
    (finding,) = judge([row], LIMITS, context)
    sql = finding.remedies[0].sql
    return [line.removeprefix("create table a.").removesuffix(";") for line in sql.splitlines() if "create" in line]


def asked(server, **settings):
    verdict = diagnose(server, "partition-missing-ahead", **settings)
    assert verdict.checks[0].outcome in ("ok", "found"), verdict.checks[0].reason
    assert verdict.checks[0].duration_ms < 400
    return {it.name: it for it in verdict.findings}


def test_the_drill_is_found_and_healed(prove):
    prove("partition-missing-ahead")


@pytest.mark.parametrize(
    ("left_s", "width_s", "severity"),
    [
        (7 * DAY, 30 * DAY, []),
        (7 * DAY - 1, 30 * DAY, ["warning"]),
        (0, 30 * DAY, ["warning"]),
        (-1, 30 * DAY, ["critical"]),
        (-9999 * DAY, 365 * DAY, ["critical"]),
        (2 * DAY, DAY, []),
        (2 * DAY - 1, DAY, ["warning"]),
        (2 * 3600, 3600, []),
        (2 * 3600 - 1, 3600, ["warning"]),
        (7 * DAY, None, []),
        (7 * DAY - 1, None, ["warning"]),
        (-1, None, ["critical"]),
    ],
)
def test_the_newest_bound_decides(left_s, width_s, severity, context):
    assert severities(table(left_s, width_s), context) == severity


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({"is_unbounded": True}, []),
        ({}, ["critical"]),
        ({"default_partition": "a.d", "default_rows": 0}, []),
        ({"default_partition": "a.d", "default_rows": 1}, ["critical"]),
        ({"own_lower_s": EPOCH + 7 * DAY, "own_upper_s": EPOCH + 99 * DAY}, []),
        ({"own_lower_s": EPOCH + DAY, "own_upper_s": EPOCH + 99 * DAY}, ["warning"]),
        ({"own_lower_s": EPOCH - DAY, "own_upper_s": EPOCH + 99 * DAY}, ["critical"]),
        ({"own_lower_s": EPOCH - 2 * DAY, "own_upper_s": EPOCH}, []),
    ],
)
def test_without_a_bound_it_depends_on_what_is_there(changes, severity, context):
    assert severities(table(None, **changes), context) == severity


@pytest.mark.parametrize(("end", "severity"), [(DAY, []), (DAY + 1, ["warning"]), (0, [])])
def test_a_partition_that_is_partitioned_covers_its_own_range_only(end, severity, context):
    assert severities(table(DAY, own_upper_s=EPOCH + end), context) == severity


def test_a_default_partition_is_no_cover(context):
    row = table(-DAY, DAY, default_partition="a.d", default_rows=0)
    (finding,) = judge([row], LIMITS, context)
    assert finding.severity == "critical"
    assert finding.impact == "Now new rows land in a.d, out of which they have to be moved again."
    assert "fails while a.d holds rows of that time" in finding.remedies[0].title
    assert "a.d" in finding.remedies[0].locks


def test_no_table_is_well(context):
    assert list(judge([], LIMITS, context)) == []


def test_months_are_taken_for_months(context):
    row = bounds("2026-10-01 00:00:00", "2026-11-01 00:00:00", newest_name="t_2026_10", column_type="date")
    assert made(row, context) == ["t_2026_11 partition of a.t for values from ('2026-11-01') to ('2026-12-01')"]
    row = bounds("2026-07-01 00:00:00", "2026-10-01 00:00:00", column_type="timestamp")
    assert made(row, context) == [
        "t_2026_10_01 partition of a.t for values from ('2026-10-01 00:00:00') to ('2027-01-01 00:00:00')"
    ]
    row = bounds("2025-01-01 00:00:00", "2026-01-01 00:00:00", newest_name="Tëst2025", column_type="date")
    assert made(row, context) == ["\"Tëst2026\" partition of a.t for values from ('2026-01-01') to ('2027-01-01')"]


def test_days_follow_until_the_limit_is_reached(context):
    row = bounds("2026-11-13 00:00:00", "2026-11-14 00:00:00", newest_name="t_p20261113", column_type="date")
    names = [line.split()[0] for line in made(row, context)]
    assert names == [f"t_p202611{day}" for day in (14, 15, 16, 17)]


def test_a_wide_gap_is_left_and_said(context):
    row = bounds("2025-11-13 00:00:00", "2025-11-14 00:00:00", column_type="date")
    assert [line.split()[0] for line in made(row, context)] == [f"t_2026_11_{day}" for day in (15, 16, 17)]
    (finding,) = judge([row], LIMITS, context)
    assert "the gap from" in finding.remedies[0].title


def test_a_name_that_would_repeat_gets_the_whole_day(context):
    row = bounds("2026-11-01 00:00:00", "2026-11-08 00:00:00", newest_name="t_2026_11", column_type="date")
    assert [line.split()[0] for line in made(row, context)] == ["t_2026_11_08", "t_2026_11_15", "t_2026_11_22"]


def test_the_clock_is_the_one_that_strikes_midnight_at_the_bounds(context):
    utc = {"lower_utc": "2026-10-01 00:00:00", "upper_utc": "2026-11-01 00:00:00"}
    berlin = {
        "lower_local": "2026-10-01 02:00:00",
        "upper_local": "2026-11-01 01:00:00",
        "now_local": "2026-11-15 13:00:00",
    }
    row = bounds(utc["lower_utc"], utc["upper_utc"], time_zone="Europe/Berlin", **berlin)
    assert "from ('2026-11-01 00:00:00 UTC') to ('2026-12-01 00:00:00 UTC')" in made(row, context)[0]


@pytest.mark.parametrize(
    "changes", [{"newest_is_partitioned": True}, {"lower_local": None}, {"upper_local": "10000-01-01 00:00:00"}]
)
def test_where_the_next_one_is_not_known_there_is_no_statement(changes, context):
    (finding,) = judge([table(-DAY, DAY, **changes)], LIMITS, context)
    assert finding.remedies[0].sql is None


def test_real_tables_are_told_from_real_near_misses(server, build):
    since = "for values from ('2020-01-01') to"
    build(
        "create table near_1 (at date) partition by range (at)",
        f"create table near_1_p partition of near_1 {since} (maxvalue)",
        "create table near_2 (at timestamptz) partition by range (at)",
        f"create table near_2_p partition of near_2 {since} ('infinity')",
        "create table near_3 (id integer) partition by range (id)",
        "create table near_3_p partition of near_3 for values from (1) to (2)",
        "create table near_4 (at date, id integer) partition by range (at, id)",
        "create table near_4_p partition of near_4 for values from ('2020-01-01', 1) to ('2021-01-01', 1)",
        "create table near_5 (at date) partition by list (at)",
        "create table near_5_p partition of near_5 for values in ('2020-01-01')",
        "create table near_6 (at timestamp) partition by range (date_trunc('day', at))",
        f"create table near_6_p partition of near_6 {since} ('2021-01-01')",
        "create table near_7 (at date) partition by range (at)",
        "create table near_7_d partition of near_7 default",
        "create temp table near_8 (at date) partition by range (at)",
        "create table near_9 (at date) partition by range (at)",
        f"create table near_9_p partition of near_9 {since} ('2021-01-01') partition by range (at)",
        f"create table near_9_p_1 partition of near_9_p {since} ('2020-02-01')",
        "create table near_9_q partition of near_9 for values from ('2021-01-01') to ('3000-01-01') partition by list (at)",
        "create table near_9_q_d partition of near_9_q default partition by range (at)",
        "create table near_9_q_d_1 partition of near_9_q_d for values from ('2021-01-01') to ('3000-01-01')",
        "create table near_10 (at date) partition by range (at)",
        f"create table near_10_p partition of near_10 {since} ('5000000-01-01')",
        "create table ended_1 (at date) partition by range (at)",
        "create table ended_1_a partition of ended_1 for values from (minvalue) to ('2021-01-01')",
        "create table ended_1_d partition of ended_1 default",
        "create table ended_2 (at timestamp) partition by range (at)",
        "create table ended_3 (c text, at timestamptz) partition by list (c)",
        "create table ended_3_de partition of ended_3 for values in ('de') partition by range (at)",
        f"create table ended_3_de_1 partition of ended_3_de {since} ('2020-02-01')",
        "create table ended_4 (at date) partition by range (at)",
        "create table ended_4_p partition of ended_4 for values from ('-infinity') to ('3000-01-01') partition by range (at)",
        f"create table ended_4_p_1 partition of ended_4_p {since} ('2020-02-01')",
        "create table soon (at timestamptz) partition by range (at)",
        EVERY_DAY.format("-3..1", "soon", "soon_"),
    )
    names = ("ended_1", "ended_2", "ended_3_de", "ended_4_p")
    found = {name: it.severity for name, it in asked(server).items()}
    assert found == {**{f"lab.{name}": "critical" for name in names}, "lab.soon": "warning"}


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland"])
def test_the_remedy_runs_and_heals_under_odd_names(kind, zone, server, build, odd):
    schema, long = odd
    build(
        f"create schema {schema}; set search_path to {schema}; set timezone to '{zone}'",
        f"create table {long} (\"the '@'\" {kind}) partition by range (\"the '@'\")",
        EVERY_DAY.format("-5..-3", long, 'É ""'),
        f'create table "Monthly" (at {kind}) partition by range (at)',
        "create table monthly_2023_11 partition of \"Monthly\" for values from ('2023-11-01') to ('2023-12-01')",
    )
    dsn = f"{server.url()}&options={quote(f'-c TimeZone={zone}')}"
    findings = asked(server, dsn=dsn)
    assert set(findings) == {f"{schema}.{long}", f'{schema}."Monthly"'}
    for finding in findings.values():
        build("set timezone to 'America/New_York'" if kind == "timestamptz" else "", finding.remedies[0].sql)
    assert asked(server, dsn=dsn) == {}
    for finding in findings.values():
        build(finding.remedies[0].undo)
    assert set(asked(server, dsn=dsn)) == set(findings)


@pytest.mark.parametrize("statement", ["lock lab.t in access exclusive mode", "drop table lab.t_old"])
def test_a_lock_hides_nothing(statement, server, build):
    build(
        "create table t (at date) partition by range (at)",
        "create table t_old partition of t for values from ('2020-01-01') to ('2021-01-01')",
    )
    with Actors(server) as stage:
        stage.enter("migration", "begin", statement)
        assert set(asked(server)) == {"lab.t"}
