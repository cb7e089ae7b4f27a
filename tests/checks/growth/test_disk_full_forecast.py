import datetime
import subprocess
import sys

import pytest

from conftest import diagnose
from pgrunbooks.check import Context, Finding, Skip, catalogue
from pgrunbooks.checks.growth.disk_full_forecast import judge
from pgrunbooks.drills import drills
from pgrunbooks.drills._history import database, live
from pgrunbooks.drills.disk_full_forecast import TAKEN
from pgrunbooks.history import record_snapshot
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

CODE = "disk-full-forecast"
LIMITS = catalogue()[CODE].limits()
NOW = datetime.datetime(2026, 11, 22, 6, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
GB = 1024**3


@pytest.fixture(autouse=True)
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "history"))
    return tmp_path / "history"


def volume(left_days, *, tablespace=None, ago=0.0, daily=GB):
    """Return a volume that grows by the same each day and is full in so many days from now."""
    points = [(NOW - (29 - day + ago) * DAY, (100 * GB) + day * daily) for day in range(30)]
    return {
        "tablespace": tablespace,
        "disk_bytes": points[-1][1] + (left_days + ago) * daily + GB,
        "wal_bytes": GB,
        "now_s": NOW.timestamp(),
        "points": points,
        "shifts": [],
        "growers": [],
    }


def severities(rows, context):
    return [it.severity for it in judge(rows, LIMITS, context) if isinstance(it, Finding)]


def test_the_drill_is_found_with_what_grows_and_gone_when_it_is_healed(server, history):
    drill = drills()[CODE]
    with drill.fault(server) as incident:
        (found,) = diagnose(server, CODE, **incident.settings).about(CODE)
        assert (found.kind, found.severity) == ("target", "critical")
        assert "The disk is full in" in found.title
        assert found.evidence[0]["snapshots"] == 12
        assert found.evidence[0]["earliest_days"] < 7
        assert {"public.events"} == {it["table"] for it in found.evidence if "table" in it}
        large = {**incident.settings, "disk_bytes": "1000TB"}
        assert diagnose(server, CODE, **large).checks[0].outcome == "ok"
    assert [path for path in history.rglob("*") if path.is_file()] == []


def test_a_bulk_load_is_named_with_its_table(server):
    with database(server, "drill_load") as connection:
        live(server, connection, [500] * 8 + [40_000] + [500] * 4)
        (taken,) = connection.execute(TAKEN).fetchone()
        settings = {"dsn": server.url("drill_load"), "disk_bytes": f"{taken + 2_000_000}B"}
        (found,) = diagnose(server, CODE, **settings).about(CODE)
    (shift,) = [it for it in found.evidence if "cause" in it]
    assert shift["cause"] == "public.events was loaded"
    assert 40e6 < shift["shift_bytes"] < 60e6
    assert found.evidence[0]["daily_bytes"] < 2e6


class TestWithoutEnough:
    def skipped(self, server, **settings):
        verdict = diagnose(server, CODE, "sequence-exhaustion", **settings)
        assert verdict.status == "ok"
        (outcome,) = [it for it in verdict.checks if it.code == CODE]
        assert outcome.outcome == "skipped"
        return outcome

    def test_a_target_without_a_disk_is_told_to_name_it(self, server):
        assert "add the key 'disk_bytes'" in self.skipped(server).reason

    def test_no_history_is_told_how_to_get_one(self, server):
        outcome = self.skipped(server, disk_bytes="1TB")
        assert outcome.reason.startswith("there is no history of this database")
        assert outcome.remedy.startswith("pgrunbooks snapshot --target tested")

    def test_three_snapshots_are_too_few(self, server, remember):
        for hours in (2, 26, 50):
            remember(hours_ago=hours)
        assert self.skipped(server, disk_bytes="1TB").reason.startswith("3 snapshots tell the size")

    def test_an_old_history_foretells_nothing(self, server, remember):
        for day in range(9):
            remember(hours_ago=24 * (day + 20))
        assert "the newest snapshot is 20 days old" in self.skipped(server, disk_bytes="1TB").reason

    def test_sizes_that_the_role_could_not_read_are_none(self, server, powerless):
        with open_session(Target(name="tested", **powerless)) as session:
            for day in range(9):
                record_snapshot(session, at=datetime.datetime.now(datetime.UTC) - (day + 1) * DAY)
        assert self.skipped(server, disk_bytes="1TB").reason.startswith("0 snapshots tell the size")

    def test_a_role_that_may_not_see_the_wal_is_told_the_grant(self, server, remember, powerless):
        for day in range(9):
            remember(hours_ago=24 * day + 2)
        (outcome,) = diagnose(server, CODE, disk_bytes="1TB", **powerless).checks
        assert outcome.remedy == 'grant pg_monitor to "no rights";'


