import dataclasses

import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.queries.temp_file_spill import judge
from pgrunbooks.drills import drills

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
