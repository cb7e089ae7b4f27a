"""Months of the history: one file each once they are over, no snapshot lost or counted twice whatever is killed."""

import datetime
import os
import random
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from pyarrow import parquet

from pgrunbooks import growth, history, months
from pgrunbooks.archive import records
from pgrunbooks.session import open_session
from pgrunbooks.targets import Keep, Target

OCTOBER = datetime.datetime(2026, 10, 5, 6, tzinfo=datetime.UTC)
NOVEMBER = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)
KEEP = Keep(hourly="30d", daily="60d", weekly="365d")


class Kept:
    """A history with snapshots of a small database that grows."""

    def __init__(self, owner, session, folder):
        self.owner, self.session, self.folder = owner, session, folder
        self.whose = history.ids(session)
        self.place = history.filed(folder, self.whose)

    def take(self, at):
        self.owner.execute("insert into visits select repeat('x', 500) from generate_series(1, 200)")
        return history.record_snapshot(self.session, at=at, folder=self.folder)

    def taken(self):
        found, left_aside = history.snapshots(self.session, folder=self.folder)
        assert left_aside == []
        return found

    def names(self):
        return sorted(path.name for path in self.place.iterdir())

    def tidy(self, at, keep=None):
        months.tidy(self.place, self.whose, at, keep)

    def content(self):
        """Return all that readers get, times and rows."""
        return [
            (it.at, [history.read_rows(it, kind) for kind in ("database", "cluster", "sequence", "relation")])
            for it in self.taken()
        ]

    def answers(self):
        taken = self.taken()
        sizes = growth.table_sizes(taken, "public.visits")
        return growth.growth(taken), growth.database_sizes(taken), sizes


@pytest.fixture
def kept(empty_database, tmp_path):
    with (
        psycopg.connect(empty_database, autocommit=True) as owner,
        open_session(Target(name="tested", dsn=empty_database)) as session,
    ):
        owner.execute("create table visits (note text)")
        yield Kept(owner, session, tmp_path / "history")


class TestAMonthThatIsOver:
    def test_becomes_one_file_after_the_next_snapshot_and_its_parts_go_an_hour_later(self, kept):
        parts = {kept.take(OCTOBER + day * DAY).name for day in range(3)}
        kept.take(NOVEMBER)
        assert set(kept.names()) == parts | {"202610-0001-all.parquet", "20261102T060000Z.parquet"}
        kept.take(NOVEMBER + HOUR / 2)
        assert parts < set(kept.names())
        kept.take(NOVEMBER + HOUR)
        assert kept.names()[0] == "202610-0001-all.parquet"
        assert len(kept.names()) == 4

    def test_gives_every_reader_the_same_as_before(self, kept):
        for day in range(3):
            kept.take(OCTOBER + day * DAY)
        kept.take(OCTOBER + 3 * DAY - HOUR)
        now = OCTOBER + 5 * DAY
        before = kept.content(), kept.answers(), history.since(kept.session, now=now, folder=kept.folder).age_s
        assert before[1][0][0]["relation"] == "public.visits"
        assert len(before[1][2]) == 4
        for at in (NOVEMBER, NOVEMBER + HOUR):
            kept.tidy(at)
            since = history.since(kept.session, now=now, folder=kept.folder)
            assert (kept.content(), kept.answers(), since.age_s) == before
        assert kept.names() == ["202610-0001-all.parquet"]

    def test_is_left_alone_while_its_last_snapshot_may_still_be_written(self, kept):
        kept.take(OCTOBER)
        first = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
        kept.tidy(first + HOUR / 2)
        assert kept.names() == ["20261005T060000Z.parquet"]
        kept.tidy(first + HOUR)
        assert "202610-0001-all.parquet" in kept.names()

    def test_takes_up_a_snapshot_that_came_late(self, kept):
        kept.take(OCTOBER)
        kept.tidy(NOVEMBER)
        kept.tidy(NOVEMBER + HOUR)
        kept.take(OCTOBER + DAY)
        before = kept.content()
        kept.tidy(NOVEMBER + DAY)
        assert kept.content() == before
        kept.tidy(NOVEMBER + 2 * DAY)
        assert kept.names() == ["202610-0002-all.parquet"]
        assert kept.content() == before

    def test_is_not_written_again_where_nothing_changed(self, kept):
        kept.take(OCTOBER)
        for hour in range(3):
            kept.tidy(NOVEMBER + hour * HOUR)
        (path,) = kept.place.iterdir()
        inode = path.stat().st_ino
        kept.tidy(NOVEMBER + 9 * HOUR)
        assert [it.stat().st_ino for it in kept.place.iterdir()] == [inode]

    def test_keeps_what_two_wrote_at_once_once(self, kept):
        for day in range(3):
            kept.take(OCTOBER + day * DAY)
        parts = {path: path.read_bytes() for path in kept.place.iterdir()}
        before = kept.content()
        kept.tidy(NOVEMBER)
        (first,) = (path for path in kept.place.iterdir() if path not in parts)
        aside = first.rename(first.with_suffix(".aside"))
        kept.tidy(NOVEMBER)
        aside.rename(first.with_name("202610-0001-all-0123abcd.parquet"))
        assert len(kept.names()) == 5
        assert kept.content() == before
        kept.tidy(NOVEMBER + HOUR)
        assert len(kept.names()) == 1
        assert kept.content() == before


