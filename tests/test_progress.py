import subprocess

import pytest

from pgrunbooks.drills import Actors
from pgrunbooks.progress import operations
from pgrunbooks.sandbox import wait_until


@pytest.fixture
def big(server):
    """Return a table that a slow vacuum takes many seconds for."""
    with server.connect() as connection:
        connection.execute(
            "create table shop.\"Big One\" as select g as id, 'x' as t from generate_series(1, 200000) g"
        )
        yield 'shop."Big One"'
        connection.execute('drop table shop."Big One"')


def test_nothing_runs_and_nothing_is_waited_for(session):
    assert operations(session, over_s=3600) == []


def test_a_vacuum_says_how_far_it_is_and_when_its_phase_ends(session, server, big):
    with Actors(server) as stage:
        vacuum = stage.enter("nightly")
        vacuum.execute("set vacuum_cost_delay = '20ms'; set vacuum_cost_limit = 1")
        vacuum.pgconn.send_query(f"vacuum {big}".encode())
        stage.wait_until("select exists (select from pg_stat_progress_vacuum where heap_blks_scanned > 20)")
        (row,) = operations(session)
        pid = vacuum.info.backend_pid
    assert (row["operation"], row["relation"], row["phase"]) == ("vacuum", big, "scanning heap")
    assert 0 < row["done_share"] < 1
    assert row["phase_ends_in_s"] > 0
    assert row["pid"] == pid
    assert row["running_s"] > 0


def test_an_index_build_that_waits_names_whom_it_waits_for_and_has_no_end(session, server, big):
    with Actors(server) as stage:
        writer, builder = stage.enter("writer"), stage.enter("builder")
        writer.execute(f"begin; insert into {big} values (0, 'y')")
        builder.pgconn.send_query(f"create index concurrently on {big} (id)".encode())
        stage.wait_until("select exists (select from pg_stat_progress_create_index where phase like 'waiting%')")
        (row,) = operations(session, over_s=0.1)
        pid = writer.info.backend_pid
    assert row["operation"] == "create index concurrently"
    assert row["phase"].startswith("waiting for writers")
    assert row["blocked_by"] == [pid]
    assert row["waits_for"] == "Lock:virtualxid"
    assert row["phase_ends_in_s"] is None


def test_a_copy_from_a_client_has_no_known_end(session, server, big):
    with server.connect() as client, client.cursor() as cursor, cursor.copy(f"copy {big} from stdin") as copy:
        copy.write("1\tx\n" * 20000)
        rows = operations(session, over_s=0.1)
    (row,) = rows
    assert (row["operation"], row["phase"], row["relation"]) == ("copy from", "pipe", big)
    assert row["done_share"] is None
    assert row["phase_ends_in_s"] is None


def test_a_base_backup_is_seen(session, server, tmp_path):
    url = server.url()
    command = [
        server.programs / "pg_basebackup",
        "-d",
        url,
        "-D",
        "-",
        "-Ft",
        "-X",
        "none",
        "-c",
        "fast",
        "--max-rate=1M",
    ]
    with (
        (tmp_path / "backup.tar").open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE) as backup,
        server.connect() as watcher,
    ):
        try:
            wait_until(watcher, "select exists (select from pg_stat_progress_basebackup where backup_streamed > 0)")
            (row,) = operations(session)
        finally:
            backup.terminate()
    assert row["operation"] == "base backup"
    assert row["database"] is None
    assert row["phase"] == "streaming database files"
