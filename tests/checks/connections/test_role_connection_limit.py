import pytest

from conftest import diagnose
from pgrunbooks.check import catalogue
from pgrunbooks.checks.connections.role_connection_limit import judge

LIMITS = catalogue()["role-connection-limit"].limits()


def consumer(used, *, name="shop", limit=100, kind="role", sessions=None, **changes):
    row = {
        "kind": kind,
        "name": name,
        "quoted_name": name,
        "condition": f"usename = '{name}'",
        "connection_limit": limit,
        "used": used,
        "sessions": sessions or used,
        "role": "shop",
        "database": "shop",
        "application": "pool",
        "state": "idle",
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("role-connection-limit")


@pytest.mark.parametrize("statement", ["alter database {} connection limit 2", "alter role {} connection limit 2"])
def test_a_database_is_judged_and_a_superuser_is_not(server, statement):
    with server.connect("postgres") as connection:
        connection.execute("create role strange superuser login")
        connection.execute('create database "Strange Shop"')
        connection.execute(statement.format('"Strange Shop"' if "database" in statement else "strange"))
        try:
            with server.connect("Strange Shop", user="strange"), server.connect("Strange Shop", user="strange"):
                findings = diagnose(server, "role-connection-limit").findings
        finally:
            connection.execute('drop database "Strange Shop" with (force)')
            connection.execute("drop role strange")
    found = [(it.kind, it.name, it.severity, it.remedies[1].sql) for it in findings]
    raised = ("database", "Strange Shop", "critical", 'alter database "Strange Shop" connection limit 4;')
    assert found == ([raised] if "database" in statement else [])


@pytest.mark.parametrize(("used", "severity"), [(79, []), (80, ["warning"]), (94, ["warning"]), (95, ["critical"])])
def test_the_share_of_the_limit_decides(used, severity, context):
    assert severities([consumer(used)], context) == severity


def test_one_object_is_one_finding_that_names_the_largest_consumer(context):
    rows = [consumer(90, sessions=60), consumer(90, sessions=30, application=None), consumer(80, kind="database")]
    role, database = judge(rows, LIMITS, context)
    assert (role.kind, len(role.evidence), database.kind, len(database.evidence)) == ("role", 2, "database", 1)
    assert "application pool of role shop, with 60 sessions" in role.impact


def test_a_consumer_without_a_name_is_called_unnamed(context):
    (finding,) = judge([consumer(90, application=None)], LIMITS, context)
    assert "application unnamed" in finding.impact


def test_the_limit_can_be_put_back(context):
    (finding,) = judge([consumer(90, quoted_name='"Shop"')], LIMITS, context)
    raise_it = finding.remedies[1]
    assert (raise_it.sql, raise_it.undo) == (
        'alter role "Shop" connection limit 151;',
        'alter role "Shop" connection limit 100;',
    )


def test_no_limits_are_well(context):
    assert severities([], context) == []
