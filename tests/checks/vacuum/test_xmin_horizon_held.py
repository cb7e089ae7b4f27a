import subprocess

import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import catalogue
from pgrunbooks.checks.vacuum.xmin_horizon_held import judge
from pgrunbooks.drills import Actors, drills, pid
from pgrunbooks.sandbox import temporary_standby

CODE = "xmin-horizon-held"
LIMITS = catalogue()[CODE].limits()
AT_ONCE = {CODE: {"warning": "0", "critical": "10h", "warning_xids": "1"}}
WRITE = "update shop.products set title = title where id = 1"
SLOW = ("set vacuum_cost_delay = 100", "set vacuum_cost_limit = 1")


def holder(held_s, transactions=5, **changes):
    own = {"held_s": held_s, "transactions": transactions, "holds": "rows", "is_exempt": False, "is_active": None}
    return {**session_row("1"), "pid": 1, **own, **changes}


def slot(transactions, **changes):
    words = {"kind": "slot", "name": "cdc", "state": "inactive", "application": None, "role": None, "holds": "catalogs"}
    return holder(None, transactions, **{**words, "is_active": False, **changes})


def found(rows, context):
    return [(it.kind, it.name, it.severity) for it in judge(rows, LIMITS, context)]


def held(server, **settings):
    verdict = diagnose(server, CODE, thresholds=AT_ONCE, **settings)
    assert verdict.checks[0].outcome in ("ok", "found"), verdict.checks[0]
    return [(it.kind, it.name) for it in verdict.findings]


def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_whoever_has_written_holds_it_without_a_snapshot(server):
    with Actors(server) as stage:
        writer = stage.enter("import", "begin", WRITE)
        stage.enter("later", "begin isolation level repeatable read", "select 1")
        assert held(server) == [("pid", pid(writer))]


def test_a_session_that_only_idles_in_a_transaction_holds_nothing(server):
    with Actors(server) as stage:
        stage.enter("reader", "begin", "select count(*) from shop.products")
        assert held(server) == []


def test_a_prepared_transaction_holds_it(server):
    with drills()["orphaned-prepared-transaction"].fault(server) as incident:
        assert held(server) == [("prepared_transaction", incident.name)]


def test_a_slot_holds_it_by_its_catalog_xmin(server):
    with Actors(server) as stage:
        stage.heal("select pg_drop_replication_slot('drill_cdc')")
        stage.watcher.execute("select pg_create_logical_replication_slot('drill_cdc', 'pgoutput')")
        stage.enter("shop", WRITE)
        verdict = diagnose(server, CODE, thresholds=AT_ONCE)
        (finding,) = verdict.findings
        assert (finding.kind, finding.name, finding.evidence[0]["holds"]) == ("slot", "drill_cdc", "catalogs")
        for remedy in finding.remedies:
            stage.watcher.execute(remedy.sql)
        stage.watcher.execute("select pg_create_logical_replication_slot('drill_cdc', 'pgoutput')")


def test_a_standby_that_reports_its_queries_holds_it(server):
    with temporary_standby(server) as standby, Actors(server) as stage, Actors(standby) as away:
        away.watcher.execute("alter system set hot_standby_feedback = on")
        away.watcher.execute("alter system set wal_receiver_status_interval = '1s'")
        away.watcher.execute("select pg_reload_conf()")
        away.enter("report", "begin isolation level repeatable read", "select count(*) from shop.products")
        stage.wait_until("select exists (select from pg_stat_replication where backend_xmin is not null)")
        stage.enter("shop", WRITE)
        assert held(server) == [("standby", "walreceiver")]
        (outcome,) = diagnose(standby, CODE, thresholds=AT_ONCE).checks
        assert outcome.reason == "this server is a standby; ask its primary"


def test_a_long_vacuum_holds_nothing(server):
    with Actors(server) as stage:
        vacuum = stage.enter("maintenance", *SLOW)
        vacuum.pgconn.send_query(b"/* nightly */ vacuum (freeze) shop.order_items")
        stage.wait_until("select exists (select from pg_stat_progress_vacuum where pid = %s)", vacuum.info.backend_pid)
        stage.wait_until(
            "select backend_xmin is not null from pg_stat_activity where pid = %s", vacuum.info.backend_pid
        )
        assert held(server) == []


@pytest.mark.parametrize(
    ("statement", "holds"),
    [
        ("vacuum shop.products", False),
        ("-- tidy up\n VACUUM (verbose, full off) shop.products", False),
        ("vacuum full shop.products", True),
        ("vacuum (verbose, full) shop.products", True),
    ],
)
def test_a_vacuum_that_waits_holds_it_only_if_it_is_full(statement, holds, server):
    with Actors(server) as stage:
        stage.enter("other", "begin", "lock table shop.products in share update exclusive mode")
        vacuum = stage.block("maintenance", statement)
        assert held(server) == ([("pid", pid(vacuum))] if holds else [])


