"""The history: whole files or none, nothing lost between writers, nothing invented where there is no past."""

import datetime
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from conftest import session_on, visit
from pgrunbooks import growth, history, sizes
from pgrunbooks.cli import main
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.snapshot_file import COLUMNS, DAMAGE

MONDAY = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


class TestASnapshot:
    def test_holds_every_relation_as_it_was_measured(self, session, folder):
        path = history.record_snapshot(session, folder=folder)
        read = {row["relation"]: row for row in history.read_rows(path, "relation")}
        for row in sizes.size_inventory(session):
            if row["schema"] == "shop":
                same = {name: value for name, value in row.items() if not name.startswith(("last_", "n_"))}
                assert {name: read[row["relation"]][name] for name in same} == same

    def test_holds_the_counters_the_wal_position_and_the_sequences(self, session, folder):
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        (database,), (cluster,) = history.read_rows(path, "database"), history.read_rows(path, "cluster")
        (facts,) = session.rows("select pg_database_size('shop') as bytes, pg_current_wal_lsn() - '0/0' as wal")
        assert database["name"] == "shop"
        assert abs(database["database_bytes"] - facts["bytes"]) < 1_000_000
        assert database["xact_commit"] > 0
        assert 0 < cluster["wal_bytes"] <= facts["wal"]
        assert cluster["in_recovery"] is False
        sequences = {row["relation"]: row["last_value"] for row in history.read_rows(path, "sequence")}
        assert sequences["shop.orders_id_seq"] >= 200_000  # other tests let the shop work

    def test_holds_the_largest_values_of_integer_keys_but_waits_behind_no_lock_for_them(self, own, folder):
        owner, session = own
        owner.execute("create table keyed as select i from generate_series(1, 70) as i")
        owner.execute("alter table keyed add primary key (i)")
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        assert history.read_rows(path, "key") == [{"name": "public.keyed (i)", "last_value": 70}]
        with owner.transaction():
            owner.execute("lock table keyed in access exclusive mode")
            path = history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        assert history.read_rows(path, "key") == []

    def test_holds_the_sizes_of_the_tablespaces(self, session, folder):
        for day in range(3):
            path = history.record_snapshot(session, at=MONDAY + day * DAY, folder=folder)
        taken, _ = history.snapshots(session, folder=folder)
        read = growth.tablespace_sizes(taken)
        assert [(it["taken_at"], it["name"]) for it in read] == [
            (MONDAY + day * DAY, name) for day in range(3) for name in ("pg_default", "pg_global")
        ]
        (facts,) = session.rows("select pg_tablespace_size('pg_default') as bytes")
        assert abs(read[-2]["tablespace_bytes"] - facts["bytes"]) < 1_000_000
        make_version_1(path)
        assert len(growth.tablespace_sizes(taken)) == 4

    def test_many_are_thinned_by_their_names_and_the_newest_is_kept(self, session, folder):
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        paths = [history.record_snapshot(session, at=MONDAY + hour * HOUR, folder=folder) for hour in range(1, 25)]
        kept = history.spread(session, most=6, days=1, folder=folder)
        assert (len(kept), kept[-1].path) == (6, paths[-1])
        assert path not in {it.path for it in history.spread(session, most=99, days=0.5, folder=folder)}
        assert len(history.spread(session, most=99, days=0.5, folder=folder)) == 13

    def test_lies_below_the_servers_identifier_and_the_database(self, session, folder):
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        identifier = session.server.system_identifier
        assert path == folder / identifier / "shop" / "20261102T060000Z.parquet"
        assert history.snapshots((identifier, "shop"), folder=folder) == ([(MONDAY, path, None)], [])

    def test_of_a_database_with_an_odd_name_stays_in_the_folder(self, newest, folder):
        with newest.connect("postgres") as connection:
            connection.execute('create database "../..\\ü"')
        try:
            with session_on(newest.url("../..\\ü")) as session:
                path = history.record_snapshot(session, folder=folder)
                assert history.snapshots(session, folder=folder)[0][0].path == path
        finally:
            with newest.connect("postgres") as connection:
                connection.execute('drop database "../..\\ü" with (force)')
        assert path.resolve().is_relative_to(folder)
        assert path.parent.parent == folder / session.server.system_identifier

    def test_leaves_out_what_the_role_may_not_read(self, own, newest, folder):
        owner, session = own
        owner.execute("create role nobody_special login")
        try:
            with session_on(newest.url(session.server.database, "nobody_special")) as session:
                path = history.record_snapshot(session, folder=folder)
            (sequence,) = history.read_rows(path, "sequence")
            assert (sequence["relation"], sequence["last_value"]) == ("public.visits_id_seq", None)
            assert "public.visits" in {row["relation"] for row in history.read_rows(path, "relation")}
        finally:
            owner.execute("drop role nobody_special")

    def test_does_not_wait_for_a_sequence_that_is_being_altered(self, own, folder):
        owner, session = own
        with owner.transaction():
            owner.execute("alter sequence visits_id_seq increment by 2")
            path = history.record_snapshot(session, folder=folder)
        assert [row["last_value"] for row in history.read_rows(path, "sequence")] == [None]

    def test_says_in_one_line_why_it_cannot_be_written(self, session, folder):
        folder.write_text("a file, where a folder should be")
        with pytest.raises(ConfigurationError, match=r"no history can be written: .*PGRUNBOOKS_HISTORY"):
            history.record_snapshot(session, folder=folder)

    def test_says_in_one_line_that_the_catalog_is_locked(self, own, folder):
        owner, session = own
        with owner.transaction():
            owner.execute("lock table pg_sequence in access exclusive mode")
            with pytest.raises(RunbookError, match="no snapshot: a lock on the catalog"):
                history.record_snapshot(session, folder=folder)
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    def test_of_a_server_without_an_identifier_is_filed_under_the_target(self, session, monkeypatch):
        monkeypatch.setattr(session, "server", session.server.__class__(**{**vars(session.server), "system_identifier": None}))  # fmt: skip
        assert history.ids(session) == ("target tested", "shop")