class TestADamagedFile:
    def spoil(self, path, *, keep_footer):
        content = bytearray(path.read_bytes())
        metadata = parquet.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        largest = max(chunks, key=lambda it: it.total_compressed_size)
        start = largest.dictionary_page_offset or largest.data_page_offset
        content[start + largest.total_compressed_size - 1] ^= 0xFF  # the last byte of a page
        path.write_bytes(content if keep_footer else content[: len(content) // 2])

    @pytest.mark.parametrize("keep_footer", [True, False])
    def test_of_a_month_does_not_cost_the_snapshots_that_are_still_there(self, kept, keep_footer, caplog):
        for day in range(3):
            kept.take(OCTOBER + day * DAY)
        before = kept.content()
        kept.tidy(NOVEMBER)
        self.spoil(kept.place / "202610-0001-all.parquet", keep_footer=keep_footer)
        kept.tidy(NOVEMBER + HOUR)
        assert len(kept.names()) >= 4
        if not keep_footer:
            found, left_aside = history.snapshots(kept.session, folder=kept.folder)
            assert [it.at for it in found] == [at for at, _ in before]
            assert left_aside == [f"{kept.place}/202610-0001-all.parquet: left aside: damaged, or not a Parquet file"]
        else:
            assert "202610-0001-all.parquet: left aside: damaged" in caplog.text

    @pytest.mark.parametrize("keep_footer", [True, False])
    def test_of_a_snapshot_stays_beside_the_month_of_the_others(self, kept, keep_footer):
        paths = [kept.take(OCTOBER + day * DAY) for day in range(3)]
        self.spoil(paths[1], keep_footer=keep_footer)
        for hour in range(3):
            kept.tidy(NOVEMBER + hour * HOUR)
        assert kept.names() == ["202610-0001-all.parquet", paths[1].name]
        found, _ = history.snapshots(kept.session, folder=kept.folder)
        assert [it.at for it in found if it.member is not None] == [OCTOBER, OCTOBER + 2 * DAY]

    def test_of_a_month_of_a_newer_program_is_left_aside_with_its_parts_in_use(self, kept, monkeypatch):
        kept.take(OCTOBER)
        with monkeypatch.context() as newer:
            newer.setattr(months.snapshot_file, "SCHEMA_VERSION", 99)
            kept.tidy(NOVEMBER)
        found, left_aside = history.snapshots(kept.session, folder=kept.folder)
        assert [it.path.name for it in found] == ["20261005T060000Z.parquet"]
        assert left_aside[0].endswith("left aside: written by a newer pgrunbooks")


class TestThinning:
    def test_keeps_the_first_of_each_hour_then_day_then_week_then_none(self, kept):
        for at in (OCTOBER, OCTOBER + HOUR / 2, OCTOBER + HOUR, OCTOBER + DAY, OCTOBER + 9 * DAY):
            kept.take(at)
        end = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)

        def left(age):
            kept.tidy(end + age * DAY, KEEP)
            kept.tidy(end + age * DAY + HOUR, KEEP)
            return [(it.at - OCTOBER) / HOUR for it in kept.taken()]

        assert left(1) == [0, 1, 24, 216]
        assert left(31) == [0, 24, 216]
        assert left(61) == [0, 216]
        assert kept.names() == ["202610-0003-weekly.parquet"]
        assert left(364) == [0, 216]
        assert left(365) == []
        assert kept.names() == []

    def test_gives_back_the_rows_of_what_stays(self, kept):
        for hour in range(4):
            kept.take(OCTOBER + hour * HOUR / 2)
        before = [it for it in kept.content() if it[0].minute == 0]
        kept.tidy(NOVEMBER, KEEP)
        assert kept.content() == before

    def test_happens_only_where_it_is_asked_for(self, kept):
        for minute in range(3):
            kept.take(OCTOBER + minute * HOUR / 60)
        kept.tidy(NOVEMBER + 9999 * DAY)
        assert len(kept.taken()) == 3

    def test_is_that_of_the_targets_file(self, kept, tmp_path, monkeypatch):
        (tmp_path / "targets.yml").write_text("history: {keep: {hourly: 1h, daily: 30d, weekly: 90d}}\ntargets: {}\n")
        monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "targets.yml"))
        for hour in range(3):
            kept.take(OCTOBER + hour * HOUR)
        kept.take(NOVEMBER)
        assert [it.at for it in kept.taken()] == [OCTOBER, NOVEMBER]


