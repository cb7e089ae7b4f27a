from dataclasses import replace

import pytest

from conftest import diagnose, session_row
from pgrunbooks.check import Finding, catalogue
from pgrunbooks.checks.locks.blocking_lock import causes, judge
from pgrunbooks.drills import Actors, pid
from pgrunbooks.sandbox import temporary_standby
from pgrunbooks.verdict import rank

CODE = "blocking-lock"
LIMITS = catalogue()[CODE].limits()


def waiters(*seconds, behind="1"):
    return [
        session_row(str(number), blocked_by=(behind,), waiting_s=waited, lock_on="shop.orders", lock_type="relation")
        for number, waited in enumerate(seconds, start=10)
    ]


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context)]


def test_the_drill_is_found_and_healed(prove):
    prove("blocking-lock")


def test_each_root_says_what_it_holds_and_ends_with_what_it_hears(server, build):
    build("create table lab.stock as select i as id from generate_series(1, 2) as i")
    update = "update lab.stock set id = id where id = 1"
    with Actors(server) as stage:
        holders = [
            stage.enter("cron", "select pg_advisory_lock(-42)", "select pg_advisory_lock(-1, 7)"),
            stage.enter("checkout", "begin", update),
        ]
        waiters = [
            stage.block("cron", "select pg_advisory_lock(-42)"),
            stage.block("cron", "select pg_advisory_lock_shared(-1, 7)"),
            stage.block("checkout", update),
        ]
        for waiter in waiters:
            stage.waited(waiter, 0.1)
        found = {
            it.name: it for it in diagnose(server, "blocking-lock", thresholds={CODE: {"warning": "0.1s"}}).findings
        }
        cron, checkout = (found[pid(holder)] for holder in holders)
        assert (
            "is idle, outside of any transaction, and holds a lock on advisory key (-1, 7), advisory key -42"
            in cron.impact
        )
        assert [it.title for it in cron.remedies] == ["End the session; it has no transaction open"]
        assert "holds a lock on a row of lab.stock that they need" in checkout.impact
        stage.watcher.execute(cron.remedies[0].sql)
        stage.wait_until("select count(*) = 1 from pg_locks where not granted")


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [({}, 2), ({"state": "idle"}, 1), ({"wait_event": "ClientWrite"}, 1), ({"state": "idle in transaction"}, 1)],
)
def test_a_cancel_is_offered_only_to_a_root_that_hears_it(changes, remedies, context):
    (finding,) = judge([session_row("1", **changes), *waiters(40)], LIMITS, context)
    assert len(finding.remedies) == remedies


@pytest.mark.parametrize(
    ("waited", "severity"), [(4.9, []), (5, ["warning"]), (29.9, ["warning"]), (30, ["critical"]), (None, [])]
)
def test_the_longest_wait_decides(waited, severity, context):
    assert severities([session_row("1"), *waiters(waited)], context) == severity


@pytest.mark.parametrize(("number", "severity"), [(4, ["warning"]), (5, ["critical"])])
def test_many_that_waited_long_enough_are_critical(number, severity, context):
    assert severities([session_row("1"), *waiters(*[5.0] * number)], context) == severity


def test_many_that_waited_for_moments_are_life(context):
    assert severities([session_row("1"), *waiters(*[0.2] * 50)], context) == []


def test_the_root_is_blamed_and_not_the_waiter_in_the_middle(context):
    rows = [session_row("1"), *waiters(40), session_row("99", blocked_by=("10",), waiting_s=39)]
    (finding,) = judge(rows, LIMITS, context)
    assert (finding.name, finding.involves) == ("1", {"pid:10", "pid:99"})
    assert [row["depth"] for row in finding.evidence] == [0, 1, 2]


def test_two_roots_are_two_findings(context):
    rows = [session_row("1"), session_row("2"), *waiters(40), session_row("20", blocked_by=("2",), waiting_s=6)]
    assert [(it.name, it.severity) for it in judge(rows, LIMITS, context)] == [("1", "critical"), ("2", "warning")]


def test_a_deadlock_that_the_server_has_not_broken_yet_ends(context):
    rows = [session_row("1", blocked_by=("2",), waiting_s=0.5), session_row("2", blocked_by=("1",), waiting_s=0.5)]
    assert severities(rows, context) == []


