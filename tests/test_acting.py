import dataclasses
import json
from contextlib import closing

import pytest

from pgrunbooks import acting
from pgrunbooks.notebook import Runbook
from pgrunbooks.sandbox import wait_until
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask, checks_for, utc_now

BLOCKED = "select count(*) = 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
GONE = "select count(*) = 0 from pg_stat_activity where pid = %s"


@pytest.fixture
def holder(server):
    """Hold a row lock on the shop in an open transaction that has written."""
    with closing(server.connect(application_name="forgotten")) as connection:
        connection.execute("begin; update shop.customers set full_name = full_name where id = 1")
        yield connection


@pytest.fixture
def waiter(server, holder):
    """Wait behind the holder, in a thread of libpq's own."""
    with closing(server.connect(application_name="checkout")) as connection, server.connect() as watcher:
        connection.pgconn.send_query(b"update shop.customers set full_name = full_name where id = 1")
        wait_until(watcher, BLOCKED, [connection.info.backend_pid])
        yield connection


@pytest.fixture
def page(server):
    """Open a runbook on a target that allows actions."""
    limits = {"blocking-lock": {"warning": "0s"}, "idle-in-transaction": {"warning": "0s", "blocking": "0s"}}
    target = Target(name="tested", dsn=server.url(), allow_actions=True, thresholds=limits)
    with open_session(target) as session:
        yield Runbook("troubleshooting", session, {"target": "tested"}, utc_now())


def verdict_of(page):
    return ask(page.session, checks_for("locks", "connections"), runbook=page.name)


def subject_of(page, connection):
    return acting.look(page.session, connection.info.backend_pid)


def is_gone(server, connection):
    with server.connect() as watcher:
        return watcher.execute(GONE, [connection.info.backend_pid]).fetchone()[0]


def test_a_session_is_shown_with_what_would_be_lost_and_who_would_be_released(page, holder, waiter):
    subject = subject_of(page, holder)
    assert "shop.customers" in subject.is_lost("terminate")
    assert f"{waiter.info.backend_pid} (role" in subject.is_released()
    assert subject.actions == ("terminate",), "it idles: it has no statement to cancel"


def test_who_has_written_nothing_loses_nothing(server, page):
    with server.connect() as reader:
        reader.execute("begin; select * from shop.customers limit 1")
        subject = subject_of(page, reader)
        assert subject.is_lost("terminate").endswith("It has written nothing.")
        assert subject.is_released() == "Nobody waits behind it."


def test_the_session_that_was_shown_is_ended_and_those_behind_it_move(server, page, holder, waiter):
    done = acting.act(page.session, subject_of(page, holder), "terminate")
    assert done.done
    assert done.result == "Its transaction is over; of 1 session behind it 1 no longer wait."
    assert is_gone(server, holder)


def test_a_running_statement_is_cancelled_and_its_session_stays(server, page):
    with closing(server.connect()) as sleeper, server.connect() as watcher:
        sleeper.pgconn.send_query(b"select pg_sleep(60)")
        wait_until(watcher, "select state = 'active' from pg_stat_activity where pid = %s", [sleeper.info.backend_pid])
        subject = subject_of(page, sleeper)
        assert subject.actions == ("cancel", "terminate")
        assert acting.act(page.session, subject, "cancel").done
        assert not is_gone(server, sleeper)


def test_another_transaction_of_the_same_session_is_left_alone(server, page, holder):
    subject = subject_of(page, holder)
    holder.execute("rollback; begin; update shop.customers set full_name = full_name where id = 2")
    done = acting.act(page.session, subject, "terminate")
    assert not done.done
    assert "another transaction" in done.result
    assert not is_gone(server, holder)


def test_another_session_with_the_same_pid_is_left_alone(server, page, holder):
    subject = dataclasses.replace(subject_of(page, holder), backend_start="2026-01-01T00:00:00+00:00")
    done = acting.act(page.session, subject, "terminate")
    assert not done.done
    assert "another one than was shown" in done.result
    assert not is_gone(server, holder)


