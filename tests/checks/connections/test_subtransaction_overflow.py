import pytest

from conftest import diagnose, session_row
from pgrunbooks.checks.connections.subtransaction_overflow import judge
from pgrunbooks.drills import Actors, drills

CODE = "subtransaction-overflow"


def holding(overflowed, cached=64, **changes):
    return session_row("1", **changes) | {"overflowed": overflowed, "cached_subtransactions": cached}


def findings(sandbox):
    verdict = diagnose(sandbox, CODE)
    return verdict.checks[0].outcome, [(it.kind, it.name, it.severity) for it in verdict.findings]


def test_the_drill_is_found_and_healed_on_16_and_later(newest):
    assert findings(newest) == ("ok", [])
    with drills()[CODE].fault(newest) as incident:
        assert findings(newest) == ("found", [(incident.kind, incident.name, incident.severity)])
    assert findings(newest) == ("ok", [])


def test_an_older_server_cannot_be_asked_and_says_so(oldest):
    with drills()[CODE].fault(oldest):
        (outcome,) = diagnose(oldest, CODE).checks
    assert (outcome.outcome, outcome.reason) == ("skipped", "needs PostgreSQL 16 or later")


def test_savepoints_that_fit_are_well(newest):
    row = "update shop.products set title = title where id = (select min(id) from shop.products)"
    with Actors(newest) as stage:
        stage.enter("import", "begin", *[f"savepoint row_{number}; {row}" for number in range(64)])
        assert findings(newest) == ("ok", [])


def test_savepoints_that_wrote_nothing_are_well(newest):
    with Actors(newest) as stage:
        stage.enter("import", "begin", *[f"savepoint row_{number}; select 1" for number in range(70)])
        assert findings(newest) == ("ok", [])


@pytest.mark.parametrize(("overflowed", "severity"), [(False, []), (None, []), (True, ["warning"])])
def test_what_the_server_says_decides(overflowed, severity, context):
    assert [it.severity for it in judge([holding(overflowed)], {}, context)] == severity


def test_a_role_that_sees_little_still_learns_the_pid(context):
    hidden = dict.fromkeys(("role", "application", "backend_type", "state", "backend_start", "transaction_s", "query"))
    (finding,) = judge([holding(True, **hidden)], {}, context)
    assert finding.title == "Session 1 (other role) holds more than 64 subtransactions"


def test_no_session_is_well(context):
    assert list(judge([], {}, context)) == []