@pytest.mark.parametrize(("index", "holds"), [("(id slow_ops)", False), ("(slow(id))", True)])
def test_an_index_built_concurrently_holds_it_only_with_an_expression(index, holds, server, build):
    build(
        "create function slow(i int) returns int language plpgsql immutable as"
        " 'begin perform pg_sleep(0.001); return i; end'",
        "create function slow_cmp(int, int) returns int language plpgsql immutable as"
        " 'begin perform pg_sleep(0.001); return btint4cmp($1, $2); end'",
        "create operator class slow_ops for type int4 using btree as operator 1 <, operator 2 <=, operator 3 =,"
        " operator 4 >=, operator 5 >, function 1 slow_cmp(int, int)",
        "create table t as select (i * 7919) % 20011 as id from generate_series(1, 20000) as i",
    )
    with Actors(server) as stage:
        migration = stage.enter("migration", "set search_path to lab")
        migration.pgconn.send_query(f"create index concurrently on t {index}".encode())
        stage.wait_until(
            "select exists (select from pg_stat_progress_create_index join pg_stat_activity using (pid)"
            " where pid = %s and phase like 'building index%%' and backend_xmin is not null)",
            migration.info.backend_pid,
        )
        assert held(server) == ([("pid", pid(migration))] if holds else [])


def test_a_nightly_dump_is_no_incident(server):
    with Actors(server) as stage:
        stage.enter("shop", "begin", "lock table shop.products in access exclusive mode")
        stage.enter("later", WRITE.replace("products", "customers").replace("title = title", "email = email"))
        command = [str(server.programs / "pg_dump"), "-t", "shop.products", server.url()]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dump:
            stage.wait_until(
                "select exists (select from pg_stat_activity where application_name = 'pg_dump'"
                " and wait_event_type = 'Lock' and backend_xmin is not null)"
            )
            verdict = diagnose(server, CODE)
            dump.terminate()
        assert verdict.findings == []


def test_a_holder_that_idles_is_explained_by_that(server):
    thresholds = {**AT_ONCE, "idle-in-transaction": {"warning": "0"}}
    with Actors(server) as stage:
        writer = stage.enter("import", "begin", WRITE)
        verdict = diagnose(server, CODE, "idle-in-transaction", thresholds=thresholds)
        assert [(it.code, it.name) for it in verdict.findings] == [
            ("idle-in-transaction", pid(writer)),
            (CODE, pid(writer)),
        ]
        assert verdict.findings[1].caused_by == (verdict.findings[0].id,)
        stage.watcher.execute(verdict.findings[1].remedies[0].sql)
        stage.wait_until("select not exists (select from pg_stat_activity where pid = %s)", writer.info.backend_pid)
        assert held(server) == []


@pytest.mark.parametrize(
    ("seconds", "severity"), [(3599, []), (3600, ["warning"]), (21599, ["warning"]), (21600, ["critical"]), (None, [])]
)
def test_its_age_decides(seconds, severity, context):
    assert [it[2] for it in found([holder(seconds)], context)] == severity


@pytest.mark.parametrize(
    ("transactions", "severity"),
    [
        (9_999_999, []),
        (10_000_000, ["warning"]),
        (99_999_999, ["warning"]),
        (100_000_000, ["critical"]),
        (None, []),
    ],
)
def test_or_the_transactions_since(transactions, severity, context):
    assert [it[2] for it in found([holder(1, transactions)], context)] == severity
    assert [it[2] for it in found([slot(transactions)], context)] == severity


def test_only_the_oldest_is_reported(context):
    rows = [holder(4000, 10, name="1"), holder(5000, 900, name="2"), holder(9000, 900, name="3")]
    assert found(rows, context) == [("pid", "3", "warning")]
    assert found([*rows, slot(2_000)], context) == [("pid", "3", "warning")]
    assert found([*rows, slot(20_000_000)], context) == [("slot", "cdc", "warning")]
    assert found([*rows, slot(200_000_000)], context) == [("slot", "cdc", "critical")]


def test_a_dump_is_judged_by_what_it_costs_and_not_by_its_age(context):
    assert found([holder(90_000, application="pg_dump")], context) == [("pid", "1", "info")]
    assert found([holder(90_000, 10_000_000, application="pg_dump")], context) == [("pid", "1", "warning")]


def test_a_vacuum_or_a_safe_build_is_passed_over(context):
    assert found([holder(90_000, 10**9, is_exempt=True), holder(4000, name="2")], context) == [("pid", "2", "warning")]


def test_the_way_out_fits_the_holder(context):
    def remedies(row):
        (finding,) = judge([row], LIMITS, context)
        return [it.sql.split("(")[0] if it.sql else None for it in finding.remedies]

    assert remedies(holder(4000, state="active")) == ["select pg_cancel_backend", "select pg_terminate_backend"]
    gone = holder(4000, kind="prepared_transaction", name="it's")
    assert remedies(gone) == ["rollback prepared 'it''s';", "commit prepared 'it''s';"]
    assert remedies(slot(10**8))[1] == "select pg_drop_replication_slot"
    assert remedies(slot(10**8, is_active=True))[1] is None
    standby = holder(None, 10**8, kind="standby", name="replica", application="replica")
    assert remedies(standby)[1].startswith("alter system set hot_standby_feedback = off;")
    assert remedies(slot(10**8, application="replica"))[1].startswith("alter system set hot_standby_feedback = off;")


def test_no_holder_is_well(context):
    assert found([], context) == []
