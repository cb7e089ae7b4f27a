import datetime
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jsonschema
import psycopg
import pytest

from conftest import diagnose
from pgrunbooks.check import Check, Finding, Rule
from pgrunbooks.drills import Actors, drills
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.sandbox import wait_until
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask, checks_for, rank


def finding(code, name, severity="warning", involves=()):
    area = "locks" if "lock" in code else "connections"
    return Finding(severity, "pid", name, "t", "i", code=code, area=area, involves=frozenset(involves))


def test_causes_stand_before_their_symptoms():
    ddl = finding("ddl-lock-queue", "2", "critical", {"pid:3"})
    lock = finding("blocking-lock", "1", "warning", {"pid:2", "pid:3"})
    idle = finding("idle-in-transaction", "1", "warning")
    assert [it.code for it in rank([ddl, lock, idle])] == ["idle-in-transaction", "blocking-lock", "ddl-lock-queue"]


def test_what_has_several_causes_stands_behind_all_of_them():
    roots = [finding(code, pid) for pid in "12" for code in ("blocking-lock", "idle-in-transaction")]
    locks = [replace(it, involves=frozenset({"pid:3"})) for it in roots if it.code == "blocking-lock"]
    idle = [it for it in roots if it.code == "idle-in-transaction"]
    ddl, apart = finding("ddl-lock-queue", "3", "critical"), finding("blocking-lock", "9", "warning", {"pid:10"})
    assert [(it.code, it.name) for it in rank([apart, ddl, *locks, *idle])] == [
        ("idle-in-transaction", "1"),
        ("blocking-lock", "1"),
        ("idle-in-transaction", "2"),
        ("blocking-lock", "2"),
        ("ddl-lock-queue", "3"),
        ("blocking-lock", "9"),
    ]


def test_the_story_with_the_worst_finding_comes_first_even_if_its_root_is_milder():
    lone = finding("blocking-lock", "9", "warning", {"pid:10", "pid:11", "pid:12"})
    root = finding("blocking-lock", "1", "warning", {"pid:2"})
    ddl = finding("ddl-lock-queue", "2", "critical")
    assert [it.name for it in rank([lone, root, ddl])] == ["1", "2", "9"]


def test_more_sessions_held_up_come_first_among_equals():
    few, many = finding("blocking-lock", "1", involves={"pid:2"}), finding("blocking-lock", "9", involves={"a", "b"})
    assert [it.name for it in rank([few, many])] == ["9", "1"]


def test_the_order_does_not_depend_on_the_order_of_the_findings():
    some = [finding("blocking-lock", str(number)) for number in range(5)]
    assert rank(some) == rank(some[::-1])


@pytest.mark.parametrize(("runbook", "kept"), [("lock_analysis", "lock_analysis"), ("not_written_yet", None)])
def test_a_finding_names_only_a_deeper_page_that_is_there(runbook, kept, server):
    found = Finding("info", "cluster", "cluster", "t", "i")
    check = Check("blocking-lock", {15: "select 1 as one"}, lambda *_: [found], runbook=runbook)
    with open_session(Target(name="test", dsn=server.url())) as session:
        assert [it.runbook for it in ask(session, [check], runbook="check").findings] == [kept]


@pytest.fixture(scope="session")
def schema():
    from pgrunbooks import record

    return record.findings_schema()


def test_the_document_follows_the_schema(server, schema):
    drill = drills()["ddl-lock-queue"]
    jsonschema.validate(diagnose(server).document(), schema)
    with drill.fault(server):
        jsonschema.validate(diagnose(server, thresholds=drill.thresholds).document(), schema)


def test_a_healthy_database_is_ok(server):
    verdict = diagnose(server)
    assert (verdict.status, [it for it in verdict.findings if it.severity != "info"]) == ("ok", [])


def test_an_ignored_finding_counts_for_nothing_until_its_day(server):
    drill = drills()["idle-in-transaction"]
    rule = {"code": "idle-in-transaction", "object": "*", "why": "known"}
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    with drill.fault(server) as incident:
        silent = diagnose(server, "idle-in-transaction", thresholds=drill.thresholds, ignore=[rule])
        expired = diagnose(
            server, "idle-in-transaction", thresholds=drill.thresholds, ignore=[{**rule, "until": yesterday}]
        )
    assert (silent.status, expired.status) == ("ok", "warning")
    assert silent.document()["ignored"] == [
        {"id": f"idle-in-transaction:pid:{incident.name}", "why": "known", "until": None}
    ]


