"""The tables that a runbook's cells show, and how a notebook shows any table."""

import datetime

import pandas
import pytest
from bs4 import BeautifulSoup

from conftest import diagnose
from pgrunbooks import notebook
from pgrunbooks.check import Finding, Outcome, registry
from pgrunbooks.drills import drills
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.notebook import _frame_html, _sampled, evidence_table, outcomes_table, removable_indexes
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
from pgrunbooks.verdict import Verdict

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


def verdict(*findings, checks=()):
    return Verdict("index_analysis", Target(name="t", dsn=""), None, NOW, NOW, {}, findings=findings, checks=checks)


def index(code, name, *evidence):
    return Finding("warning", "index", name, "", "", code=code, evidence=evidence)


def row(name, size_bytes=8192, scans=0, on="public.t USING btree (a)"):
    definition = f"CREATE INDEX {name.partition('.')[2]} ON {on}"
    return {"index": name, "definition": definition, "scans": scans, "size_bytes": size_bytes}


class TestOutcomes:
    def test_are_grouped_by_area_outcome_and_reason(self):
        checks = [
            Outcome("idle-in-transaction", "skipped", 1.0, "needs pg_read_all_stats"),
            Outcome("blocking-lock", "ok", 1.0),
            Outcome("long-transaction", "skipped", 1.0, "needs pg_read_all_stats"),
            Outcome("deadlocks", "found", 1.0),
        ]
        assert outcomes_table(verdict(checks=checks)).fillna("").values.tolist() == [
            ["connections", "skipped", ["idle-in-transaction", "long-transaction"], "needs pg_read_all_stats"],
            ["locks", "ok", ["blocking-lock"], ""],
            ["locks", "found", ["deadlocks"], ""],
        ]


class TestRemovableIndexes:
    def test_are_named_once_beside_what_stays_the_largest_first(self):
        keep = row("public.keep", scans=9)
        frame = removable_indexes(
            verdict(
                index("duplicate-index", "public.copy", row("public.copy", scans=2), keep),
                index("unused-index", "public.copy", row("public.copy", scans=2)),
                index("unused-index", 'public."a ON b"', row('public."a ON b"', size_bytes=1 << 20)),
                index("missing-fk-index", "public.t fk"),
            )
        )
        assert list(frame["index"]) == ['public."a ON b"', "public.copy"]
        assert list(frame["because"]) == ["unused", "duplicate, unused"]
        assert list(frame["definition"]) == ["public.t USING btree (a)"] * 2
        assert frame.loc[1, ["staying_index", "its_scans"]].tolist() == ["public.keep", 9]

    def test_are_a_table_without_rows_where_all_are_needed(self):
        assert list(removable_indexes(verdict())["index"]) == []


def test_the_evidence_of_a_check_is_one_table():
    findings = [index("unused-index", name, row(name), row(name)) for name in ("public.a", "public.b")]
    frame = evidence_table(verdict(*findings), "unused-index")
    assert list(frame.columns[:2]) == ["severity", "index"]
    assert len(frame) == 4


class TestFrame:
    def cells(self, frame):
        soup = BeautifulSoup(_frame_html(frame), "html.parser")
        return [[cell.get_text() for cell in line.find_all(["th", "td"])] for line in soup.find_all("tr")]

    def test_is_shown_with_units_and_without_the_numbers_of_its_rows(self):
        frame = pandas.DataFrame({"table": ["a", "b"], "heap_bytes": [8192, None], "at": [pandas.Timestamp(NOW), None]})
        assert self.cells(frame) == [["table", "heap", "at"], ["a", "8 kB", "2026-11-22 00:00 UTC"], ["b", "–", "–"]]  # noqa: RUF001

    def test_keeps_an_index_that_has_names(self):
        frame = pandas.DataFrame({"n": [1]}, index=pandas.Index(["a"], name="table"))
        assert self.cells(frame) == [["table", "n"], ["a", "1"]]

    def test_keeps_long_texts_whole_and_tags_harmless(self):
        assert self.cells(pandas.DataFrame({"reason": ["<b>" + "x" * 200]}))[1] == ["<b>" + "x" * 200]

    def test_counts_what_it_does_not_show(self):
        html = _frame_html(pandas.DataFrame({"n": range(250)}))
        assert (html.count("<tr>"), "and 150 more" in html) == (101, True)

    def test_says_where_it_is_empty(self):
        assert self.cells(pandas.DataFrame({"n": []}))[1] == ["none"]
        assert "none" in _frame_html(pandas.DataFrame())


class TestSamples:
    def test_of_waits_are_spread_over_the_seconds_asked_for(self):
        check = registry()["wait-event-hotspot"]
        assert _sampled(check, None) is check
        assert _sampled(registry()["replication-lag"], 30) is registry()["replication-lag"]
        for seconds, samples in ((0.1, 10), (0.5, 10), (2, 40), (60, 200)):
            spread = _sampled(check, seconds)
            assert spread.samples == samples
            assert spread.samples * spread.sample_every_s == pytest.approx(seconds)

    @pytest.mark.parametrize("sample_s", [0, -1, 61, True, "2"])
    def test_need_a_number_of_seconds(self, sample_s):
        with pytest.raises(ConfigurationError, match=r"^sample_s: needs seconds, more than 0 and at most 60, got "):
            notebook.connect("troubleshooting", target="sandbox", sample_s=sample_s)


def test_the_statements_that_a_verdict_is_about_are_planned(server):
    drill = drills()["ddl-lock-queue"]
    with drill.fault(server):
        found = diagnose(server, "locks", thresholds=drill.thresholds)
        with open_session(Target(name="t", dsn=server.url())) as session:
            plans = notebook.plans_of(notebook.Runbook("troubleshooting", session, {}, NOW), found).plans
    assert {plan.why_not for plan in plans} == {"A table of it is locked, so it cannot be planned now."}
    assert all("select" in plan.query for plan in plans)


class TestSlowStatements:
    def test_come_with_their_share_and_the_time_that_was_counted(self, server):
        with open_session(Target(name="t", dsn=server.url())) as session:
            frame = notebook.slow_statements(notebook.Runbook("troubleshooting", session, {}, NOW))
        assert list(frame.columns) == ["time_share", "total_s", "calls", "mean_ms", "rows_a_call", "over_s", "query"]
        assert 0 < len(frame) <= 10
        assert frame["total_s"].is_monotonic_decreasing
        assert frame["time_share"].sum() <= 1.0001

    def test_that_cannot_be_read_say_why(self, empty_database):
        with open_session(Target(name="t", dsn=empty_database)) as session:
            frame = notebook.slow_statements(notebook.Runbook("troubleshooting", session, {}, NOW))
        assert frame["reason"].tolist() == [
            "needs the extension pg_stat_statements: create extension pg_stat_statements;"
        ]