WORK = """
import datetime, sys
from pathlib import Path
from pgrunbooks import growth, history, months
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target
dsn, folder, at, what = sys.argv[1:]
at = datetime.datetime.fromisoformat(at)
with open_session(Target(name="tested", dsn=dsn)) as session:
    whose = history.ids(session)
    place = history.filed(Path(folder), whose)
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        if what == "tidy":
            months.tidy(place, whose, at)
        elif what == "snapshot":
            at += datetime.timedelta(minutes=1)
            print(history.record_snapshot(session, at=at, folder=Path(folder)).name, flush=True)
        else:
            growth.growth(history.snapshots(session, folder=Path(folder))[0])
        if what == "tidy":
            break
"""


class Worker:
    """A process of its own that works on the history, once it is told to go."""

    def __init__(self, dsn, folder, at, what):
        command = [sys.executable, "-c", WORK, dsn, str(folder), at.isoformat(), what]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill_after(self, seconds):
        """Kill it and return what it had said until then."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
        with self.process:
            return self.process.stdout.read().split()


STEP = """
import datetime, os, signal, sys
from pathlib import Path
from pgrunbooks import months, store
place, identifier, database, at, step = sys.argv[1:]
module = store if hasattr(store, step) else os
do = getattr(module, step)
def die_of_it(*arguments):
    do(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, step, die_of_it)
