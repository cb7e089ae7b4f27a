import contextlib

import psycopg
import pytest

from conftest import diagnose
from pgrunbooks.check import Skip
from pgrunbooks.checks.indexes.invalid_index import judge
from pgrunbooks.drills import Actors
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask, checks_for


def found(server):
    return {it.name: it for it in diagnose(server, "invalid-index").findings}


def first_words(finding):
    return [it.sql.split(" index")[0] for it in finding.remedies]


def test_the_drill_is_found_and_healed(prove):
    prove("invalid-index")


def test_no_index_is_well(context):
    assert list(judge([], {}, context)) == []


@pytest.mark.parametrize(
    "change",
    [{"state": "valid"}, {"build": "running"}, {"is_partitioned": True}, {"extension": "postgis"}],
)
def test_only_a_dead_index_that_nobody_builds_is_reported(change, context, index_row):
    assert list(judge([index_row(**{"state": "invalid", **change})], {}, context)) == []


def test_a_build_that_this_role_cannot_see_is_not_taken_for_a_wreck(context, index_row):
    (skip,) = judge([index_row(state="invalid", build="unseen")], {}, context)
    assert isinstance(skip, Skip)
    assert skip.remedy == "grant pg_monitor to watcher;"


@pytest.mark.parametrize(
    ("change", "statements"),
    [
        ({}, ["drop", "reindex"]),
        ({"state": "dead"}, ["drop"]),
        ({"index": "shop.a_idx_ccnew"}, ["drop"]),
        ({"index": 'shop."A_ccold2"'}, ["drop"]),
        ({"constraint_type": "u", "is_unique": True}, ["reindex"]),
        ({"root_index_oid": 9}, ["reindex"]),
    ],
)
def test_the_remedy_is_one_that_the_server_would_accept(change, statements, context, index_row):
    (finding,) = judge([index_row(**{"state": "invalid", **change})], {}, context)
    assert first_words(finding) == statements
    assert all(bool(it.undo) == ("drop" in statements) for it in finding.remedies)  # the server refuses to drop others


@pytest.mark.parametrize(("state", "paid"), [("invalid", True), ("invalid, not maintained", False), ("dead", False)])
def test_the_impact_tells_whether_writes_pay_for_it(state, paid, context, index_row):
    (finding,) = judge([index_row(state=state)], {}, context)
    assert ("goes on maintaining" in finding.impact) == paid


def test_both_remedies_work_on_odd_names(server, build):
    build(
        'create schema "Odd ""Schéma"',
        'create table "Odd ""Schéma"."T" ("B b" integer)',
        'insert into "Odd ""Schéma"."T" values (1), (1)',
    )
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        build('create unique index concurrently "K\'s" on "Odd ""Schéma"."T" ("B b")')
    build('analyze "Odd ""Schéma"."T"')  # which takes the table for one without indexes
    (finding,) = found(server).values()
    assert finding.name == '"Odd ""Schéma"."K\'s"'
    build('delete from "Odd ""Schéma"."T"', finding.remedies[1].sql)
    assert found(server) == {}
    build(finding.remedies[0].sql)


def test_a_cancelled_reindex_leaves_a_copy_that_is_to_be_dropped(server, build):
    build("create table t (a integer)", "create index t_a on t (a)", "insert into t values (1)")
    with Actors(server) as stage:
        stage.enter("worker", "begin", "update lab.t set a = 2")
        reindex = stage.block("dba", "reindex index concurrently lab.t_a")
        assert found(server) == {}  # it is being built
        reindex.cancel_safe()
        stage.wait_until("select state = 'idle' from pg_stat_activity where pid = %s", reindex.info.backend_pid)
    (finding,) = found(server).values()
    assert finding.name == "lab.t_a_ccnew"
    assert "REINDEX CONCURRENTLY left it behind" in finding.title
    build(*(it.sql for it in finding.remedies))
    assert found(server) == {}


def test_a_build_seen_through_its_lock_alone_is_no_wreck(server, build):
    build("create table t (a integer)", "insert into t values (1)", "create role onlooker login")
    target = Target(name="tested", dsn=server.url(user="onlooker"))
    try:
        with Actors(server) as stage:
            stage.enter("worker", "begin", "update lab.t set a = 2")
            stage.block("dba", "create index concurrently t_a on lab.t (a)")
            assert found(server) == {}
            with open_session(target) as session:
                (outcome,) = ask(session, checks_for("invalid-index"), runbook="check").checks
        assert (outcome.outcome, outcome.remedy) == ("skipped", "grant pg_monitor to onlooker;")
    finally:
        build("drop role onlooker")


def test_a_partitioned_index_that_waits_for_its_children_is_no_wreck(server, build):
    build(
        "create table e (at integer) partition by range (at)",
        "create table e1 partition of e for values from (1) to (2)",
        "create index e_at on only e (at)",
    )
    assert found(server) == {}
