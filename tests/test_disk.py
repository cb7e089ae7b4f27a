import datetime

import pytest

from pgrunbooks import disk, history
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target


def uses(server, **changes):
    with open_session(Target.model_validate({"name": "tested", "dsn": server.url(), **changes})) as session:
        return {row["what"]: row for row in disk.uses(session)}


def test_databases_wal_temporary_files_and_logs_are_weighed(server):
    rows = uses(server)
    assert rows["database shop"]["bytes"] > 1e6
    assert rows["pg_wal"]["bytes"] >= 16 * 2**20
    assert rows["pg_wal"]["note"] == "max_wal_size is 1GB; no slot keeps WAL"
    assert rows["temporary files now"]["bytes"] == 0
    assert "disk_share" not in rows["pg_wal"]


def test_shares_need_the_size_of_the_disk(server):
    row = uses(server, disk_bytes="1GB")["database shop"]
    assert row["disk_share"] == pytest.approx(row["bytes"] / 2**30)


def test_a_slot_that_keeps_wal_is_named(server):
    with server.connect() as connection:
        connection.execute("select pg_create_physical_replication_slot('forgotten', true)")
        try:
            assert "the slot forgotten keeps WAL since 0/" in uses(server)["pg_wal"]["note"]
        finally:
            connection.execute("select pg_drop_replication_slot('forgotten')")


def test_what_a_role_may_not_see_is_said_with_the_grant(server):
    with server.connect() as connection:
        connection.execute("create role nobody_special login")
        try:
            rows = uses(server, dsn=server.url(user="nobody_special"))
        finally:
            connection.execute("drop role nobody_special")
    assert rows["pg_wal"] == {"what": "pg_wal", "bytes": None, "note": "grant pg_monitor to nobody_special;"}
    assert rows["database shop"]["bytes"] > 1e6


def test_a_database_with_a_history_says_how_it_grew(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(tmp_path))
    now = datetime.datetime.now(datetime.UTC)
    with open_session(Target(name="tested", dsn=server.url())) as session:
        history.record_snapshot(session, at=now - datetime.timedelta(days=2))
        history.record_snapshot(session, at=now)
    assert uses(server)["database shop"]["note"].endswith(" in 2 d of history")