months.tidy(Path(place), (identifier, database), datetime.datetime.fromisoformat(at))
"""


class TestAKill:
    def clean(self, kept):
        """Let an hour pass for what was left unfinished, as the next runs would find it."""
        for path in kept.place.glob(".*.partial"):
            os.utime(path, (0, 0))

    def test_in_the_middle_of_a_compaction_loses_nothing(self, kept, empty_database):
        for hour in range(24):
            kept.take(OCTOBER + hour * HOUR)
        before, at = kept.content(), NOVEMBER
        chance = random.Random(5)
        for turn in range(8):
            if turn == 4:
                at += DAY  # from now on the parts are replaced
            worker = Worker(empty_database, kept.folder, at, "tidy")
            worker.go()
            worker.kill_after(chance.uniform(0.01, 0.5))
            assert kept.content() == before
        self.clean(kept)
        kept.take(at + DAY)
        kept.take(at + DAY + 2 * HOUR)
        assert kept.content()[:24] == before
        assert [name for name in kept.names() if name.startswith(("202610", "."))] in (
            ["202610-0001-all.parquet"], ["202610-0002-all.parquet"]
        )  # fmt: skip

    @pytest.mark.parametrize(("step", "at"), [("fsync", NOVEMBER), ("link", NOVEMBER), ("remove", NOVEMBER + DAY)])
    def test_at_each_step_of_a_compaction_leaves_the_next_one_clean(self, kept, step, at):
        """The month is written, then named; a day later the first of the files that it replaces is gone."""
        for day in range(3):
            kept.take(OCTOBER + day * DAY)
        before = kept.content()
        if at > NOVEMBER:
            kept.tidy(NOVEMBER)
        command = [sys.executable, "-c", STEP, str(kept.place), *kept.whose, at.isoformat(), step]
        assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
        assert (kept.content(), len(kept.names())) == (before, {"fsync": 4, "link": 5, "remove": 3}[step])
        self.clean(kept)
        kept.take(at + DAY)
        kept.take(at + 2 * DAY)
        assert kept.content()[:3] == before
        assert [it for it in kept.names() if it.startswith(("202610", "."))] == ["202610-0001-all.parquet"]

    def test_in_the_middle_of_the_growth_report_keeps_its_snapshot(self, kept, empty_database, tmp_path, monkeypatch):
        (tmp_path / "targets.yml").write_text(f"targets: {{ours: {{dsn: '{empty_database}'}}}}\n")
        monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(tmp_path / "targets.yml"))
        monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(kept.folder))
        out = tmp_path / "records"
        command = [sys.executable, "-m", "pgrunbooks", "run", "growth_report", "--target", "ours", "--out", str(out)]
        with subprocess.Popen(command) as killed:
            deadline = time.monotonic() + 60
            while not kept.taken():
                assert killed.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            killed.kill()
        (first,) = kept.content()
        assert list(records(out)) == []
        assert subprocess.run(command, check=False, timeout=100, capture_output=True).returncode == 0
        assert kept.content()[0] == first
        assert (len(kept.taken()), len(list(records(out)))) == (2, 1)

    def test_in_the_middle_of_a_snapshot_or_a_report_loses_nothing(self, kept, empty_database):
        chance = random.Random(6)
        said = []
        for turn in range(4):
            writer = Worker(empty_database, kept.folder, OCTOBER + turn * DAY, "snapshot")
            reader = Worker(empty_database, kept.folder, OCTOBER, "report")
            reader.go()
            writer.go()
            said += writer.kill_after(chance.uniform(0.1, 0.6))
            assert reader.process.poll() is None
            reader.kill_after(0)
            names = {it.path.name for it in kept.taken()}
            assert set(said) <= names
            assert len(names) - len(said) <= turn + 1  # named, but not yet told
        self.clean(kept)
        kept.take(OCTOBER + 9 * DAY)
        assert [name for name in kept.names() if name.startswith(".")] == []

    def test_is_not_needed_for_two_to_work_at_once(self, kept, empty_database):
        for hour in range(24):
            kept.take(OCTOBER + hour * HOUR)
        before = kept.content()
        for at in (NOVEMBER, NOVEMBER + DAY, NOVEMBER + 2 * DAY):
            workers = [Worker(empty_database, kept.folder, at, "tidy") for _ in range(2)]
            writer = Worker(empty_database, kept.folder, NOVEMBER, "snapshot")
            for worker in (*workers, writer):
                worker.go()
            deadline = time.monotonic() + 60
            while any(worker.process.poll() is None for worker in workers):
                assert kept.content()[:24] == before
                assert time.monotonic() < deadline
            for worker in workers:
                worker.kill_after(0)
                assert worker.process.returncode == 0
            said = writer.kill_after(0)
            assert set(said) <= {it.path.name for it in kept.taken()}
        assert len([name for name in kept.names() if name.startswith("202610")]) == 1
        assert kept.content()[:24] == before
