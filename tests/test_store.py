"""The store: the same history in a folder, in memory and in an object store; what goes wrong there is one clear line."""

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from conftest import session_on
from pgrunbooks import filing, growth, history, store
from pgrunbooks.disk import uses
from pgrunbooks.errors import ConfigurationError, HistoryError
from pgrunbooks.notebook import slow_statements

OCTOBER = datetime.datetime(2026, 10, 5, 6, tzinfo=datetime.UTC)
NOVEMBER = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """Return the URL of an empty bucket of a real S3 server, with what it takes to reach it in the environment."""
    for name, value in (("ENDPOINT_URL", endpoint), ("ACCESS_KEY_ID", "us"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="team")
    S3FileSystem.clear_instance_cache()
    yield "s3://team/history"
    for it in client.list_objects_v2(Bucket="team").get("Contents", ()):
        client.delete_object(Bucket="team", Key=it["Key"])
    client.close()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def folder(request, tmp_path):
    urls = {"file": f"file://{tmp_path}/a%20folder", "memory": f"memory://{tmp_path.name}", "folder": str(tmp_path)}
    return store.location(request.getfixturevalue("bucket") if request.param == "s3" else urls[request.param])


@pytest.fixture
def session(empty_database):
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("create table visits as select repeat('x', 500) as note from generate_series(1, 1000)")
    with session_on(empty_database) as session:
        yield session


class TestAHistory:
    def test_is_the_same_wherever_it_lies(self, session, folder):
        place = filing.place(folder, history.ids(session))
        taken_at = [OCTOBER, OCTOBER + DAY, NOVEMBER, NOVEMBER + HOUR]
        for count, at in enumerate(taken_at, 1):
            path = history.record_snapshot(session, at=at, folder=folder)
            assert store.names(place)
            taken, left_aside = history.snapshots(session, folder=folder)
            assert ([it.at for it in taken], left_aside) == (taken_at[:count], [])
        assert [name[:6] for name in store.names(place)] == ["202610", "202611", "202611"]
        assert history.read_rows(path, "relation") == history.read_rows(taken[-1], "relation")
        for snapshot in taken:
            assert "public.visits" in {row["relation"] for row in history.read_rows(snapshot, "relation")}
        assert [row["taken_at"] for row in growth.database_sizes(taken)] == taken_at
        assert len(growth.table_sizes(taken, "public.visits")) == 4
        assert "public.visits" in {row["relation"] for row in growth.growth(taken)}
        assert history.since(session, now=NOVEMBER + HOUR, folder=folder).age_s == 3600

    def test_loses_nothing_where_two_write_in_the_same_second(self, session, empty_database, folder):
        paths = []

        def write():
            with session_on(empty_database) as session:
                paths.append(history.record_snapshot(session, at=OCTOBER, folder=folder))

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(paths)) == 3
        assert sorted(it.path for it in history.snapshots(session, folder=folder)[0]) == sorted(paths)
        for at in (NOVEMBER, NOVEMBER + HOUR):
            history.months.tidy(filing.place(folder, history.ids(session)), history.ids(session), at)
        taken, left_aside = history.snapshots(session, folder=folder)
        assert ([it.at for it in taken], left_aside) == ([OCTOBER] * 3, [])
        assert len({it.path for it in taken}) == 1

    def test_names_a_damaged_file_and_leaves_it_aside(self, session, folder):
        place = filing.place(folder, history.ids(session))
        history.record_snapshot(session, at=OCTOBER, folder=folder)
        damaged = store.put(place, "20261006T060000Z", lambda file: file.write(b"not a Parquet file"))
        taken, left_aside = history.snapshots(session, folder=folder)
        assert [it.at for it in taken] == [OCTOBER]
        assert left_aside == [f"{damaged}: left aside: damaged, or not a Parquet file"]

    def test_sees_what_another_machine_wrote_meanwhile(self, session, bucket):
        place = filing.place(bucket, history.ids(session))
        path = history.record_snapshot(session, at=OCTOBER, folder=bucket)
        assert len(store.names(place)) == 1
        client = boto3.client("s3")
        key = path.removeprefix("s3://team/")
        copy = key.replace("20261005", "20261006")
        client.copy_object(Bucket="team", Key=copy, CopySource={"Bucket": "team", "Key": key})
        client.close()
        assert len(store.names(place)) == 2


def connections(server):
    """Return how many were made to a socket where nobody took them."""
    server.setblocking(False)
    with contextlib.ExitStack() as taken:
        for count in range(99):
            try:
                taken.enter_context(server.accept()[0])
            except BlockingIOError:
                return count
    return 99


