import datetime
import json
import subprocess
import sys

import pytest

from conftest import diagnose
from pgrunbooks.check import Skip, catalogue
from pgrunbooks.checks.growth.growth_anomaly import interval, judge
from pgrunbooks.drills import drills
from pgrunbooks.drills._history import DAY, FILL, database, live
from pgrunbooks.history import record_snapshot
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

CODE = "growth-anomaly"
LIMITS = catalogue()[CODE].limits()
SMALL = {CODE: {"min_bytes": "1MB"}}
MB = 1024**2


@pytest.fixture(autouse=True)
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "history"))
    return tmp_path / "history"


def grown(megabytes, *, total=1000, past=(100, 104, 96) * 5, seconds=86400.0):
    return {
        "table": "shop.orders",
        "total_bytes": total * MB,
        "grown_bytes": megabytes * MB,
        "grown_s": seconds,
        "until": "2026-11-22T06:00:00+00:00",
        "past_daily_bytes": [it * MB for it in past],
    }


def titles(rows, context):
    return [it.title for it in judge(rows, LIMITS, context)]


def test_the_command_line_says_it_and_nothing_beside_it(server, tmp_path):
    drill = drills()[CODE]
    limits = {code: dict(limits) for code, limits in drill.thresholds.items()}
    command = [sys.executable, "-m", "pgrunbooks", "check", "growth", "--target", "prod", "--json"]
    with drill.fault(server) as incident:
        target = {"dsn": server.url(), "thresholds": limits, **incident.settings}
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"prod": target}}))
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert CODE in [it["code"] for it in json.loads(result.stdout)["findings"]]


def test_the_drill_is_found_and_gone_with_the_next_ordinary_day(server, history):
    drill = drills()[CODE]
    with drill.fault(server) as incident:
        settings = {"thresholds": drill.thresholds, **incident.settings}
        (found,) = diagnose(server, CODE, **settings).about(CODE)
        assert (found.kind, found.name, found.severity) == (incident.kind, incident.name, incident.severity)
        assert found.title.startswith("public.events grew by 4")
        with server.connect(dsn_database(incident)) as connection, open_session(target(incident)) as session:
            assert len(connection.execute(found.remedies[0].sql).fetchall()) == 1
            connection.execute(FILL, [310])
            record_snapshot(session, at=datetime.datetime.now(datetime.UTC) + 22 / 24 * DAY)
        assert diagnose(server, CODE, **settings).checks[0].outcome == "ok"
    assert [path for path in history.rglob("*") if path.is_file()] == []


def target(incident):
    return Target(name="tested", dsn=incident.settings["dsn"])


def dsn_database(incident):
    return incident.settings["dsn"].rpartition("/")[2].partition("?")[0]


def test_a_dropped_partition_is_no_table_that_shrank(server):
    with database(server, "drill_parts") as connection:
        connection.execute("create table parts (day integer, note text) partition by list (day)")
        now = datetime.datetime.now(datetime.UTC)
        with open_session(Target(name="tested", dsn=server.url("drill_parts"))) as session:
            for day in range(15):
                connection.execute(f"create table parts_{day} partition of parts for values in ({day})")
                connection.execute("insert into parts select %s, repeat('x', 1000) from generate_series(1, 500)", [day])
                if day in (7, 14):
                    dropped = ", ".join(f"parts_{it}" for it in range(day - 6, day))
                    connection.execute(f"drop table {dropped}")
                record_snapshot(session, at=now - (14 - day) * DAY)
            settings = {"dsn": server.url("drill_parts"), "thresholds": SMALL}
            verdict = diagnose(server, CODE, **settings)
            assert (verdict.checks[0].outcome, [row["table"] for row in verdict.rows[CODE]]) == ("ok", ["public.parts"])


def test_a_table_that_was_emptied_is_told_as_one_that_shrank(server):
    with database(server, "drill_emptied") as connection:
        live(server, connection, [300] * 14)
        connection.execute("delete from events where id % 2 = 0")
        connection.execute("vacuum full events")
        with open_session(Target(name="tested", dsn=server.url("drill_emptied"))) as session:
            record_snapshot(session, at=datetime.datetime.now(datetime.UTC))
        (found,) = diagnose(server, CODE, dsn=server.url("drill_emptied"), thresholds=SMALL).about(CODE)
    assert found.title.startswith("public.events shrank by 2")


def test_too_short_a_history_is_skipped_with_the_way_to_a_longer_one(server, remember):
    (outcome,) = diagnose(server, CODE).checks
    assert (outcome.outcome, outcome.reason[:24]) == ("skipped", "there is no history of t")
    for hours in (26, 2):
        remember(hours_ago=hours)
    (outcome,) = diagnose(server, CODE).checks
    assert outcome.reason.startswith("the history holds 2 snapshots; 12 are needed")
    assert outcome.remedy.startswith("pgrunbooks snapshot --target tested")


@pytest.mark.parametrize(
    ("megabytes", "found"), [(100, 0), (110, 0), (90, 0), (140, 1), (60, 1), (0, 1), (-500, 1), (5000, 1)]
)
def test_the_latest_rate_is_held_against_the_interval_of_the_past(megabytes, found, context):
    assert len(titles([grown(megabytes)], context)) == found


def test_one_percent_of_the_table_is_never_news(context):
    steady = (100,) * 12
    assert titles([grown(109, past=steady)], context) == []
    assert len(titles([grown(111, past=steady)], context)) == 1


def test_what_was_seen_before_is_not_unlike_the_past(context):
    assert titles([grown(900, past=(100,) * 11 + (950,))], context) == []


@pytest.mark.parametrize(("total", "found"), [(99, 0), (100, 1)])
def test_small_tables_are_left_out(total, found, context):
    assert len(titles([grown(90, total=total, past=(1,) * 12)], context)) == found


def test_no_table_is_well_and_a_missing_history_is_skipped(context):
    assert list(judge([], LIMITS, context)) == []
    assert list(judge([{"why": "no", "remedy": "do"}], LIMITS, context)) == [Skip("no", "do")]


def test_the_interval_holds_ninety_nine_of_a_hundred_normal_rates():
    import numpy as np

    rng = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        *past, latest = rng.normal(100, 20, 31)
        low, high = interval(past, 0, 86400)
        held += low <= latest <= high
    assert held >= 1960
