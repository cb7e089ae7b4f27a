import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.connections.long_running_query import causes, judge, maintenance
from pgrunbooks.drills import drills

LIMITS = catalogue()["long-running-query"].limits()


def running(seconds, **changes):
    return session_row("1", statement_s=seconds, **changes)


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("long-running-query")


def test_who_waits_for_a_lock_is_reported_as_caused_by_its_root(server):
    drill = drills()["blocking-lock"]
    thresholds = {**drill.thresholds, "long-running-query": {"warning": "1s"}}
    with drill.fault(server) as incident:
        verdict = diagnose(server, "connections", "locks", thresholds=thresholds)
    (blocking,) = verdict.about("blocking-lock")
    caused = {it.name: it.caused_by for it in verdict.about("long-running-query")}
    assert caused.pop(incident.name, ()) == ()
    assert caused
    assert set(caused.values()) == {(blocking.id,)}


@pytest.mark.parametrize(
    ("seconds", "severity"), [(299.9, []), (300, ["warning"]), (1799, ["warning"]), (1800, ["critical"]), (None, [])]
)
def test_the_age_of_the_statement_decides(seconds, severity, context):
    assert severities([running(seconds)], context) == severity


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "idle"},
        {"state": "idle in transaction"},
        {"state": None},
        {"backend_type": "autovacuum worker", "query": "autovacuum: VACUUM shop.orders"},
        {"backend_type": "walsender", "query": "START_REPLICATION 0/1"},
        {"backend_type": "logical replication worker"},
        {"kind": "prepared_transaction", "backend_type": None, "state": "prepared", "statement_s": None, "query": None},
    ],
)
def test_only_active_clients_count(changes, context):
    assert severities([running(9999) | changes], context) == []


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("VACUUM (verbose, analyze) shop.orders", "vacuum"),
        ("vacuum full shop.orders", "cluster"),
        ("vacuum (analyze, full) shop.orders", "cluster"),
        ("cluster shop.orders", "cluster"),
        ("/* nightly */ analyze", "analyze"),
        ("analyse shop.orders", "analyze"),
        ("create index concurrently on shop.orders (id)", "create_index"),
        ("create  unique\nindex x on shop.orders (id)", "create_index"),
        ("reindex table shop.orders", "create_index"),
        ("set maintenance_work_mem = '1GB'; create index on shop.orders (id)", "create_index"),
        ("COPY shop.orders (id) TO stdout;", "copy"),
        ("select pg_backup_start('nightly')", "basebackup"),
        ("select pg_catalog.pg_backup_stop(true)", "basebackup"),
        ("explain analyze select 1", None),
        ("with x as (select 1) select * from x -- vacuum", None),
        ("create table copy_of as select 1", None),
        ("select 1; vacuum", None),
        ("vacuums()", None),
        (None, None),
    ],
)
def test_maintenance_is_known_by_how_it_begins(query, kind):
    assert maintenance(running(1, query=query)) == kind


@pytest.mark.parametrize("query", ["vacuum shop.orders", "copy shop.orders to stdout", "reindex table shop.orders"])
def test_maintenance_is_no_more_than_a_note_that_shows_how_far_it_is(query, context):
    (finding,) = judge([running(9999, query=query)], LIMITS, context)
    assert finding.severity == "info"
    assert "from pg_stat_progress_" in finding.remedies[0].sql
    assert severities([running(299, query=query)], context) == []


def test_a_base_backup_is_a_note_though_it_is_no_client_backend(context):
    backup = running(9999, backend_type="walsender", query="BASE_BACKUP ( LABEL ?)", transaction_s=None)
    assert severities([backup], context) == ["info"]


def test_a_victim_is_told_whom_it_waits_for_before_anything_else(context):
    rows = [session_row("7"), running(400, blocked_by=("7",), waiting_s=399, lock_on="shop.orders")]
    (finding,) = judge(rows, LIMITS, context)
    assert finding.remedies[0].sql == "select pg_blocking_pids(1);"
    assert "shop.orders" in finding.impact


def test_sessions_that_wait_behind_it_are_counted(context):
    rows = [running(400), session_row("2", blocked_by=("1",), waiting_s=3)]
    (finding,) = judge(rows, LIMITS, context)
    assert finding.involves == {"pid:2"}
    assert finding.impact.startswith("1 session waits")


@pytest.mark.parametrize(("code", "involved", "blamed"), [
    ("blocking-lock", "pid:1", True),
    ("blocking-lock", "pid:2", False),
    ("ddl-lock-queue", "pid:1", False),
])  # fmt: skip
def test_the_root_in_whose_tree_it_waits_is_blamed(code, involved, blamed, context):
    (finding,) = judge([running(400)], LIMITS, context)
    root = Finding("critical", "pid", "9", "t", "i", code=code, involves=frozenset({involved}))
    assert list(causes(finding, [root])) == ([root] if blamed else [])


@pytest.mark.parametrize("changes", [{"quoted_role": None}, {"query": "vacuum"}])
def test_no_time_out_is_advised_without_a_role_or_against_maintenance(changes, context):
    (finding,) = judge([running(400, **changes)], LIMITS, context)
    assert not any("statement_timeout" in (it.sql or "") for it in finding.remedies)


def test_no_session_is_well(context):
    assert severities([], context) == []
