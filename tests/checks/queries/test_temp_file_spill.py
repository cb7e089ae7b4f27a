import dataclasses

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.queries.temp_file_spill import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills.temp_file_spill import REPORTS
from pgrunbooks.sandbox import wait_until

CODE = "temp-file-spill"
LIMITS = catalogue()[CODE].limits()
GB, DAY_S = 1024**3, 86400


def counted(temp_bytes, days=1, database="shop", **statement):
    row = {
        "database": database,
        "temp_bytes": temp_bytes,
        "temp_files": 12,
        "work_mem": "4MB",
        "counters_age_s": None if days is None else days * DAY_S,
        "queryid": None,
        "calls": None,
        "written_bytes": None,
        "query": None,
    }
    return {**row, **statement}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_statement_is_named_whatever_schema_the_extension_is_in(server):
    drill = drills()[CODE]
    with server.connect() as dba:
        dba.execute("create schema \"Strange, 'indeed'\"")
        dba.execute("alter extension pg_stat_statements set schema \"Strange, 'indeed'\"")
        try:
            with drill.fault(server):
                (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).about(CODE)
        finally:
            dba.execute("alter extension pg_stat_statements set schema public")
            dba.execute("drop schema \"Strange, 'indeed'\"")
    (statement,) = finding.evidence[1:]
    assert "generate_series" in statement["query"]
    assert statement["queryid"] in finding.title


def test_without_the_extension_the_database_is_found_all_the_same(server):
    drill = drills()[CODE]
    with server.connect("postgres") as dba:
        installed = dba.execute("select 1 from pg_extension where extname = 'pg_stat_statements'").fetchone()
    assert installed is None
    with drill.fault(server) as incident:
        verdict = diagnose(server, CODE, thresholds=drill.thresholds, dsn=server.url("postgres"))
    (finding,) = verdict.about(CODE)
    assert (finding.name, len(finding.evidence)) == (incident.name, 1)
    assert "create extension pg_stat_statements;" in [it.sql for it in finding.remedies]


@pytest.mark.parametrize(
    ("temp_bytes", "days", "severity"),
    [
        (0, 1, []),
        (None, 1, []),
        (GB - 1, 1, []),
        (GB, 1, ["warning"]),
        (GB, 0.01, ["warning"]),
        (GB - 1, 0.01, []),
        (GB, 1.01, []),
        (30 * GB, 30, ["warning"]),
        (GB, None, ["warning"]),
    ],
)
def test_bytes_a_day_decide_over_one_day_at_least(temp_bytes, days, severity, context):
    assert severities([counted(temp_bytes, days)], context) == severity


def test_none_at_all_is_well_whatever_the_limit(context):
    assert list(judge([counted(0)], {"warning": 0.0}, context)) == []


def test_several_statements_of_one_database_are_one_finding(context):
    rows = [
        counted(9 * GB, queryid="-42", calls=7, written_bytes=8 * GB, query="select $1"),
        counted(9 * GB, queryid="43", calls=1, written_bytes=GB, query="select $2"),
        counted(2 * GB, database="crm"),
    ]
    shop, crm = judge(rows, LIMITS, context)
    assert shop.title == "Queries of database shop wrote 9 GB of temporary files in 1 d, most of it by statement -42"
    assert [len(it.evidence) for it in (shop, crm)] == [3, 1]


def test_the_extension_is_proposed_only_where_it_is_missing(context):
    there = dataclasses.replace(
        context, server=dataclasses.replace(context.server, extensions={"pg_stat_statements": "1.12"})
    )
    missing, quiet = (next(iter(judge([counted(9 * GB)], LIMITS, it))) for it in (context, there))
    assert [len(it.remedies) for it in (missing, quiet)] == [3, 2]


def test_no_database_is_well(context):
    assert severities([], context) == []


@pytest.mark.parametrize(
    ("then", "temp_bytes", "hours", "severity"),
    [
        ({"temp_bytes": 9 * GB, "temp_files": 5}, 9 * GB, 2, []),
        ({"temp_bytes": 9 * GB, "temp_files": 5}, 10 * GB - 1, 2, []),
        ({"temp_bytes": 9 * GB, "temp_files": 5}, 10 * GB, 2, ["warning"]),
        ({"temp_bytes": 9 * GB, "temp_files": 5}, 10 * GB, 49, []),
        ({"temp_bytes": 0, "temp_files": 0}, GB, 2, ["warning"]),
    ],
)
def test_with_a_history_what_was_written_since_the_last_snapshot_counts(then, temp_bytes, hours, severity, context):
    since = dataclasses.replace(context, since=Since(hours * 3600, databases={"shop": then}))
    assert severities([counted(temp_bytes, 40)], since) == severity


@pytest.mark.parametrize(
    "known", [{}, {"crm": {"temp_bytes": 0, "temp_files": 0}}, {"shop": {"temp_bytes": 0, "temp_files": None}}]
)
def test_a_database_that_was_reset_since_or_is_not_in_the_snapshot_is_judged_by_its_age(known, context):
    since = dataclasses.replace(context, since=Since(7200, databases=known))
    assert severities([counted(40 * GB - 1, 40)], since) == []
    assert severities([counted(40 * GB, 40)], since) == ["warning"]


def test_the_title_names_the_window_since_the_snapshot(context):
    since = Since(7200, databases={"shop": {"temp_bytes": GB, "temp_files": 4}})
    (finding,) = judge([counted(4 * GB, 40)], LIMITS, dataclasses.replace(context, since=since))
    assert finding.title == "Queries of database shop wrote 3 GB of temporary files in 2 h"
    assert finding.impact.startswith("8 files took")


def test_what_was_written_before_the_snapshot_is_old_news_and_what_comes_after_is_found(server, remember):
    drill = drills()[CODE]

    def found():
        return [it.name for it in diagnose(server, CODE, thresholds=drill.thresholds).about(CODE)]

    with drill.fault(server):
        assert found() == [REPORTS]
        remember(hours_ago=0.5)
        assert found() == [REPORTS]  # half an hour is no window
        remember(hours_ago=2)
        assert found() == []
        spill(server, more_than=64 << 20)
        assert found() == [REPORTS]


def test_all_that_a_newer_database_wrote_is_since_the_snapshot(server, remember):
    drill = drills()[CODE]
    remember(hours_ago=2)
    with drill.fault(server):
        (finding,) = diagnose(server, CODE, thresholds=drill.thresholds).about(CODE)
    assert (finding.name, " in 2 h" in finding.title) == (REPORTS, True)


def spill(server, more_than):
    """Sort through the disk, and wait until that was counted."""
    sort = "select count(*) from (select repeat(md5(i::text), 8) from generate_series(1, 300000) as i order by 1 offset 0) as t"
    with server.connect() as watcher:
        counted = "select temp_bytes from pg_stat_database where datname = %s"
        (before,) = watcher.execute(counted, [REPORTS]).fetchone()
        with server.connect(REPORTS) as session:
            session.execute("set work_mem = '64kB'")
            session.execute(sort)
        wait_until(watcher, f"select ({counted}) > %s", [REPORTS, before + more_than])
