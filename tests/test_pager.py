"""The pager: what it tells, what it takes for an answer, and when an incident is solved."""

import pytest
from jupyter_client.manager import start_new_kernel

from pgrunbooks import pager, practice
from pgrunbooks.errors import ConfigurationError, RunbookError, SandboxError
from pgrunbooks.sandbox import default_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.verdict import ask, checks_for

SEQUENCE, RELEASE = 2, 5


def text(reply):
    return reply._repr_mimebundle_()["text/plain"]


def findings(*codes):
    with open_session("sandbox") as session:
        return {it.code: it for it in ask(session, checks_for(*codes), runbook="check").findings}


@pytest.fixture(scope="module", autouse=True)
def _sandbox():
    """Keep the sandbox running from test to test, and leave no incident in it."""
    sandbox = default_sandbox().start()
    yield sandbox
    practice.stop()


@pytest.fixture(scope="module")
def story(_sandbox):
    """Return a release that hangs: its page, and the findings of its verdict."""
    page = pager.ring(RELEASE)
    return page, findings("troubleshooting")


@pytest.fixture
def page(story):
    """Return the page of that incident as one that was not answered yet."""
    page, _ = story
    page._wrong.clear()
    return page


class TestAPage:
    def test_tells_its_symptom_and_nothing_else(self, page, story):
        shown = repr(page) + str(page._repr_mimebundle_())
        assert page.symptom in shown
        root = story[1]["idle-in-transaction"]
        assert not [word for word in (root.code, root.name, "ddl-lock-queue", "transaction") if word in shown]

    @pytest.mark.parametrize("cause", ["idle-in-transaction", "Idle in a Transaction!", "IDLE_IN_TRANSACTION, is it?"])
    @pytest.mark.parametrize("thing", ["{pid}", "session {pid}", "PID: {pid}.", "Invoice Worker"])
    def test_takes_an_answer_in_any_spelling(self, page, story, cause, thing):
        pid = story[1]["idle-in-transaction"].name
        assert text(page.answer(cause, thing.format(pid=pid))).startswith("Right.")

    def test_takes_a_pid_as_a_number(self, page, story):
        assert text(page.answer("idle transaction", int(story[1]["idle-in-transaction"].name))).startswith("Right.")

    def test_gives_a_hint_to_the_first_wrong_answer_and_says_more_to_the_second(self, page):
        first, again, second = (text(page.answer(cause, "x")) for cause in ("", "", "cosmic rays"))
        assert "Hint:" in first
        assert first == again
        assert "More:" not in first
        assert first.splitlines()[-1] in second
        assert "Which sessions sit idle inside a transaction?" in second

    @pytest.mark.parametrize(
        ("cause", "whose", "said"),
        [
            ("idle-in-transaction", "ddl-lock-queue", "The cause is right, the session is not."),
            ("ddl lock queue", "ddl-lock-queue", "it is a symptom"),
            ("blocking lock", "idle-in-transaction", "it is a symptom"),
            ("deadlock", "idle-in-transaction", "That session it is."),
            ("deadlock", "ddl-lock-queue", "That one suffers"),
        ],
    )
    def test_tells_how_near_an_answer_is(self, page, story, cause, whose, said):
        reply = text(page.answer(cause, story[1][whose].name))
        assert reply.startswith("Not yet.")
        assert said in reply

    def test_is_not_solved_by_ending_the_victims(self, page, story, monkeypatch):
        monkeypatch.setattr(pager, "_SILENT_WITHIN_S", 0.5)
        root, victim = (story[1][code] for code in ("idle-in-transaction", "ddl-lock-queue"))
        page.answer(root.code, root.name)
        pager.heal(victim.remedies[0].sql)
        assert text(page.finish()).startswith("Not solved yet.")

    def test_is_solved_by_the_statement_of_the_verdict(self, page, story):
        pager.heal(story[1]["idle-in-transaction"].remedies[0].sql)
        assert text(page.finish()).startswith("Solved.\nIt took ")
        assert text(page.solve()) == "It is solved already."

    def test_leaves_nothing_behind_once_it_is_solved(self, page):
        assert practice.running(default_sandbox()) is None
        columns = "select from pg_attribute where attrelid = 'shop.orders'::regclass and attname = 'delivery_note'"
        with default_sandbox().connect() as connection:
            assert connection.execute(columns).fetchall() == []


def test_who_heals_and_does_not_name_the_cause_has_not_solved_it():
    page = pager.ring(SEQUENCE)
    pager.heal(findings("sequence-exhaustion")["sequence-exhaustion"].remedies[0].sql)
    assert text(page.finish()).startswith("Healed, but not solved yet.")
    assert text(page.answer("sequence exhausted", "returns_id_seq")).startswith("Right.")
    assert text(page.solve()).startswith("You need none.")
    assert text(page.finish()).endswith("with no wrong answer.")


def test_the_solution_names_and_heals_and_is_told_at_the_end():
    page = pager.ring(SEQUENCE)
    assert "shop.returns_id_seq" in text(page.solve())
    assert text(page.finish()).endswith("with the solution unfolded.")


@pytest.mark.parametrize(("typed", "said"), [("no", "False"), (" Yes", "True"), (None, "True")])
def test_a_person_is_asked_before_the_solution_is_told_and_a_headless_run_is_not(kernel, typed, said):
    told = []
    kernel.execute_interactive(
        "from pgrunbooks.pager import _is_meant; print(_is_meant())",
        allow_stdin=typed is not None,
        stdin_hook=lambda _: kernel.input(typed),
        output_hook=lambda message: told.append(message["content"].get("text", "")),
        timeout=30,
    )
    assert "".join(told).split()[-1:] == [said]


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel()
    yield client
    client.stop_channels()
    manager.shutdown_kernel()


def test_an_incident_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="numbered from 1 to 6"):
        pager.ring(7)


class TestHeal:
    def test_works_in_the_sandbox_alone(self):
        with pytest.raises(ConfigurationError, match="in the sandbox alone, got 'prod'"):
            pager.heal("select 1", target="prod")

    def test_works_only_while_an_incident_runs(self):
        with pytest.raises(SandboxError, match="no incident runs"):
            pager.heal("create table shop.left_behind ()")

    def test_says_what_the_server_said(self):
        pager.ring(SEQUENCE)
        assert text(pager.heal("select 1 as one; create table shop.mine (); drop table shop.mine")) == (
            "Done.\none: 1\nCREATE TABLE\nDROP TABLE"
        )
        assert text(pager.heal("-- later\n;")).startswith("Nothing was run.")
        with pytest.raises(RunbookError, match='PostgreSQL refuses: relation "nothing" does not exist'):
            pager.heal("select from nothing")
        practice.stop()

    def test_tells_a_reader_of_a_notebook_in_one_line_what_is_wrong(self):
        assert text(pager._heal_cell(" prod ", "select 1")).startswith(
            "Nothing was changed.\nheal works in the sandbox"
        )