def test_a_session_that_is_gone_is_said_to_be_gone(server, page):
    with server.connect() as connection:
        subject = subject_of(page, connection)
    with server.connect() as watcher:
        wait_until(watcher, GONE, [subject.pid])
    assert acting.act(page.session, subject, "terminate").result == f"Session {subject.pid} is gone."
    assert acting.look(page.session, subject.pid) is None


def test_a_target_that_allows_no_actions_is_never_acted_on(server, page, holder):
    subject = subject_of(page, holder)
    with open_session(Target(name="strict", dsn=server.url())) as session:
        done = acting.act(session, subject, "terminate")
    assert not done.done
    assert not is_gone(server, holder)


def test_a_role_that_may_not_signal_is_told_the_grant(server, page, holder):
    with server.connect() as admin:
        admin.execute("drop role if exists onlooker")
        admin.execute("create role onlooker login in role pg_monitor")
    try:
        target = Target(name="tested", dsn=server.url(user="onlooker"), allow_actions=True)
        with open_session(target) as session:
            done = acting.act(session, acting.look(session, holder.info.backend_pid), "terminate")
    finally:
        with server.connect() as admin:
            admin.execute("drop role onlooker")
    assert not done.done
    assert "grant pg_signal_backend to onlooker;" in done.result
    assert not is_gone(server, holder)


def test_a_server_that_went_away_is_a_refusal_in_one_line(server, page, holder):
    subject = subject_of(page, holder)
    with server.connect() as admin:
        admin.execute("select pg_terminate_backend(%s, 5000)", [page.session.connection.info.backend_pid])
    done = acting.act(page.session, subject, "terminate")
    assert not done.done
    assert "went away" in done.result


class TestTheForm:
    @pytest.fixture(autouse=True)
    def _records_of_its_own(self, tmp_path, monkeypatch):
        (tmp_path / "runbooks").mkdir()
        (tmp_path / "targets.yml").write_text("targets: {}\n")
        monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "targets.yml"))

    def parts(self, form):
        (who, again), shown, action, (typed, button) = (
            form.children[0].children,
            form.children[1],
            form.children[2],
            form.children[3].children,
        )
        return who, again, shown, action, typed, button

    def test_its_button_works_once_the_words_are_typed_and_the_record_says_what_was_done(
        self, server, page, holder, waiter, tmp_path
    ):
        verdict = verdict_of(page)
        who, _, shown, _, typed, button = self.parts(acting.form(page, verdict))
        pid = holder.info.backend_pid
        assert who.value == pid, "the root comes first"
        assert "shop.customers" in shown.value
        for words in ("", "terminate", f"terminate {waiter.info.backend_pid}", f"cancel {pid}"):
            typed.value = words
            assert button.disabled, words
            button.click()
        assert not is_gone(server, holder)
        typed.value = f"Terminate {pid}"
        assert not button.disabled
        button.click()
        assert is_gone(server, holder)
        (folder,) = (tmp_path / "records" / "tested").iterdir()
        report = (folder / "report.html").read_text(encoding="utf-8")
        assert f"Ended: Session {pid}" in report
        assert "of 1 session behind it 1 no longer wait" in report
        findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        assert [it["id"] for it in findings["findings"]] == [it.id for it in verdict.findings]
        assert typed.value == ""
        assert "is gone" in shown.value

    def test_what_changed_since_it_was_shown_is_refused_and_shown_anew(self, server, page, holder):
        who, _, _, _, typed, button = self.parts(acting.form(page, verdict_of(page)))
        holder.execute("rollback; begin; update shop.customers set full_name = full_name where id = 2")
        typed.value = f"terminate {who.value}"
        button.click()
        assert not is_gone(server, holder)

    def test_is_a_sentence_where_the_target_allows_none(self, server, holder):
        limits = {"idle-in-transaction": {"warning": "0s"}}
        with open_session(Target(name="strict", dsn=server.url(), thresholds=limits)) as session:
            strict = Runbook("troubleshooting", session, {}, utc_now())
            form = acting.form(strict, verdict_of(strict))
        assert "allows no actions" in form._repr_mimebundle_()["text/plain"]

    def test_is_a_sentence_where_the_verdict_names_no_session(self, page):
        form = acting.form(page, verdict_of(page))
        assert form._repr_mimebundle_()["text/plain"] == "The verdict names no session to end."
