import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from conftest import diagnose
from pgrunbooks.check import Context
from pgrunbooks.checks.integrity.index_corruption import causes, check, deepen, judge
from pgrunbooks.drills import Actors, drills
from pgrunbooks.errors import SandboxError
from pgrunbooks.sandbox import temporary_standby, wait_until
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask

CODE = "index-corruption"
INDEX = "shop.parts_number_idx"


def relation(name="shop.parts_number_idx", **changes):
    row = {
        "kind": "index",
        "oid": 4,
        "heap_oid": 3,
        "name": name,
        "table": "shop.parts",
        "is_toast": False,
        "estimated_bytes": 8192,
        "is_exclusion": False,
        "is_locked": False,
        "schema": "public",
        "quoted_schema": "public",
        "function": "public.bt_index_check",
        "arguments": "regclass, boolean",
        "may_execute": True,
        "error": None,
        "details": [],
        "unchecked": None,
        "is_late": False,
    }
    return {**row, **changes}


def names(verdict):
    return [(it.kind, it.name) for it in verdict.findings]


def asked(sandbox, *, question=check, database="shop", user="postgres", **settings):
    """Ask a check of a sandbox, as a target with these settings would."""
    target = Target.model_validate({"name": "tested", "dsn": sandbox.url(database, user), **settings})
    with open_session(target) as session:
        return ask(session, [question], runbook="check")


@pytest.fixture
def amcheck(server):
    """Install amcheck in a schema whose name needs care, for as long as a test lasts."""
    with server.connect() as dba:
        dba.execute('create schema "Tools 100%%s"')
        dba.execute('create extension amcheck schema "Tools 100%%s"')
        yield dba
        dba.execute("drop extension if exists amcheck")
        dba.execute('drop schema "Tools 100%%s"')


@pytest.fixture
def watcher(server, amcheck):
    """Return a role that may log in and nothing else."""
    amcheck.execute('create role "a Watcher\'s" login')
    yield "a Watcher's"
    amcheck.execute('drop owned by "a Watcher\'s"')
    amcheck.execute('drop role "a Watcher\'s"')


@pytest.mark.usefixtures("amcheck")
def test_the_drill_is_found_and_healed(prove):
    prove(CODE)


def test_the_drill_brings_amcheck_along_and_takes_it_away(server):
    with drills()[CODE].fault(server):
        assert names(diagnose(server, CODE)) == [("index", INDEX)]
    (outcome,) = diagnose(server, CODE).checks
    assert (outcome.outcome, outcome.remedy) == ("skipped", "create extension amcheck;")


def test_the_remedy_heals_it_and_the_finding_says_what_amcheck_said(server, amcheck):
    with drills()[CODE].fault(server):
        (finding,) = diagnose(server, CODE).findings
        assert finding.title == (
            f'Index {INDEX} of shop.parts does not pass amcheck: item order invariant violated for index "parts_number_idx"'
        )
        assert any("tid=" in row.get("detail", "") for row in finding.evidence)
        amcheck.execute(finding.remedies[0].sql)
        assert diagnose(server, CODE).status == "ok"


@pytest.mark.usefixtures("amcheck")
def test_an_entry_that_the_index_lacks_is_found(server):
    with Actors(server) as stage:
        stage.heal("drop table if exists shop.half_indexed")
        stage.watcher.execute("create table shop.half_indexed as select i as id from generate_series(1, 10) as i")
        stage.watcher.execute("create index half_idx on shop.half_indexed (id) where id > 5")
        stage.watcher.execute("update pg_index set indpred = null where indexrelid = 'shop.half_idx'::regclass")
        (finding,) = diagnose(server, CODE).findings
        assert (finding.kind, finding.name) == ("index", "shop.half_idx")
        assert "lacks matching index tuple" in finding.title


@pytest.fixture
def damaged_table(server, amcheck):
    """Make a table with an index and a row of a transaction that never was; the page's checksum is right."""
    amcheck.execute("create table shop.damaged (id integer primary key, note text)")
    amcheck.execute("insert into shop.damaged select i, 'x' from generate_series(1, 500) as i")
    amcheck.execute("update pg_class set relfrozenxid = '4000000'::xid where oid = 'shop.damaged'::regclass")
    yield "shop.damaged"
    amcheck.execute("drop table shop.damaged")


