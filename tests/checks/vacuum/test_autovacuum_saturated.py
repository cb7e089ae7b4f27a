import pytest

from conftest import diagnose
from pgrunbooks.check import Context, catalogue
from pgrunbooks.checks.vacuum.autovacuum_saturated import judge
from pgrunbooks.drills import drills
from pgrunbooks.targets import Target

CODE = "autovacuum-saturated"
LIMITS = catalogue()[CODE].limits()


def waiting(dead, number, **changes):
    return [dead(50_000, table=f"shop.t{n}", **changes) for n in range(number)]


def found(rows, context):
    return [(it.kind, it.name, it.severity) for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_tables_that_wait_are_named_and_those_at_work_are_not(server):
    with drills()[CODE].fault(server):
        verdict = diagnose(server, CODE, "vacuum-overdue")
        (finding,) = verdict.about(CODE)
        named = {row["table"] for row in finding.evidence if "table" in row}
        assert named == {it.name for it in verdict.about("vacuum-overdue")}
        assert len(named) == 5
        jobs = [row["worker"] for row in finding.evidence if "worker" in row]
        assert all(job.startswith("autovacuum: VACUUM sensors.") for job in jobs)
        with server.connect() as session:
            for statement in finding.remedies[2].sql.splitlines():
                session.execute(statement)
            session.execute("alter system reset autovacuum_vacuum_cost_limit")
            session.execute("select pg_reload_conf()")


@pytest.mark.parametrize(("number", "hits"), [(0, 0), (2, 0), (3, 1), (9, 1)])
def test_so_many_tables_must_wait(number, hits, dead, context):
    assert found(waiting(dead, number), context) == [("cluster", "cluster", "warning")] * hits


@pytest.mark.parametrize(("running", "allowed", "hits"), [(0, 3, 0), (2, 3, 0), (3, 3, 1), (4, 3, 1)])
def test_every_worker_must_be_busy(running, allowed, hits, dead, context):
    rows = waiting(dead, 3, workers_running=running, workers_allowed=allowed)
    assert len(found(rows, context)) == hits


def test_what_waits_is_what_vacuum_overdue_says_for_this_target(dead, context):
    strict = Target.model_validate({"name": "t", "dsn": "", "thresholds": {"vacuum-overdue": {"factor": "3"}}})
    assert found(waiting(dead, 5), Context(context.server, strict)) == []
    assert found(waiting(dead, 5, is_vacuumed_now=True), context) == []


@pytest.mark.parametrize(("own", "general", "larger"), [(-1, 200, 1000), (400, 200, 2000), (10_000, 200, None)])
def test_the_speed_is_raised_within_its_range_and_can_be_undone(own, general, larger, dead, context):
    (finding,) = judge(waiting(dead, 3, own_cost_limit=own, cost_limit=general), LIMITS, context)
    changes = [it for it in finding.remedies if "cost_limit" in (it.sql or "")]
    assert [it.sql.splitlines()[0] for it in changes] == (
        [f"alter system set autovacuum_vacuum_cost_limit = {larger};"] if larger else []
    )
    assert all(f"= {own};" in it.undo for it in changes)