class TestWriters:
    def test_one_that_is_killed_leaves_the_next_run_clean(self, server, session, folder):
        script = (
            "import os, signal\n"
            "import pathlib\n"
            "from pgrunbooks import history, store\n"
            "from pgrunbooks.session import open_session\n"
            "from pgrunbooks.targets import Target\n"
            "store.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"history.record_snapshot(open_session(Target(name='t', dsn={server.url()!r})),\n"
            f"    folder=pathlib.Path({str(folder)!r}))\n"
        )
        killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
        (left,) = [path for path in folder.rglob("*") if path.is_file()]
        assert killed.returncode == -signal.SIGKILL
        assert history.snapshots(session, folder=folder) == ([], [])
        os.utime(left, (0, 0))
        path = history.record_snapshot(session, folder=folder)
        assert [it for it in folder.rglob("*") if it.is_file()] == [path]

    def test_the_unfinished_file_of_another_that_still_writes_is_left_alone(self, session, folder):
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        other = path.with_name(".20261102T060000Z-12345678.partial")
        other.touch()
        history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        assert other.exists()


class TestADamagedOrForeignFile:
    def test_is_named_and_left_aside(self, session, folder):
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        content = path.read_bytes()
        path.with_name("cut.parquet").write_bytes(content[: len(content) // 2])
        path.with_name("empty.parquet").touch()
        path.with_name("folder.parquet").mkdir()
        parquet.write_table(pyarrow.table({"a": [1]}), path.with_name("strange.parquet"))
        for name, change in (
            ("newer", {b"pgrunbooks.schema_version": b"99"}),
            ("other", {b"pgrunbooks.database": b"x", **UNSEALED}),
            ("unsealed", {}),
        ):
            with path.open("rb") as file:
                table = parquet.read_table(file)
            metadata = {**table.schema.metadata, **change}
            parquet.write_table(table.replace_schema_metadata(metadata), path.with_name(f"{name}.parquet"))
        taken, warnings = history.snapshots(session, folder=folder)
        assert taken == [(MONDAY, path, None)]
        reasons = [warning.removeprefix(f"{path.parent}/") for warning in warnings]
        assert reasons == [
            "cut.parquet: left aside: damaged, or not a Parquet file",
            "empty.parquet: left aside: damaged, or not a Parquet file",
            "folder.parquet: left aside: Is a directory",
            "newer.parquet: left aside: written by a newer pgrunbooks",
            "other.parquet: left aside: a snapshot of another database",
            "strange.parquet: left aside: a Parquet file, but not a snapshot of pgrunbooks",
            "unsealed.parquet: left aside: damaged, or not a Parquet file",
        ]

    def test_gives_the_rows_that_were_written_or_none_whichever_bit_was_turned(self, own, folder):
        _, session = own
        path = history.record_snapshot(session, at=MONDAY, folder=folder)

        def content():
            taken, left_aside = history.snapshots(session, folder=folder)
            try:
                return [(it.at, history.read_rows(it, kind)) for it in taken for kind in COLUMNS], left_aside
            except DAMAGE as problem:
                return [], [str(problem)]

        whole, before = path.read_bytes(), content()
        footer = len(whole) - 16 - int.from_bytes(whole[-8:-4], "little")  # with its seal
        chance = random.Random(7)
        turned = [
            chance.randrange(start, end) for start, end in ((0, footer), (footer, len(whole))) for _ in range(100)
        ]
        detected = 0
        for position in turned:
            changed = bytearray(whole)
            changed[position] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            rows, left_aside = content()
            detected += bool(left_aside)
            assert (rows, left_aside) == before or (rows == [] and left_aside), position
            assert left_aside or position < footer, position
        assert detected > 100

    def test_that_is_damaged_inside_is_left_aside_when_it_is_read(self, own, folder, caplog):
        owner, session = own
        paths = []
        for day in range(3):
            paths.append(history.record_snapshot(session, at=MONDAY + day * DAY, folder=folder))
            visit(owner, 1000)
        content = bytearray(paths[0].read_bytes())
        footer = len(content) - 16 - int.from_bytes(content[-8:-4], "little")  # with its seal
        content[4:footer] = b"\xff" * (footer - 4)
        paths[0].write_bytes(content)
        taken, warnings = history.snapshots(session, folder=folder)
        assert (len(taken), warnings) == (3, [])
        grown = {row["relation"]: row for row in growth.growth(taken)}
        assert grown["public.visits"]["first_bytes"] > 16384
        assert len(growth.database_sizes(taken)) == 2
        assert str(paths[0]) in caplog.text


def databases_since(session, folder, at=MONDAY + DAY):
    """Return the names of the databases whose counters a snapshot can be compared with."""
    since = history.since(session, now=at, folder=folder)
    return None if since is None else set(since.databases)


class TestSince:
    def test_is_the_newest_snapshot_that_is_an_hour_old(self, own, folder):
        _, session = own
        for hour in (0, 1, 2):
            history.record_snapshot(session, at=MONDAY + hour * HOUR, folder=folder)
        found = [history.since(session, now=MONDAY + hour * HOUR, folder=folder) for hour in (0.99, 1, 2.5, 9)]
        assert [it and it.age_s / 3600 for it in found] == [None, 1, 1.5, 7]

    def test_opens_no_other_file_than_that_one(self, own, folder, caplog):
        _, session = own
        for hour in (0, 1):
            path = history.record_snapshot(session, at=MONDAY + hour * HOUR, folder=folder)
        for hour in ("00", "04", "08"):
            path.with_name(f"20261102T{hour}3000Z.parquet").write_text("damaged")
        assert history.since(session, now=MONDAY + 2 * HOUR, folder=folder).age_s == 3600
        assert caplog.text == ""
        (folder / path.parent / "20261102T070001Z.parquet").write_text("damaged")
        assert history.since(session, now=MONDAY + 3 * HOUR, folder=folder).age_s == 7200
        assert "20261102T070001Z.parquet: left aside: damaged" in caplog.text

    def test_holds_what_was_counted_in_every_database(self, server, session, folder):
        history.record_snapshot(session, at=MONDAY, folder=folder)
        since = history.since(session, now=MONDAY + HOUR, folder=folder)
        assert {"shop", "postgres", "template1"} <= since.databases.keys()
        (row,) = session.rows("select xact_commit, temp_files from pg_stat_database where datname = 'shop'")
        assert 0 < since.databases["shop"]["xact_commit"] <= row["xact_commit"]
        assert since.databases["shop"]["temp_files"] is not None
        assert since.checkpoints["requested_checkpoints"] >= 0

    def test_leaves_out_a_database_that_was_reset_since_and_no_other(self, own, folder):
        owner, session = own
        history.record_snapshot(session, at=MONDAY, folder=folder)
        assert session.server.database in databases_since(session, folder)
        owner.execute("select pg_stat_reset()")
        assert session.server.database not in databases_since(session, folder)
        assert "shop" in databases_since(session, folder)

    def test_leaves_out_a_database_whose_counters_fell_without_a_word(self, own, folder):
        _, session = own
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        rewrite(path, lambda row: {"xact_commit": 10**12} if row["name"] == session.server.database else {})
        assert session.server.database not in databases_since(session, folder)
        assert "shop" in databases_since(session, folder)

    def test_takes_a_database_that_was_made_since_as_one_that_had_counted_nothing(self, own, newest, folder):
        _, session = own
        with newest.connect("postgres") as connection:
            connection.execute("create database made_anew")
            try:
                history.record_snapshot(session, at=MONDAY, folder=folder)
                connection.execute("drop database made_anew")
                connection.execute("create database made_anew")
                since = history.since(session, now=MONDAY + DAY, folder=folder)
            finally:
                connection.execute("drop database if exists made_anew with (force)")
        assert since.databases["made_anew"]["xact_commit"] == 0

    def test_leaves_out_the_checkpoints_that_were_reset_since_and_nothing_else(self, server, session, folder):
        reset = f"select pg_stat_reset_shared('{'checkpointer' if session.server.major >= 17 else 'bgwriter'}')"
        with server.connect() as dba:
            dba.execute(reset)  # so that the archiver's counters are the older ones, whatever came before
            history.record_snapshot(session, at=MONDAY, folder=folder)
            dba.execute(reset)
        since = history.since(session, now=MONDAY + DAY, folder=folder)
        assert since.checkpoints is None
        assert "shop" in since.databases

    def test_leaves_out_all_that_is_counted_after_a_crash(self, folder):
        with temporary_sandbox() as sandbox:
            with session_on(sandbox.url()) as session:
                path = history.record_snapshot(session, at=MONDAY, folder=folder)
                assert "shop" in databases_since(session, folder)
            rewrite(path, lambda row: {name: 0 for name in row if name.startswith(("xact_", "blks_"))})
            sandbox.run("pg_ctl", "-D", str(sandbox.data), "-m", "immediate", "-w", "stop")
            sandbox.start()
            with session_on(sandbox.url()) as session:
                since = history.since(session, now=MONDAY + DAY, folder=folder)
        assert (since.databases, since.checkpoints, since.subscriptions) == ({}, None, {})

    def test_is_not_that_of_a_server_in_the_other_role(self, own, folder):
        _, session = own
        path = history.record_snapshot(session, at=MONDAY, folder=folder)
        rewrite(path, lambda row: {"in_recovery": True} if row["kind"] == "cluster" else {})
        assert history.since(session, now=MONDAY + DAY, folder=folder) is None

    def test_reads_a_file_of_version_1_as_far_as_it_goes(self, own, folder):
        owner, session = own
        make_version_1(history.record_snapshot(session, at=MONDAY, folder=folder))
        visit(owner, 1)
        since = history.since(session, now=MONDAY + DAY, folder=folder)
        assert since.databases.keys() == {session.server.database}
        assert since.databases[session.server.database]["xact_commit"] > 0
        assert since.databases[session.server.database]["temp_files"] is None
        assert (since.checkpoints, since.subscriptions, since.slots) == (None, {}, {})
        history.record_snapshot(session, at=MONDAY + DAY, folder=folder)
        taken, warnings = history.snapshots(session, folder=folder)
        assert (len(growth.database_sizes(taken)), warnings) == (2, [])
        assert "public.visits" in {row["relation"] for row in growth.growth(taken)}

    def test_costs_a_run_no_more_than_it_needs(self, server, remember):
        """The import of Parquet where there is a history, never those of pandas and DuckDB, which take longer."""
        script = (
            "import sys\n"
            "from pgrunbooks.targets import Target\n"
            "from pgrunbooks.verdict import checks_for, look\n"
            f"target = Target(name='tested', dsn={server.url()!r})\n"
            "verdict = look(target, checks_for('deadlocks'), database=None, runbook='check', parameters={})\n"
            "assert verdict.checks[0].outcome in ('ok', 'found')\n"
            "print(*{'pyarrow', 'pandas', 'duckdb'} & set(sys.modules))\n"
        )

        def imported():
            run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
            return run.stdout.split()

        assert imported() == []
        remember(hours_ago=2)
        assert imported() == ["pyarrow"]


class TestASlot:
    @pytest.fixture
    def slot(self, server):
        with server.connect() as connection:
            connection.execute("select pg_create_physical_replication_slot('forgotten', true)")
            try:
                yield connection
            finally:
                connection.execute("select pg_drop_replication_slot('forgotten')")

    def test_is_inactive_since_the_first_snapshot_that_saw_it_so_before_17(self, oldest, folder):
        with oldest.connect() as dba, session_on(oldest.url()) as session:
            dba.execute("select pg_create_physical_replication_slot('forgotten', true)")
            try:
                for hour in (0, 1, 2):
                    history.record_snapshot(session, at=MONDAY + hour * HOUR, folder=folder)
                since = history.since(session, now=MONDAY + 4 * HOUR, folder=folder)
                assert since.slots == {"forgotten": 4 * 3600}
                move(dba)
                history.record_snapshot(session, at=MONDAY + 5 * HOUR, folder=folder)
                since = history.since(session, now=MONDAY + 7 * HOUR, folder=folder)
                assert since.slots == {"forgotten": 2 * 3600}
            finally:
                dba.execute("select pg_drop_replication_slot('forgotten')")

    def test_that_was_read_since_the_snapshot_is_not_inactive_since_then(self, slot, session, folder):
        history.record_snapshot(session, at=MONDAY, folder=folder)
        assert history.since(session, now=MONDAY + DAY, folder=folder).slots.keys() == {"forgotten"}
        move(slot)
        assert history.since(session, now=MONDAY + DAY, folder=folder).slots == {}


class TestTheWorkloadSince:
    STATEMENT = "select /* seldom */ count(*) from shop.products where stock > {}"

    def calls(self, workload):
        return {it.text: it.calls for it in workload.statements if "seldom" in it.text}

    def ask(self, server, *stocks):
        with server.connect() as client:
            for stock in stocks:
                client.execute(self.STATEMENT.format(stock))

    def test_the_snapshot_is_what_was_counted_after_it(self, server, session, folder, monkeypatch):
        monkeypatch.setattr(history, "MIN_AGE_S", 0.0)
        with server.connect() as client:
            client.execute("select pg_stat_statements_reset()")
        self.ask(server, 1, 2, 3)
        history.record_snapshot(session, folder=folder)
        self.ask(server, 4, 5)
        workload = history.workload_since(session, folder=folder)
        assert self.calls(workload) == {self.STATEMENT.format("$1"): 2}
        assert 0 < workload.window_s < 600

    def test_a_reset_is_not_compared_with_what_was_before_it(self, server, session, folder, monkeypatch):
        monkeypatch.setattr(history, "MIN_AGE_S", 0.0)
        self.ask(server, 1)
        history.record_snapshot(session, folder=folder)
        with server.connect() as client:
            client.execute("select pg_stat_statements_reset()")
        self.ask(server, 2, 3)
        assert self.calls(history.workload_since(session, folder=folder)) == {self.STATEMENT.format("$1"): 2}

    def test_no_snapshot_is_since_the_reset(self, server, session, folder):
        self.ask(server, 1)
        assert self.calls(history.workload_since(session, folder=folder))[self.STATEMENT.format("$1")] >= 1

    def test_no_extension_says_how_to_get_it(self, own, folder):
        read = history.workload_since(own[1], folder=folder)
        assert read.remedy == "create extension pg_stat_statements;"


def move(connection):
    """Confirm WAL for the slot, as its reader would."""
    connection.execute("select pg_logical_emit_message(true, 'test', 'an order'), pg_switch_wal()")
    connection.execute("select pg_replication_slot_advance('forgotten', pg_current_wal_lsn())")


UNSEALED = {b"pgrunbooks.schema_version": b"3"}


def rewrite(path, change):
    """Change rows of a snapshot; version 3 had no seal yet."""
    with path.open("rb") as file:
        table = parquet.read_table(file)
    rows = [{**row, **change(row)} for row in table.to_pylist()]
    schema = table.schema.with_metadata({**table.schema.metadata, **UNSEALED})
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


VERSION_1 = """
kind taken_at relation schema name relation_kind parent oid heap_bytes toast_bytes index_bytes fsm_vm_bytes total_bytes
estimated rows n_live n_dead inserted updated deleted hot_updated last_vacuum last_autovacuum last_analyze
last_autoanalyze last_value min_value max_value increment_by database_bytes xact_commit xact_rollback blks_read blks_hit
temp_bytes deadlocks conflicts stats_reset wal_bytes in_recovery server_version_num started_at
"""


def make_version_1(path):
    """Turn a snapshot into the one that version 1 would have written: fewer columns, no other kinds of rows."""
    with path.open("rb") as file:
        table = parquet.read_table(file)
    rows = [row for row in table.to_pylist() if row["kind"] in ("cluster", "database", "sequence", "relation")]
    for row in rows:
        row.update({"database": {"oid": None}, "cluster": {"stats_reset": None}}.get(row["kind"], {}))
    schema = pyarrow.schema([table.schema.field(name) for name in VERSION_1.split()])
    schema = schema.with_metadata({**table.schema.metadata, b"pgrunbooks.schema_version": b"1"})
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def test_the_folder_is_the_users_own_unless_named(monkeypatch, tmp_path):
    monkeypatch.delenv("PGRUNBOOKS_HISTORY", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history.history_folder() == tmp_path / ".local" / "share" / "pgrunbooks" / "history"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert history.history_folder() == tmp_path / "data" / "pgrunbooks" / "history"
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path / "named"))
    assert history.history_folder() == tmp_path / "named"


def test_the_command_prints_where_the_snapshot_is(folder, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(folder))
    answer = CliRunner().invoke(main, ["snapshot", "--target", "sandbox"], catch_exceptions=False)
    path = Path(answer.output.strip())
    assert path.is_relative_to(folder)
    assert {row["name"] for row in history.read_rows(path, "database")} == {"shop"}
