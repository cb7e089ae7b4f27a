import psycopg
import pytest

from conftest import diagnose
from pgrunbooks.checks.integrity.checksum_failure import judge
from pgrunbooks.drills import drills


def database(failures, name="shop"):
    return {
        "database": name,
        "is_current": True,
        "checksum_failures": failures,
        "last_failure": "2026-11-01T00:00:00+00:00" if failures else None,
        "last_failure_s": 60.0 if failures else None,
        "counted_since": None,
    }


def found(rows, context):
    return [(it.kind, it.name, it.severity) for it in judge(rows, {}, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("checksum-failure")


def test_the_page_is_really_damaged_and_the_counter_goes_as_the_remedy_says(server):
    drill = drills()["checksum-failure"]
    with drill.fault(server) as incident, server.connect(incident.name) as session:
        with pytest.raises(psycopg.errors.DataCorrupted, match="invalid page in block 1"):
            session.execute("select count(*) from entries")
        (finding,) = diagnose(server, drill.code).findings
        for remedy in finding.remedies:
            if remedy.sql:
                session.execute(remedy.sql)
        assert diagnose(server, drill.code).findings == []


@pytest.mark.parametrize(("failures", "severity"), [(None, []), (0, []), (1, ["critical"]), (99, ["critical"])])
def test_one_failure_is_enough(failures, severity, context):
    assert [it[2] for it in found([database(failures)], context)] == severity


def test_what_all_databases_share_has_a_counter_that_nobody_can_reset(context):
    (finding,) = judge([database(2, name=None)], {}, context)
    assert (finding.kind, finding.name) == ("database", "cluster")
    assert all("pg_stat_reset" not in (it.sql or "") for it in finding.remedies)


def test_no_database_is_well(context):
    assert found([], context) == []
