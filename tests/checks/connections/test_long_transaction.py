from dataclasses import replace

import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.connections.long_transaction import judge
from pgrunbooks.drills import drills
from pgrunbooks.targets import Target

LIMITS = catalogue()["long-transaction"].limits()


def working(seconds, **changes):
    """Return a session whose transaction is that old and whose statement began a moment ago."""
    after = None if seconds is None else seconds - 1
    return session_row("1", transaction_s=seconds, statement_after_s=after, **changes)


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("long-transaction")


@pytest.mark.parametrize("other", ["idle-in-transaction", "long-running-query"])
def test_it_leaves_the_drills_of_its_siblings_to_them(server, other):
    drill = drills()[other]
    thresholds = {**drill.thresholds, "long-transaction": {"warning": "100ms"}}
    with drill.fault(server):
        assert [it.code for it in diagnose(server, "connections", thresholds=thresholds).findings] == [other]


@pytest.mark.parametrize(
    ("seconds", "severity"), [(899.9, []), (900, ["warning"]), (3599, ["warning"]), (3600, ["critical"]), (None, [])]
)
def test_the_age_of_the_transaction_decides(seconds, severity, context):
    assert severities([working(seconds)], context) == severity


@pytest.mark.parametrize(("idle_s", "severity"), [(299, ["critical"]), (300, []), (1800, [])])
def test_who_idles_long_enough_is_the_siblings(idle_s, severity, context):
    row = working(4000, state="idle in transaction", state_s=idle_s)
    assert severities([row], context) == severity


def test_who_idles_and_blocks_is_the_siblings(context):
    rows = [
        working(4000, state="idle in transaction", state_s=10),
        session_row("2", blocked_by=("1",), waiting_s=5.0),
    ]
    assert severities(rows, context) == []


@pytest.mark.parametrize(("statement_s", "severity"), [(299, ["critical"]), (300, [])])
def test_who_runs_one_statement_long_enough_is_the_siblings(statement_s, severity, context):
    assert severities([working(4000, statement_s=statement_s)], context) == severity


@pytest.mark.parametrize(("after", "severity"), [(-5, []), (0.99, []), (1, ["critical"]), (None, ["critical"])])
def test_a_transaction_that_is_one_statement_is_the_siblings_whatever_its_limits(after, severity, context):
    patient = Target(name="tested", dsn="", thresholds={"long-running-query": {"warning": "1d", "critical": "2d"}})
    row = working(4000, statement_s=4000) | {"statement_after_s": after}
    assert severities([row], replace(context, target=patient)) == severity


def test_one_statement_that_has_ended_is_not_one_that_runs(context):
    row = working(4000, state="idle in transaction", state_s=10) | {"statement_after_s": 0}
    assert severities([row], context) == ["critical"]


@pytest.mark.parametrize("changes", [{"application": "pg_dump"}, {"query": "create index on shop.orders (id)"}])
def test_dumps_and_maintenance_are_notes(changes, context):
    assert severities([working(9999, **changes)], context) == ["info"]
    assert severities([working(899, **changes)], context) == []


@pytest.mark.parametrize("kind", ["autovacuum worker", "walsender", "logical replication worker", None])
def test_only_client_backends_count(kind, context):
    assert severities([working(9999, backend_type=kind)], context) == []


@pytest.mark.parametrize(("version", "offered"), [(160000, False), (170000, True)])
def test_the_time_out_for_transactions_is_advised_where_there_is_one(version, offered, context):
    context = replace(context, server=replace(context.server, version_num=version))
    (finding,) = judge([working(4000)], LIMITS, context)
    statements = [it.sql for it in finding.remedies if it.sql]
    assert ("alter role shop set transaction_timeout = '3600s';" in statements) == offered


def test_who_waits_behind_it_is_counted(context):
    rows = [working(1000), session_row("2", blocked_by=("1",), waiting_s=3)]
    (finding,) = judge(rows, LIMITS, context)
    assert finding.involves == {"pid:2"}
    assert finding.impact == "1 session waits behind its locks."


def test_no_session_is_well(context):
    assert severities([], context) == []