@pytest.fixture
def powerless(server):
    """Return the URL of a role that may see nothing of others."""
    with server.connect() as connection:
        connection.execute('drop role if exists "no rights"')
        connection.execute('create role "no rights" login')
    yield server.url(user="no rights")
    with server.connect() as connection:
        connection.execute('drop role "no rights"')


def test_what_a_role_may_not_see_is_skipped_with_the_grant_and_never_ok(server, powerless):
    with (
        drills()["ddl-lock-queue"].fault(server) as incident,
        open_session(
            Target.model_validate({"name": "t", "dsn": powerless, "thresholds": drills()["ddl-lock-queue"].thresholds})
        ) as session,
    ):
        verdict = ask(session, checks_for("connections", "locks"), runbook="check")
    outcomes = {it.code: it for it in verdict.checks}
    assert outcomes["idle-in-transaction"].outcome == "skipped"
    assert 'grant pg_monitor to "no rights";' in outcomes["idle-in-transaction"].reason
    assert incident.name in [it.name for it in verdict.about("ddl-lock-queue")]


def question(sql, judge=lambda rows, limits, context: []):
    return Check("blocking-lock", sql={15: sql}, judge=judge)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [("select pg_sleep(5)", "stopped, since it took longer than 100 ms"), ("selec", "SyntaxError")],
)
def test_a_check_that_fails_makes_the_run_unknown_and_the_rest_goes_on(sql, reason, server):
    target = Target.model_validate({"name": "t", "dsn": server.url(), "statement_timeout": "100ms"})
    with open_session(target) as session:
        verdict = ask(session, [question(sql), *checks_for("connection-saturation")], runbook="check")
    assert [it.outcome for it in verdict.checks] == ["failed", "ok"]
    assert verdict.status == "unknown"
    assert reason in verdict.document()["reason"]


def test_the_samples_of_a_check_share_one_budget(server):
    check = replace(question("select pg_sleep(0.1), 1 as one"), samples=100, budget_s=0.3)
    with open_session(Target(name="t", dsn=server.url())) as session:
        verdict = ask(session, [check, question("select 1")], runbook="check")
    assert [it.outcome for it in verdict.checks] == ["failed", "ok"]
    assert verdict.checks[0].reason == "stopped, since it took longer than 300 ms"


def test_a_statement_that_somebody_cancels_fails_its_check_alone(server):
    def cancel(pid):
        with server.connect() as admin:
            wait_until(admin, "select exists (select from pg_stat_activity where wait_event = 'PgSleep')")
            admin.execute("select pg_cancel_backend(%s)", [pid])

    with open_session(Target(name="t", dsn=server.url())) as session, ThreadPoolExecutor() as admins:
        canceling = admins.submit(cancel, session.connection.info.backend_pid)
        verdict = ask(session, [question("select pg_sleep(10)"), question("select 1")], runbook="check")
        canceling.result()
    assert [it.outcome for it in verdict.checks] == ["failed", "ok"]
    assert verdict.checks[0].reason == "cancelled by somebody else"


def test_a_check_goes_further_than_its_query_within_its_budget(server):
    def deepen(session, rows, limits, left_s):
        assert 0 < left_s <= 15
        return [{**row, **session.rows("select %(one)s + 1 as two", row)[0]} for row in rows]

    seen = []
    check = replace(question("select 1 as one", lambda rows, *_: seen.extend(rows) or []), deepen=deepen)
    with open_session(Target(name="t", dsn=server.url())) as session:
        ask(session, [check], runbook="check")
    assert seen == [{"one": 1, "two": 2}]


def test_the_cost_on_the_server_is_in_the_footer(server):
    with open_session(Target(name="t", dsn=server.url())) as session:
        verdict = ask(session, [question("select 1")], runbook="check")
    assert verdict.cost.statements == 3  # two that look at the server
    assert verdict.cost.memory_bytes > 100_000
    assert "Cost on the server: one connection, 3 statements in" in verdict._repr_mimebundle_()["text/html"]


def test_an_expensive_check_is_asked_by_its_own_code_only(monkeypatch):
    checks = {"blocking-lock": replace(question("select 1"), opt_in=True)}
    monkeypatch.setattr("pgrunbooks.verdict.registry", lambda: checks)
    assert checks_for("blocking-lock") == list(checks.values())
    assert checks_for("locks") == checks_for() == checks_for("troubleshooting") == []


