import dataclasses

import pytest

from conftest import diagnose
from pgrunbooks.check import Outcome, Skip, catalogue
from pgrunbooks.checks.meta.statistics_reset_recent import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills.statistics_reset_recent import MIN_AGE_S
from pgrunbooks.sandbox import wait_until
from pgrunbooks.verdict import checks_for

LIMITS = catalogue()["statistics-reset-recent"].limits()
DAY = 86400.0


def counters(age_s):
    return {"database": "shop", "database_reset_at": None, "server_reset_at": None, "counters_age_s": age_s}


def test_the_drill_is_found_and_healed(prove, server):
    with server.connect() as session:  # a new server's counters are younger than the drill's limit
        wait_until(
            session,
            "select clock_timestamp() - coalesce(d.stats_reset, b.stats_reset) > make_interval(secs => %s)"
            " from pg_stat_database d, pg_stat_bgwriter b where d.datname = current_database()",
            [MIN_AGE_S],
        )
    prove("statistics-reset-recent")


@pytest.mark.parametrize(("age_s", "number"), [(0, 1), (30 * DAY - 1, 1), (30 * DAY, 0), (999 * DAY, 0)])
def test_the_age_of_the_counters_decides(age_s, number, context):
    assert [it.severity for it in judge([counters(age_s)], LIMITS, context)] == ["info"] * number


def test_an_unknown_age_is_not_well(context):
    assert [type(it) for it in judge([counters(None)], LIMITS, context)] == [Skip]


def test_no_database_is_well(context):
    assert list(judge([], LIMITS, context)) == []


def test_it_names_the_checks_of_this_run_that_judge_by_counters(context):
    outcomes = tuple(Outcome(code, "ok", 1.0) for code in ("deadlocks", "blocking-lock", "unused-index", "acme-own"))
    (finding,) = judge([counters(DAY)], LIMITS, dataclasses.replace(context, outcomes=outcomes))
    assert finding.evidence[0]["judged_by_counters"] == "deadlocks, unused-index"


def test_without_a_reset_of_the_database_the_servers_counts(server, make_empty_database):
    dsn = make_empty_database()
    usual = {"statistics-reset-recent": {"min_age": "30d"}}
    (finding,) = diagnose(server, "statistics-reset-recent", dsn=dsn, thresholds=usual).findings
    (row,) = finding.evidence
    assert row["database_reset_at"] is None
    assert row["counters_age_s"] > 0


def test_any_runbook_that_needs_counters_asks_it():
    assert "statistics-reset-recent" in [it.code for it in checks_for("locks")]
    assert drills()["statistics-reset-recent"].thresholds
