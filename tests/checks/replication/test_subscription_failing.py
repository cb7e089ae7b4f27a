from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Since, catalogue
from pgrunbooks.checks.replication.subscription_failing import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills.subscription_failing import NAME, SHOP, WAREHOUSE
from pgrunbooks.sandbox import wait_until

CODE = "subscription-failing"
LIMITS = catalogue()[CODE].limits()


def subscription(**changes):
    row = {
        "subscription_oid": 16401,
        "subscription": "orders",
        "quoted_name": "orders",
        "database": "warehouse",
        "is_here": True,
        "enabled": True,
        "apply_errors": 0,
        "sync_errors": 0,
        "stats_reset": None,
        "has_worker": True,
        "worker_s": 3600.0,
        "table": None,
        "table_state": None,
        "copying_s": None,
    }
    return {**row, **changes}


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_once_the_row_is_out_of_the_way_only_its_counter_is_left(server):
    with drills()[CODE].fault(server), server.connect(WAREHOUSE) as warehouse:
        warehouse.execute("delete from orders")
        wait_until(warehouse, "select total = 20 from orders union all select false limit 1", seconds=60)
        (finding,) = diagnose(server, CODE).about(CODE)
        assert (finding.name, "has no worker" in finding.title) == (NAME, False)
        warehouse.execute(finding.remedies[2].sql)
        assert diagnose(server, CODE).about(CODE) == []


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({}, []),
        ({"apply_errors": None, "sync_errors": None}, []),
        ({"apply_errors": 1, "worker_s": 2.0}, ["critical"]),
        ({"apply_errors": 1, "worker_s": None}, ["critical"]),
        ({"apply_errors": 1, "has_worker": False, "worker_s": None}, ["critical"]),
        ({"apply_errors": 1, "enabled": False, "has_worker": False}, ["critical"]),
        ({"apply_errors": 1, "worker_s": 59.9}, ["critical"]),
        ({"apply_errors": 1, "worker_s": 60.0}, ["warning"]),
        ({"sync_errors": 1}, ["warning"]),
        ({"sync_errors": 1, "is_here": False}, ["critical"]),
        ({"sync_errors": 1, "table": "public.orders", "table_state": "d"}, ["critical"]),
        ({"has_worker": False, "worker_s": None}, ["critical"]),
        ({"has_worker": False, "worker_s": None, "enabled": False}, []),
    ],
)
def test_errors_and_a_missing_worker_decide(changes, severity, context):
    assert severities([subscription(**changes)], context) == severity


@pytest.mark.parametrize(("copying_s", "severity"), [(None, []), (3599.9, []), (3600.0, ["warning"])])
def test_a_copy_that_takes_too_long_is_reported(copying_s, severity, context):
    rows = [subscription(table="public.orders", table_state="d", copying_s=copying_s)]
    assert severities(rows, context) == severity


def test_several_tables_are_one_finding_with_the_slowest_in_its_title(context):
    rows = [subscription(table=f"public.t{n}", table_state="d", copying_s=7200.0 / n) for n in (1, 2, 3)]
    (finding,) = judge(rows, LIMITS, context)
    assert "copies public.t1 for 2 h" in finding.title
    assert len(finding.evidence) == 4


def test_one_name_in_two_databases_is_one_finding(context):
    rows = [subscription(apply_errors=1), subscription(apply_errors=1, subscription_oid=7, database="other")]
    assert [it.title.split()[4] for it in judge(rows, LIMITS, context)] == ["warehouse"]


def test_one_that_was_switched_off_is_switched_on_and_its_name_is_quoted(context):
    (finding,) = judge([subscription(apply_errors=1, enabled=False, quoted_name='"Orders"')], LIMITS, context)
    assert finding.remedies[1].sql == 'alter subscription "Orders" enable;'


def test_no_subscription_is_well(context):
    assert severities([], context) == []


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({"apply_errors": 7, "sync_errors": 3}, []),
        ({"apply_errors": 8, "sync_errors": 3}, ["warning"]),
        ({"apply_errors": 8, "sync_errors": 3, "worker_s": 2.0}, ["critical"]),
        ({"apply_errors": 7, "sync_errors": 4}, ["warning"]),
        ({"apply_errors": 7, "sync_errors": 3, "worker_s": 2.0}, []),
        ({"apply_errors": 7, "sync_errors": 3, "has_worker": False, "worker_s": None}, ["critical"]),
        ({"apply_errors": 1, "sync_errors": 0, "subscription_oid": 4711}, ["warning"]),
    ],
)
def test_with_a_history_only_errors_since_the_last_snapshot_count(changes, severity, context):
    since = Since(7200, subscriptions={16401: {"apply_errors": 7, "sync_errors": 3}})
    assert severities([subscription(**changes)], replace(context, since=since)) == severity


def test_the_title_names_the_window_since_the_snapshot(context):
    since = Since(7200, subscriptions={16401: {"apply_errors": 7, "sync_errors": 3}})
    (finding,) = judge([subscription(apply_errors=9, sync_errors=3)], LIMITS, replace(context, since=since))
    assert finding.title == "Subscription orders of database warehouse has failed 2 times at a change in 2 h"


def test_errors_before_the_snapshot_are_old_news_and_those_after_it_are_found(server, remember):
    def found():
        return [(it.name, it.severity) for it in diagnose(server, CODE).about(CODE)]

    remember(hours_ago=5)
    with drills()[CODE].fault(server), server.connect(SHOP) as shop, server.connect(WAREHOUSE) as warehouse:
        assert found() == [(NAME, "critical")]  # the subscription is newer than the snapshot
        warehouse.execute("delete from orders")
        wait_until(warehouse, "select total = 20 from orders union all select false limit 1", seconds=60)
        remember(hours_ago=0.5)
        assert [it[0] for it in found()] == [NAME]  # half an hour is no window
        remember(hours_ago=2)
        assert found() == []
        fail_again(shop, warehouse)
        assert found() == [(NAME, "critical")]
        oid = warehouse.execute("select oid from pg_subscription where subname = %s", [NAME]).fetchone()[0]
        warehouse.execute("delete from orders where id = 4712")
        wait_until(warehouse, "select count(*) = 2 from orders", seconds=60)
        warehouse.execute("select pg_stat_reset_subscription_stats(%s)", [oid])
        assert found() == []
        fail_again(shop, warehouse, id=4713)
        assert found() == [(NAME, "critical")]  # counters that were reset since count from nothing


def fail_again(shop, warehouse, id=4712):
    """Replicate a row that is there already, and wait until that was counted."""
    errors = "select apply_error_count from pg_stat_subscription_stats where subname = %s"
    (before,) = warehouse.execute(errors, [NAME]).fetchone()
    warehouse.execute("insert into orders values (%s, 10)", [id])
    shop.execute("insert into orders values (%s, 20)", [id])
    wait_until(warehouse, f"select ({errors}) > %s", [NAME, before], seconds=60)
