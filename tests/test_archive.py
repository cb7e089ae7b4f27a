import datetime
import json
import os
import shutil
import time

import pytest

from pgrunbooks.archive import changes, note_incident, prune, records, with_first_seen, write_overview

SERVER = {
    "version": "18.0",
    "version_num": 180000,
    "system_identifier": "1",
    "database": "shop",
    "role": "r",
    "in_recovery": False,
}


def document(hour, *names, asked=("blocking-lock",), **changes):
    findings = [
        {
            "id": f"blocking-lock:pid:{name}", "code": "blocking-lock", "area": "locks", "severity": "warning",
            "object": {"kind": "pid", "name": name}, "title": f"Session {name} blocks", "impact": "i", "evidence": [],
            "evidence_total": 0, "remedies": [], "caused_by": [], "runbook": None, "docs": [], "first_seen": None,
        }
        for name in names
    ]  # fmt: skip
    checks = [
        {"code": code, "outcome": "found" if findings else "ok", "reason": None, "duration_ms": 1} for code in asked
    ]
    base = {
        "schema_version": 1, "tool_version": "0", "runbook": "troubleshooting", "target": "prod",
        "status": "warning" if names else "ok", "reason": None, "started_at": f"2026-11-01T{hour:02}:00:00+00:00",
        "finished_at": f"2026-11-01T{hour:02}:00:01+00:00", "parameters": {}, "limits_overridden": {}, "server": SERVER,
        "findings": findings, "ignored": [], "checks": checks,
    }  # fmt: skip
    return {**base, **changes}


def write(out, *documents):
    for it in documents:
        stamp = datetime.datetime.fromisoformat(it["started_at"]).strftime("%Y%m%dT%H%M%SZ")
        folder = out / it["target"] / f"{stamp}-{it['runbook']}"
        folder.mkdir(parents=True)
        (folder / "findings.json").write_text(json.dumps(it))
    return folder


def seen(now, *earlier):
    return [it["first_seen"] for it in with_first_seen(now, reversed(earlier))["findings"]]


def test_without_earlier_records_nothing_is_known_of_the_past():
    assert seen(document(5, "1")) == [None]


def test_a_finding_that_is_new_stands_since_this_run():
    assert seen(document(5, "1"), document(4)) == ["2026-11-01T05:00:00+00:00"]


def test_a_series_began_with_the_first_run_that_has_it():
    third = with_first_seen(document(3, "1"), [document(2, "1"), document(1)])
    assert seen(document(4, "1"), document(1), document(2, "1"), third) == ["2026-11-01T02:00:00+00:00"]


def test_a_series_that_was_broken_begins_again():
    assert seen(document(5, "1"), document(3, "1"), document(4)) == ["2026-11-01T05:00:00+00:00"]


@pytest.mark.parametrize("between", [document(4, asked=()), document(4, server=None, checks=[], status="unknown")])
def test_a_run_that_did_not_ask_breaks_no_series(between):
    assert seen(document(5, "1"), document(3, "1"), between) == ["2026-11-01T03:00:00+00:00"]


def test_another_database_s_records_do_not_count():
    assert seen(document(5, "1"), document(4, "1", server={**SERVER, "database": "other"})) == [None]


def test_what_came_and_what_went_is_told():
    compared = changes(document(5, "2", "3"), [document(4, "1", "2")])
    assert [it["title"] for it in compared.new] == ["Session 3 blocks"]
    assert [it["title"] for it in compared.healed] == ["Session 1 blocks"]


def test_a_check_that_was_not_asked_heals_nothing():
    assert changes(document(5, asked=()), [document(4, "1")]).healed == []


def test_the_first_run_has_nothing_new():
    assert changes(document(5, "1"), []).new == []


def test_the_overview_says_what_is_new_what_healed_and_since_when(tmp_path):
    first, second = document(3, "1"), document(4, "1", "2")
    write(tmp_path, first, with_first_seen(second, [first]), document(5, "2", target="other", server=None))
    text = write_overview(tmp_path).read_text()
    assert "new: Session 2 blocks" in text
    assert "since 2026-11-01 03:00 UTC" in text
    write(tmp_path, document(6))
    assert "healed: Session 1 blocks" in write_overview(tmp_path).read_text()


def test_what_is_no_record_is_passed_over(tmp_path):
    write(tmp_path, document(3))
    for name in ("20261101T040000Z-troubleshooting", "20261101T050000Z-troubleshooting", "notes", ".x.partial"):
        (tmp_path / "prod" / name).mkdir()
    (tmp_path / "prod" / "20261101T050000Z-troubleshooting" / "findings.json").write_text("{half")
    assert len(list(records(tmp_path))) == 1
    write_overview(tmp_path)


def test_runs_of_an_incident_make_one_timeline_in_the_order_of_time(tmp_path):
    folders = [write(tmp_path, document(hour, *names)) for hour, names in ((3, ["1"]), (4, ["1", "2"]), (5, []))]
    for folder in folders[1:]:
        note_incident(tmp_path, "INC-7", folder)
    overview = write_overview(tmp_path).read_text()
    assert 'href="incident-INC-7.html"' in overview
    text = (tmp_path / "incident-INC-7.html").read_text()
    assert "03:00" not in text
    assert text.index("04:00") < text.index("05:00")
    assert "healed: Session 1 blocks" in text


def test_pruning_removes_what_is_older_and_nothing_that_is_no_record(tmp_path):
    write(tmp_path, document(3), document(9))
    (tmp_path / "prod" / "notes").mkdir()
    now = datetime.datetime(2026, 11, 1, 10, tzinfo=datetime.UTC)
    assert prune(tmp_path, 3600 * 2, now) == 1
    assert sorted(path.name for path in (tmp_path / "prod").iterdir()) == ["20261101T090000Z-troubleshooting", "notes"]


def test_pruning_removes_what_killed_runs_left_a_day_ago_and_not_what_runs_now(tmp_path):
    (tmp_path / "prod").mkdir()
    for age, name in ((0, "now"), (2 * 86400, "old")):
        folder, file = tmp_path / "prod" / f".{name}.partial", tmp_path / f".aside{name}"
        folder.mkdir()
        (folder / "notebook.ipynb").touch()
        file.touch()
        for path in (folder, file):
            os.utime(path, (time.time() - age,) * 2)
    assert prune(tmp_path, 86400, datetime.datetime.now(datetime.UTC)) == 0
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [".asidenow", ".now.partial"]


def test_a_timeline_outlives_its_pruned_runs(tmp_path):
    note_incident(tmp_path, "INC-7", write(tmp_path, document(3)))
    shutil.rmtree(tmp_path / "prod")
    write_overview(tmp_path)