def test_costs_nothing_where_there_is_no_history_or_no_disk(server, remember):
    """Neither Parquet nor numpy nor ruptures is imported."""

    def imported(disk):
        script = (
            "import sys\n"
            "from pgrunbooks.targets import Target\n"
            "from pgrunbooks.verdict import checks_for, look\n"
            f"target = Target(name='tested', dsn={server.url()!r}, disk_bytes={disk!r})\n"
            f"look(target, checks_for({CODE!r}), database=None, runbook='check', parameters={{}})\n"
            "print(*{'pyarrow', 'duckdb', 'numpy', 'scipy', 'ruptures'} & set(sys.modules))\n"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        return run.stdout.split()

    assert imported("1TB") == []
    remember(hours_ago=2)
    assert imported(None) == []


@pytest.mark.parametrize(
    ("left", "severity"),
    [(400, []), (45, []), (31.5, []), (29, ["warning"]), (8.5, ["warning"]), (6.5, ["critical"]), (0, ["critical"]), (-5, ["critical"])],
)  # fmt: skip
def test_the_early_end_of_the_interval_is_held_against_the_limits(left, severity, context):
    assert severities([volume(left)], context) == severity


def test_the_age_of_the_newest_snapshot_is_taken_off(context):
    (found,) = judge([volume(10, ago=4)], LIMITS, context)
    assert found.evidence[0]["middle_days"] == pytest.approx(10, abs=0.3)


def test_what_has_stopped_to_grow_is_well(context):
    row = volume(5)
    still = [(at, min(size, 120 * GB)) for at, size in row["points"]]
    assert severities([{**row, "points": still, "disk_bytes": 123 * GB}], context) == []


def test_a_tablespace_with_a_volume_of_its_own_is_named(context):
    (found,) = judge([volume(5, tablespace="archive")], LIMITS, context)
    assert (found.kind, found.name) == ("tablespace", "archive")
    assert found.title.startswith("The volume of tablespace archive is full in")


def test_no_volume_is_a_question_to_the_target(context: Context):
    (answer,) = judge([], LIMITS, context)
    assert isinstance(answer, Skip)


def test_a_tablespace_of_its_own_does_not_count_to_the_disk_of_the_others(newest):
    place = newest.directory / "archive"
    place.mkdir()
    subprocess.run(["chown", "--reference", str(newest.data), str(place)], check=True)
    with newest.connect() as dba, database(newest, "drill_archive") as connection:
        dba.execute(f"create tablespace archive location '{place}'")
        try:
            connection.execute("alter table events set tablespace archive")
            live(newest, connection, [1000] * 12)
            settings = {"dsn": newest.url("drill_archive"), "disk_bytes": "1000TB", "tablespaces": {"archive": "20MB"}}
            found = diagnose(newest, CODE, **settings).about(CODE)
        finally:
            connection.execute("drop table events")
            dba.execute("drop tablespace archive")
    assert [(it.kind, it.name, it.severity) for it in found] == [("tablespace", "archive", "critical")]