def test_a_deadlock_that_lasts_has_the_last_to_wait_as_its_root(context):
    rows = [
        session_row("1", blocked_by=("2",), waiting_s=40),
        session_row("2", blocked_by=("1",), waiting_s=30),
        session_row("3", blocked_by=("1",), waiting_s=20),
        session_row("4", blocked_by=("gone",), waiting_s=50),
    ]
    (finding,) = judge(rows, LIMITS, context)
    assert (finding.name, finding.severity, finding.involves) == ("2", "critical", {"pid:1", "pid:2", "pid:3"})
    assert "a deadlock" in finding.impact
    runs = [Finding("warning", "pid", name, "", "", code="long-running-query", area="connections") for name in "123"]
    assert [it.caused_by for it in rank([replace(finding, code=CODE, area="locks"), *runs])] == [
        (),
        *[(f"{CODE}:pid:2",)] * 3,
    ]


def test_on_a_standby_replay_is_a_root_that_only_the_primary_ends_and_a_victim_of_readers(server, build):
    build("create table lab.seen as select 1 as id", "create table lab.last_replayed (id int)")
    limits = {it: {"warning": "0.1s"} for it in (CODE, "ddl-lock-queue", "replication-lag")}
    read = "select id from lab.seen"
    with temporary_standby(server) as standby, Actors(server) as primary, Actors(standby) as stage:
        stage.watcher.execute("alter system set max_standby_streaming_delay = -1")
        stage.watcher.execute("select pg_reload_conf()")
        stage.wait_until("select to_regclass('lab.last_replayed') is not null")

        def diagnosed():
            return diagnose(standby, "locks", "replication", thresholds=limits).findings

        migration = primary.enter(
            "migrate",
            "begin",
            "lock table lab.seen in access exclusive mode",
            "insert into lab.last_replayed values (1)",
        )
        stage.wait_until("select exists (select from pg_locks where mode = 'AccessExclusiveLock' and granted)")
        stage.waited(stage.block("reader", read), 0.1)
        (replay,) = diagnosed()
        assert "replays a transaction of the primary" in replay.impact
        ((holder, *_),) = primary.watcher.execute(replay.remedies[0].sql).fetchall()
        assert str(holder) == pid(migration)
        migration.execute("rollback")
        report = stage.enter("report", "begin", read)
        migration.execute(
            "begin; lock table lab.seen in access exclusive mode; insert into lab.last_replayed values (1)"
        )
        migration.execute("commit")
        stage.wait_until("select exists (select from pg_locks where mode = 'AccessExclusiveLock' and not granted)")
        stage.waited(stage.block("reader", read), 0.1)
        root, lag = diagnosed()
        assert (root.id, len(root.involves)) == (f"{CODE}:pid:{pid(report)}", 2)
        assert (lag.code, lag.caused_by) == ("replication-lag", (root.id,))


def test_a_prepared_transaction_is_a_root_with_both_ways_out(context):
    root = session_row(
        "it's", kind="prepared_transaction", id="prepared_transaction:it's", state="prepared", query=None
    )
    waiter = session_row("10", waiting_s=40, lock_on="shop.orders") | {"blocked_by": ["prepared_transaction:it's"]}
    (finding,) = judge([root, waiter], LIMITS, context)
    assert (finding.kind, finding.name) == ("prepared_transaction", "it's")
    assert [it.sql for it in finding.remedies] == ["rollback prepared 'it''s';", "commit prepared 'it''s';"]


def test_an_autovacuum_that_gives_way_to_nobody_is_let_finish(context):
    root = session_row("1", backend_type="autovacuum worker", query="autovacuum: VACUUM t (to prevent wraparound)")
    (finding,) = judge([root, *waiters(40)], LIMITS, context)
    assert [it.risk for it in finding.remedies] == ["none", "low"]
    assert "pg_stat_progress_vacuum where pid = 1;" in finding.remedies[0].sql


@pytest.mark.parametrize(("severity", "root"), [("info", "blocking-lock"), ("warning", "long-running-query")])
def test_a_note_of_maintenance_is_no_cause_of_its_queue_but_follows_it(severity, root):
    lock = Finding("critical", "pid", "1", "", "", code="blocking-lock", area="locks")
    runs = Finding(severity, "pid", "1", "", "", code="long-running-query", area="connections")
    first, second = rank([runs, lock])
    assert (first.code, second.caused_by) == (root, (first.id,))


def test_nobody_waiting_is_well(context):
    assert severities([], context) == []


def test_a_root_that_hangs_in_its_commit_is_the_missing_standby_s_doing():
    lock = Finding("critical", "pid", "1", "", "", code="blocking-lock")
    commit = Finding(
        "critical", "cluster", "cluster", "", "", code="sync-replica-missing", involves=frozenset({"pid:1"})
    )
    other = replace(commit, involves=frozenset({"pid:2"}))
    assert list(causes(lock, [commit])) == [commit]
    assert list(causes(lock, [other])) == []
