import pytest

from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.connections.connection_saturation import causes, judge

LIMITS = catalogue()["connection-saturation"].limits()


def slots(used, maximum=103, reserved=3):
    row = {"role": "shop", "application": "pool", "state": "idle", "sessions": used, "used": used}
    return [{**row, "max_connections": maximum, "reserved": reserved}]


def test_the_drill_is_found_and_healed(prove):
    prove("connection-saturation")


@pytest.mark.parametrize(("used", "severity"), [(79, None), (80, "warning"), (94, "warning"), (95, "critical")])
def test_the_share_of_the_slots_decides(used, severity, context):
    findings = list(judge(slots(used), LIMITS, context))
    assert [it.severity for it in findings] == ([severity] if severity else [])


def test_nobody_connected_is_well(context):
    assert list(judge([], LIMITS, context)) == []


def test_the_largest_consumer_is_named(context):
    (finding,) = judge(slots(90), LIMITS, context)
    assert "application pool, with 90 sessions" in finding.impact


@pytest.mark.parametrize(
    ("code", "waiters", "blamed"),
    [
        ("blocking-lock", 44, True),
        ("blocking-lock", 43, False),
        ("sync-replica-missing", 45, True),
        ("sync-replica-missing", 44, False),
    ],
)
def test_what_holds_half_of_the_used_slots_is_blamed(code, waiters, blamed, context):
    (finding,) = judge(slots(90), LIMITS, context)
    queue = Finding("critical", "pid", "1", "t", "i", code=code, involves=frozenset(map(str, range(waiters))))
    assert list(causes(finding, [queue])) == ([queue] if blamed else [])
