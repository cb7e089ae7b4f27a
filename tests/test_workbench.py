"""What the index page does in the lab, on a real server with a real workload."""

import dataclasses
import json

import pytest

from conftest import diagnose
from pgrunbooks import workbench
from pgrunbooks.check import Finding, Remedy
from pgrunbooks.drills import drills
from pgrunbooks.notebook import Runbook
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import ask, checks_for, utc_now

LOOKUP = "select id from shop.payments where order_id = {}"


def runbook(sandbox):
    session = open_session(Target.model_validate({"name": "tested", "dsn": sandbox.url()}))
    return Runbook("index_analysis", session, {}, utc_now())


@pytest.fixture
def busy(server):
    """Return a server whose only counted statements look up payments by their order."""
    with server.connect() as client:
        client.execute("select pg_stat_statements_reset()")
        for order in range(1, 40):
            client.execute(LOOKUP.format(order))
    return server


@pytest.fixture
def page(busy):
    page = runbook(busy)
    yield page
    page.session.close()


class TestATrial:
    def test_says_what_an_index_would_save_within_a_second(self, busy, page):
        with busy.connect() as client:
            client.execute("drop index shop.payments_order_id_idx")
            try:
                trial = workbench.try_index(page, "create index on shop.payments (order_id)")
                again = workbench.try_index(page, "create index on payments (order_id) include (id)")
            finally:
                client.execute("create index payments_order_id_idx on shop.payments (order_id)")
        assert trial.gain > 0.9
        assert trial.size_bytes > 1e6
        (row,) = trial.statements
        assert row["cost_after"] < row["cost_before"] / 10
        assert "It pays for itself: it saves " in trial._repr_mimebundle_()["text/html"]
        assert again.index.table == "shop.payments"
        assert again.seconds < 1  # the lab is open

    def test_of_an_index_that_helps_nobody_says_so(self, page):
        trial = workbench.try_index(page, "create index on shop.payments (amount)")
        assert trial.gain == pytest.approx(0, abs=0.01)
        assert trial.statements == []

    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("drop table shop.orders", "needs one CREATE INDEX statement"),
            ("create index on shop.nowhere (a)", "shop.nowhere is not in the lab; the tables of the workload are: "),
            (
                "create index on shop.payments (nothing)",
                'PostgreSQL does not build it: column "nothing" does not exist',
            ),
        ],
    )
    def test_that_cannot_be_made_is_one_line(self, statement, reason, page):
        assert reason in workbench._tried(page, statement)._repr_mimebundle_()["text/plain"]

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            (
                "drop index shop.payments_order_id_idx",
                "shop.payments_order_id_idx: keep: a statement would cost up to ",
            ),
            (
                "DROP INDEX CONCURRENTLY IF EXISTS shop.payments_paid_at_idx;",
                f"shop.payments_paid_at_idx: {workbench.PROVED}.",
            ),
            ("drop index shop.nowhere_idx", "there is no index shop.nowhere_idx here"),
            ("drop index shop.payments", "there is no index shop.payments here"),
        ],
    )
    def test_of_a_drop_says_whether_the_workload_needs_the_index(self, statement, said, page):
        assert workbench._tried(page, statement)._repr_mimebundle_()["text/plain"].startswith(said)

    def test_leaves_the_server_as_it_was(self, busy, page):
        with busy.connect() as client:
            count = "select count(*) from pg_class"
            before = client.execute(count).fetchone()
            workbench.try_index(page, "create index on shop.payments (amount, paid_at)")
            assert client.execute(count).fetchone() == before