def test_a_table_that_does_not_pass_is_a_finding_of_its_own_and_its_index_is_not(server, damaged_table, amcheck):
    (finding,) = diagnose(server, CODE).findings
    assert (finding.kind, finding.name, finding.severity) == ("table", damaged_table, "critical")
    assert finding.title.startswith(f"Table {damaged_table} does not pass amcheck: ")
    assert finding.evidence[1]["detail"].startswith("block 0 item 1: ")
    assert amcheck.execute(finding.remedies[0].sql).rowcount > 0
    assert all("reindex index" not in (remedy.sql or "") for remedy in finding.remedies)


@pytest.fixture
def torn_database(server):
    """Make a database with an indexed table, one page of which fails its checksum; its copy has no page in the cache."""
    with Actors(server) as stage:
        stage.heal(*(f"drop database if exists {name} with (force)" for name in ("torn", "whole")))
        stage.watcher.execute("create database whole")
        with server.connect("whole") as inside:
            inside.execute("create extension amcheck")
            inside.execute("create table entries as select i as id from generate_series(1, 5000) as i")
            inside.execute("create index entries_idx on entries (id)")
            (file,) = inside.execute("select pg_relation_filenode('entries')").fetchone()
        stage.watcher.execute("create database torn template whole strategy file_copy")
        (oid,) = stage.watcher.execute("select oid from pg_database where datname = 'torn'").fetchone()
        with (server.data / "base" / str(oid) / str(file)).open("r+b") as damaged:
            damaged.seek(8192 * 3 // 2)
            damaged.write(b"a cosmic ray")
        yield "torn"


def test_a_page_that_fails_its_checksum_is_found_in_the_table_and_not_in_its_index(server, torn_database):
    verdict = asked(server, database=torn_database)
    assert names(verdict) == [("table", "public.entries")]
    assert "invalid page in block 1" in verdict.findings[0].title
    assert verdict.checks[0].reason is None


@pytest.mark.usefixtures("amcheck")
def test_toast_is_asked_and_what_cannot_be_asked_is_not(server):
    with Actors(server) as stage, open_session(Target(name="t", dsn=server.url())) as session:
        statements = (
            "create table shop.long_texts (id integer primary key, note text, tags text[])",
            "create index on shop.long_texts using gin (tags)",
            "create table shop.parted (id integer primary key) partition by range (id)",
            "create table shop.parted_1 partition of shop.parted for values from (0) to (9)",
            "create index unfinished_idx on shop.long_texts (note)",
            "update pg_index set indisvalid = false where indexrelid = 'shop.unfinished_idx'::regclass",
        )
        for statement in statements:
            stage.watcher.execute(statement)
        stage.heal("drop table shop.long_texts, shop.parted")
        stage.enter("another", "create temporary table mine (id integer primary key)")
        rows = session.rows(check.sql_for(session.server.major))
    found = {(row["kind"], row["name"]) for row in rows if row["table"] in ("shop.long_texts", "shop.parted_1")}
    toast = {(kind, "_index" if name.endswith("_index") else "") for kind, name in found if name.startswith("pg_toast")}
    assert toast == {("table", ""), ("index", "_index")}
    assert {it for it in found if not it[1].startswith("pg_toast")} == {
        ("table", "shop.long_texts"),
        ("index", "shop.long_texts_pkey"),
        ("table", "shop.parted_1"),
        ("index", "shop.parted_1_pkey"),
    }
    assert not [row["name"] for row in rows if "mine" in row["name"] or row["table"] == "shop.parted"]
    pages = [row["estimated_bytes"] for row in rows if row["kind"] == "table"]
    assert pages == sorted(pages)


@pytest.mark.usefixtures("amcheck")
def test_what_somebody_has_locked_is_named_and_the_rest_is_asked(server):
    with drills()[CODE].fault(server), Actors(server) as stage:
        stage.enter("migration", "begin", "lock table shop.orders in access exclusive mode")
        verdict = diagnose(server, CODE)
    (outcome,) = verdict.checks
    assert (names(verdict), outcome.outcome) == ([("index", INDEX)], "found")
    assert "locked, or about to be, in ACCESS EXCLUSIVE mode: " in outcome.reason
    assert "shop.orders, shop.orders_" in outcome.reason


@pytest.mark.usefixtures("amcheck")
def test_a_lock_that_comes_after_the_look_costs_its_lock_timeout_alone(server):
    with open_session(Target(name="t", dsn=server.url(), lock_timeout="50ms")) as session, Actors(server) as stage:
        rows = session.rows(check.sql_for(session.server.major))
        stage.enter("migration", "begin", "lock table shop.orders in access exclusive mode")
        answers = deepen(session, rows, {}, 60)
    unchecked = {row["table"]: row["unchecked"] for row in answers if row["unchecked"]}
    assert unchecked == {"shop.orders": "locked by somebody else"}


@pytest.mark.usefixtures("amcheck")
def test_what_is_dropped_after_the_look_is_no_fault(server):
    with open_session(Target(name="t", dsn=server.url())) as session, server.connect() as dba:
        dba.execute("create table shop.brief (id integer primary key)")
        rows = session.rows(check.sql_for(session.server.major))
        dba.execute("drop table shop.brief")
        assert [row["name"] for row in deepen(session, rows, {}, 60) if row["error"] or row["unchecked"]] == []


def test_the_grants_that_the_skip_names_are_enough(server, amcheck, watcher):
    for _ in range(2):  # the second time the role may use verify_heapam() only
        (outcome,) = asked(server, user=watcher).checks
        assert outcome.outcome == "skipped"
        assert "role a Watcher's may not execute" in outcome.reason
        for statement in outcome.remedy.splitlines():
            amcheck.execute(statement)
        with drills()[CODE].fault(server):
            assert names(asked(server, user=watcher)) == [("index", INDEX)]
        assert asked(server, user=watcher).status == "ok"
        amcheck.execute(
            'revoke execute on function "Tools 100%%s".bt_index_check(regclass, boolean) from "a Watcher\'s"'
        )


def test_an_amcheck_of_before_an_upgrade_checks_the_indexes_and_says_what_lacks(server, amcheck):
    amcheck.execute("drop extension amcheck")
    amcheck.execute("create extension amcheck version '1.2'")
    with drills()[CODE].fault(server):
        verdict = diagnose(server, CODE)
        assert names(verdict) == [("index", INDEX)]
    (outcome,) = verdict.checks
    assert "amcheck 1.2 is too old, it has no verify_heapam: " in outcome.reason
    assert outcome.remedy == "alter extension amcheck update;"
    amcheck.execute(outcome.remedy)
    assert diagnose(server, CODE).status == "ok"


SLOW = (
    "create or replace function shop.slow(integer) returns integer immutable language sql"
    " as 'select $1 from (select pg_catalog.pg_sleep({})) as s'"
)


@pytest.fixture
def slow_index(amcheck):
    """Make an index with an expression that takes its time, which it did not while the index was built."""
    amcheck.execute(SLOW.format(0))
    amcheck.execute("create table shop.a_slow as select i as id from generate_series(1, 100) as i")
    amcheck.execute("create index a_slow_idx on shop.a_slow (shop.slow(id))")
    amcheck.execute("analyze shop.a_slow")
    amcheck.execute(SLOW.format(0.2))
    yield "shop.a_slow_idx"
    amcheck.execute("drop table shop.a_slow")
    amcheck.execute("drop function shop.slow")


def test_an_index_that_takes_longer_than_a_statement_may_is_named_and_the_rest_is_asked(server, slow_index, amcheck):
    with drills()[CODE].fault(server):
        verdict = asked(server, statement_timeout="3s")
    (outcome,) = verdict.checks
    assert names(verdict) == [("index", INDEX)]
    assert f"took longer than the target's statement_timeout of 3 s: 1 relation ({slow_index})" in outcome.reason
    assert outcome.remedy == f"pg_amcheck --heapallindexed --relation={slow_index} shop"
    amcheck.execute(SLOW.format(0))
    assert asked(server).status == "ok"


def test_what_the_budget_does_not_reach_is_said(server, slow_index):
    (outcome,) = asked(server, question=replace(check, budget_s=3)).checks
    assert outcome.outcome == "skipped"
    checked, of = (int(word) for word in outcome.reason.split(" indexes")[0].split(" of "))
    assert 0 < checked < of
    assert "; not reached within " in outcome.reason
    assert f"({slow_index}, shop." in outcome.reason
    assert outcome.remedy.startswith("pg_amcheck --heapallindexed ")
    assert outcome.remedy.endswith(" shop")


@pytest.mark.usefixtures("amcheck")
def test_the_command_for_what_was_late_finds_what_the_check_would_have(server):
    with drills()[CODE].fault(server), open_session(Target(name="t", dsn=server.url())) as session:
        rows = deepen(session, session.rows(check.sql_for(session.server.major)), {}, 0)
        assert {row["is_late"] for row in rows} == {True}
        (skip,) = judge(rows[-1:], {}, Context(session.server, session.target))
        program, *arguments = shlex.split(skip.remedy)
        connecting = ("-h", str(server.socket), "-U", "postgres")
        assert server.run(program, *connecting, *arguments).returncode == 0
        (skip,) = judge([row for row in rows if row["name"] == INDEX], {}, Context(session.server, session.target))
        program, *arguments = shlex.split(skip.remedy)
        with pytest.raises(SandboxError):
            server.run(program, *connecting, *arguments)


def test_who_cancels_one_statement_ends_the_check(server, slow_index):
    def cancel():
        with server.connect() as dba:
            running = "select count(*) = 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = 'shop'"
            wait_until(dba, running)
            dba.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")

    with ThreadPoolExecutor() as admins:
        cancelling = admins.submit(cancel)
        (outcome,) = asked(server).checks
        cancelling.result()
    assert outcome.outcome == "skipped"
    assert "cancelled by somebody else, and given up: " in outcome.reason
    assert f"({slow_index}, shop." in outcome.reason


def test_on_a_standby_the_primary_is_to_be_asked(server, amcheck):
    with drills()[CODE].fault(server):
        amcheck.execute("create unlogged table shop.unlogged (id integer primary key)")
        try:
            with temporary_standby(server) as standby:
                verdict = asked(standby)
        finally:
            amcheck.execute("drop table shop.unlogged")
    assert names(verdict) == [("index", INDEX)]
    assert verdict.checks[0].reason is None
    (finding,) = verdict.findings
    assert finding.remedies[0].title.startswith("Ask the primary")
    assert not any(remedy.sql for remedy in finding.remedies)


@pytest.mark.parametrize(("error", "found"), [(None, 0), ("item order invariant violated", 1)])
def test_what_amcheck_says_decides(error, found, context):
    assert [it.severity for it in judge([relation(error=error)], {}, context)] == ["critical"] * found


def test_each_relation_is_a_finding_of_its_own_kind(context):
    toast = {"is_toast": True, "table": "shop.parts", "error": "torn"}
    rows = [
        relation("pg_toast.pg_toast_3", kind="table", function="public.verify_heapam", **toast),
        relation("pg_toast.pg_toast_3_index", **toast),
        relation(error="torn", is_exclusion=True),
    ]
    heap, toast_index, exclusion = judge(rows, {}, context)
    assert heap.title == "TOAST table pg_toast.pg_toast_3 of shop.parts does not pass amcheck: torn"
    assert heap.remedies[0].sql == "select * from public.verify_heapam('pg_toast.pg_toast_3');"
    assert toast_index.title.startswith("TOAST index pg_toast.pg_toast_3_index of shop.parts ")
    assert toast_index.remedies[0].sql == "reindex index concurrently pg_toast.pg_toast_3_index;"
    assert exclusion.remedies[0].sql == "reindex index shop.parts_number_idx;"


def test_what_is_left_beside_a_finding_is_said(context):
    finding, skip = judge([relation(error="torn"), relation("shop.x", unchecked="locked")], {}, context)
    assert finding.name == INDEX
    assert (skip.reason, skip.remedy) == ("1 of 2 indexes and tables were checked; locked: 1 relation (shop.x)", None)


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (1, """pg_amcheck --heapallindexed --relation='shop."I 0"' shop"""),
        (11, "pg_amcheck --heapallindexed shop"),
    ],
)
def test_a_command_names_no_more_relations_than_a_person_reads(number, command, context):
    rows = [relation(f'shop."I {n}"', unchecked="late", is_late=True) for n in range(number)]
    (skip,) = judge(rows, {}, context)
    assert skip.remedy == command


def test_an_index_that_sorts_by_a_collation_that_changed_is_caused_by_that(context):
    (finding,) = judge([relation(error="torn")], {}, context)
    changed = replace(finding, code="collation-version-mismatch", evidence=[{"provider": "ICU"}, {"index": INDEX}])
    other = replace(changed, evidence=[{"index": "shop.other_idx"}])
    assert list(causes(finding, [changed, other])) == [changed]


def test_no_relation_is_well(context):
    assert list(judge([], {}, context)) == []