def test_a_judge_that_breaks_is_a_failed_check(server):
    def broken(rows, limits, context):
        raise KeyError("pid")

    with open_session(Target(name="t", dsn=server.url())) as session:
        verdict = ask(session, [question("select 1", broken)], runbook="check")
    assert verdict.checks[0].reason == "KeyError: 'pid'"


def test_a_server_that_goes_away_leaves_what_was_found_and_the_reason(server):
    with open_session(Target(name="t", dsn=server.url())) as session, server.connect() as other:
        other.execute("select pg_terminate_backend(%s)", [session.connection.info.backend_pid])
        verdict = ask(session, checks_for("locks"), runbook="check")
    assert verdict.status == "unknown"
    assert verdict.document()["reason"].startswith("the server went away: ")
    assert {it.outcome for it in verdict.checks} == {"failed"}


def test_checks_with_the_same_query_judge_the_same_moment(server):
    with open_session(Target(name="t", dsn=server.url())) as session:
        verdict = ask(session, checks_for("blocking-lock", "ddl-lock-queue"), runbook="check")
    assert verdict.rows["blocking-lock"] is verdict.rows["ddl-lock-queue"]


@pytest.mark.parametrize(
    ("show", "expected"), [(False, "select pg_sleep(?), ?"), (True, "select pg_sleep(60), 'a secret'")]
)
def test_literals_are_masked_unless_they_are_asked_for(show, expected, server):
    with Actors(server) as stage, open_session(Target(name="t", dsn=server.url())) as session:
        stage.enter("busy").pgconn.send_query(b"select pg_sleep(60), 'a secret'")
        stage.wait_until("select exists (select from pg_stat_activity where wait_event = 'PgSleep')")
        verdict = ask(session, checks_for("blocking-lock"), runbook="check", show_literals=show)
    queries = [row["query"] for row in verdict.rows["blocking-lock"]]
    assert expected in queries


def test_an_unknown_area_is_refused():
    with pytest.raises(ConfigurationError, match="unknown area 'lock'; known: connections"):
        checks_for("lock")


def test_milliseconds_of_blocking_under_load_are_no_incident(server, run_pgbench):
    with run_pgbench(server) as busy:
        verdicts = [diagnose(server) for _ in range(10)]
        waits = [any(row["waits"] for row in verdict.rows["blocking-lock"]) for verdict in verdicts]
        assert busy.poll() is None
    assert any(waits), "pgbench made no contention, so this proves nothing"
    assert {verdict.status for verdict in verdicts} == {"ok"}


def test_the_workload_of_the_shop_is_no_incident(server):
    from pgrunbooks.sample_data import workload

    with workload(server.url()):
        assert {diagnose(server).status for _ in range(5)} == {"ok"}


def test_a_session_that_is_gone_leaves_no_session_of_ours(server):
    diagnose(server)
    with server.connect() as connection:
        ours = (
            "select count(*) = 0 from pg_stat_activity"
            " where application_name = 'pgrunbooks' and datname = current_database()"
        )
        wait_until(connection, ours, seconds=5)


def test_a_name_from_hell_is_named_exactly(server):
    name = 'o\'rders "x" \u00e9 \\ %s {0} <b>'
    quoted = psycopg.sql.Identifier(name).as_string()
    with server.connect() as one, Actors(server) as stage:
        one.execute(f"create table {quoted} (a int)")
        try:
            with one.transaction():
                one.execute(f"lock table {quoted}")
                stage.block("reader", f"select from {quoted}")
                verdict = diagnose(
                    server, "blocking-lock", thresholds={"blocking-lock": {"warning": "0", "critical": "1h"}}
                )
        finally:
            one.execute(f"drop table {quoted}")
    assert f"public.{quoted}" in verdict.findings[0].impact


def test_a_check_that_is_in_no_file_yet_is_asked_like_the_others(newest):
    rule = Rule(
        "my.counted", "my", "warning", "cluster", "How many?", "as many as 'warning'", {"warning": "3"}, cheap=True
    )
    found = Finding("warning", "cluster", "cluster", "too many", "none")
    counted = Check(
        rule.code,
        own_rule=rule,
        sql={15: "select 2 as number"},
        judge=lambda rows, limits, _: [found] if rows[0]["number"] >= limits["warning"] else [],
    )
    for thresholds, status in (({}, "ok"), ({rule.code: {"warning": "2"}}, "warning")):
        target = Target(name="tested", dsn=newest.url()).model_copy(update={"thresholds": thresholds})
        with open_session(target) as session:
            assert ask(session, [counted], runbook="my_first").status == status