class TestDrops:
    def test_are_proved_by_the_workload_and_kept_where_it_needs_them(self, busy, page):
        with busy.connect() as client:
            client.execute("create index payments_twin on shop.payments (order_id)")
            try:
                verdict = ask(page.session, checks_for("indexes"), runbook="index_analysis")
                frame = workbench.drops(page, verdict).set_index("index")
                migration = workbench.migration(verdict, workbench.drops(page, verdict))
                kept = workbench.migration(verdict, workbench.drops(page, verdict), leave_out=list(frame.index))
            finally:
                client.execute("drop index shop.payments_twin")
        (name,) = [it for it in frame.index if it.startswith("shop.payments")]
        assert frame.loc[name, "proof"] == workbench.PROVED
        assert f"drop index concurrently {name};" in migration.up
        assert "create index concurrently" in migration.down.lower()
        assert kept.up == kept.down == ""

    def test_that_the_lab_refutes_are_not_suggested_by_the_verdict_either(self, busy, page):
        def drops_of(verdict, index):
            (finding,) = [it for it in verdict.about("unused-index") if it.name == index]
            return finding.impact, [it.sql for it in finding.remedies], finding.remedies[0].title

        def finding(index):
            drop = Remedy("Drop it", sql=f"drop index concurrently {index};", risk="low")
            row = {
                "index": index,
                "size_bytes": 1,
                "scans": 0,
                "definition": f"CREATE INDEX a ON {index}",
                "table": "shop.a",
            }
            return Finding("info", "index", index, "Unused", "It costs.", [row], [drop], code="unused-index")

        needed, idle = "shop.payments_order_id_idx", "shop.orders_placed_at_idx"
        verdict = ask(page.session, [], runbook="index_analysis")
        proved = workbench.prove(page, dataclasses.replace(verdict, findings=[finding(needed), finding(idle)]))
        impact, statements, title = drops_of(proved, needed)
        assert (impact, statements) == ("It costs.", [None])
        assert title.startswith("Keep it for this workload, says the lab: a statement would cost up to ")
        impact, statements, _ = drops_of(proved, idle)
        assert impact == "It costs. The lab: no statement needs it."
        assert statements == [f"drop index concurrently {idle};"]

    def test_of_the_only_index_a_statement_has_are_refused(self, page):
        proofs = workbench._proofs(page.session, ["shop.payments_order_id_idx", "shop.orders_placed_at_idx"])
        assert proofs["shop.payments_order_id_idx"].startswith("keep: a statement would cost up to ")
        assert proofs["shop.orders_placed_at_idx"] == workbench.PROVED

    def test_cannot_be_tried_without_a_workload(self, empty_database):
        with open_session(Target(name="tested", dsn=empty_database)) as session:
            assert workbench._proofs(session, ["public.a"]) == {
                "public.a": "not tried: needs the extension pg_stat_statements"
            }


class TestProposals:
    def test_unfold_to_statements_costs_and_plans_without_values(self, server):
        drill = drills()["missing-index"]
        with drill.fault(server):
            verdict = diagnose(server, "missing-index", thresholds=drill.thresholds)
        (row,) = verdict.rows["missing-index"]
        html = workbench.proposals(verdict)._repr_mimebundle_()["text/html"]
        assert row["statement"] in html
        assert "Seq Scan on orders" in html
        assert "using the new index on orders" in html
        assert "Cond" not in html
        assert row["workload_cost"] < 0.5
        json.dumps(row)

    def test_say_that_there_is_none(self, server):
        verdict = diagnose(server, "invalid-index")
        assert "could not be asked" in workbench.proposals(verdict)._repr_mimebundle_()["text/html"]


def test_a_migration_goes_up_and_down_again(server):
    drill = drills()["missing-index"]
    with drill.fault(server), server.connect() as client:
        page = runbook(server)
        with page.session:
            verdict = ask(page.session, checks_for("missing-index"), runbook="index_analysis")
            migration = workbench.migration(verdict, workbench.drops(page, verdict))
        indexes = "select count(*) from pg_indexes where schemaname = 'shop'"
        before = client.execute(indexes).fetchone()[0]
        for statement in migration.up.split(";")[:-1]:
            client.execute(statement)
        assert client.execute(indexes).fetchone()[0] == before + 1
        for statement in migration.down.split(";")[:-1]:
            client.execute(statement)
        assert client.execute(indexes).fetchone()[0] == before
    assert migration._repr_mimebundle_()[workbench.FILES] == {
        "indexes.up.sql": migration.up,
        "indexes.down.sql": migration.down,
    }


def test_a_partitioned_table_gets_and_loses_its_indexes_without_concurrently_on_the_whole(server):
    with server.connect() as client:
        client.execute(
            "create schema parts; create table parts.e (id int, k int, note text) partition by list (id);"
            "create table parts.e1 partition of parts.e for values in (1);"
            "create table parts.e2 partition of parts.e for values in (2);"
            "insert into parts.e select 1 + i % 2, i / 4, repeat('n', 80) from generate_series(1, 40000) as i;"
            "create index e_id on parts.e (id); create index e_again on parts.e (id); create index on parts.e1 (k);"
            "analyze parts.e; select pg_stat_statements_reset()"
        )
        try:
            for k in range(1, 40):
                client.execute(f"select note from parts.e where k = {k}")
            page = runbook(server)
            with page.session:
                verdict = ask(page.session, checks_for("missing-index", "duplicate-index"), runbook="index_analysis")
                migration = workbench.migration(verdict, workbench.drops(page, verdict))
            names = "select array_agg(indexname::text) from pg_indexes where schemaname = 'parts'"
            (before,) = client.execute(names).fetchone()
            for statement in migration.up.split(";")[:-1]:
                client.execute(statement)
            (between,) = client.execute(names).fetchone()
            assert set(between) == {"e1_id_idx", "e1_k_idx", "e2_id_idx", "e2_k_idx", "e_id", "e_k_idx"}
            for statement in migration.down.split(";")[:-1]:
                client.execute(statement)
            assert {"e_id", "e_again"} <= set(client.execute(names).fetchone()[0]) <= set(before)
        finally:
            client.execute("drop schema parts cascade")