class TestAStoreThatCannotBeUsed:
    def refused(self, session, folder, kind):
        S3FileSystem.clear_instance_cache()  # so that the environment is read anew
        with pytest.raises(kind) as caught:
            history.record_snapshot(session, folder=store.location(folder))
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_is_one_that_nobody_knows(self, session):
        said = self.refused(session, "nowhere://team/history", ConfigurationError)
        assert said.startswith("nowhere://team/history/")
        assert "no store for a history: Protocol not known: nowhere" in said

    def test_is_a_bucket_that_is_not_there(self, session, bucket):
        said = self.refused(session, "s3://other/history", ConfigurationError)
        assert "the store of the history refuses" in said
        assert "bucket" in said

    def test_is_one_without_credentials(self, session, bucket, monkeypatch, tmp_path):
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.delenv(f"AWS_{name}")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        said = self.refused(session, f"{bucket}-without", ConfigurationError)
        assert "credentials" in said.lower()

    def test_is_one_that_does_not_answer(self, session, bucket, free_port, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
        said = self.refused(session, f"{bucket}-silent", HistoryError)
        assert "the store of the history cannot be reached" in said

    def test_is_left_out_of_what_the_disk_is_used_for_and_of_the_slow_statements(
        self, session, bucket, free_port, monkeypatch, tmp_path
    ):
        def asked(folder):
            monkeypatch.setenv("PGRUNBOOKS_HISTORY", str(folder))
            notes = [row["note"] for row in uses(session) if row["what"] == f"database {session.server.database}"]
            return notes, list(slow_statements(SimpleNamespace(session=session)).columns)

        S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
        (note,), columns = asked(f"{bucket}-left-out")
        assert "the store of the history cannot be reached" in note
        assert columns == asked(tmp_path)[1]

    def test_is_not_shown_with_its_password(self):
        assert store.shown("sftp://us:secret@host/folder") == "sftp://host/folder"


class TestTheCommand:
    def run(self, *arguments, **environment):
        command = [sys.executable, "-m", "pgrunbooks", *arguments]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=False
        )

    def test_tells_a_wrong_setting_from_a_store_that_cannot_be_reached(self, bucket, free_port):
        arguments = ("snapshot", "--target", "sandbox")
        wrong = self.run(*arguments, PGRUNBOOKS_HISTORY="s3://other/history")
        silent = self.run(*arguments, PGRUNBOOKS_HISTORY=bucket, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port}")
        whole = self.run(*arguments, PGRUNBOOKS_HISTORY=bucket)
        assert (wrong.returncode, silent.returncode, whole.returncode) == (64, 3, 0)
        assert [it.stderr.count("\n") for it in (wrong, silent, whole)] == [1, 1, 0]
        assert whole.stdout.startswith("s3://team/history/")

    def test_gives_up_soon_where_nobody_answers_and_a_check_goes_on_without(self, bucket):
        """Somebody takes the connections of each command and says nothing."""

        def start(silent, *arguments):
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            environment = {**os.environ, "PGRUNBOOKS_HISTORY": bucket, "AWS_ENDPOINT_URL": url}
            command = [sys.executable, "-m", "pgrunbooks", *arguments, "--target", "sandbox"]
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        with (
            socket.create_server(("127.0.0.1", 0), backlog=99) as mute,
            socket.create_server(("127.0.0.1", 0), backlog=99) as silent,
            start(mute, "snapshot") as snapshot,
            start(silent, "check", "queries", "growth", "--json") as check,
        ):
            said, errors = check.communicate(timeout=60)
            assert snapshot.communicate(timeout=60)[1].count("\n") == 1
            asked = connections(silent)
        assert (snapshot.returncode, check.returncode in (0, 1, 2)) == (3, True), errors
        outcomes = {it["code"]: it for it in json.loads(said)["checks"]}
        for code in ("temp-file-spill", "growth-anomaly"):
            assert outcomes[code]["outcome"] == "skipped"
            assert "the store of the history cannot be reached" in outcomes[code]["reason"]
        assert asked == 2  # for the first check that looks back, once more, and never again

    def test_takes_the_store_from_the_targets_file(self, bucket, tmp_path):
        targets = tmp_path / "targets.yml"
        targets.write_text(f"history: {{url: {bucket}}}\ntargets: {{}}\n")
        done = self.run("snapshot", "--target", "sandbox", PGRUNBOOKS_TARGETS=str(targets), PGRUNBOOKS_HISTORY="")
        assert done.stdout.startswith("s3://team/history/"), done.stderr
