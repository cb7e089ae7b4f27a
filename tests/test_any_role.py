"""Runs are complete, and skips explained, with every role, through a pooler, on a standby, in another database."""

import json
import subprocess
import sys

import jsonschema
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from conftest import diagnose
from pgrunbooks.drills import drills
from pgrunbooks.drills.pooler_waiting import pooler
from pgrunbooks.record import findings_schema
from pgrunbooks.sandbox import temporary_standby
from pgrunbooks.targets import Target
from pgrunbooks.verdict import checks_for, look


def judged(dsn, *names, **settings):
    target = Target.model_validate({"name": "tested", "dsn": dsn, **settings})
    verdict = look(target, checks_for(*names), database=None, runbook="check", parameters={})
    jsonschema.validate(verdict.document(), findings_schema())
    return verdict


def outcomes(verdict, *kinds):
    return {it.code: it.reason for it in verdict.checks if it.outcome in kinds}


def run_troubleshooting(tmp_path, dsn):
    (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"prod": {"dsn": dsn}}}))
    command = [sys.executable, "-m", "pgrunbooks", "run", "troubleshooting", "--target", "prod"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def role(server):
    """Return a maker of a login role with a name that needs quotes; it returns the role's URL."""
    made = []

    def make(*grants):
        with server.connect() as connection:
            connection.execute('create role "the Watcher\'s" login')
            made.append(True)
            for grant in grants:
                connection.execute(f'grant {grant} to "the Watcher\'s"')
        return server.url(user="the Watcher's")

    yield make
    if made:
        with server.connect() as connection:
            connection.execute('drop owned by "the Watcher\'s"')
            connection.execute('drop role "the Watcher\'s"')


def test_as_pg_monitor_the_run_is_complete(role, tmp_path):
    url = role("pg_monitor")
    verdict = judged(url)
    assert verdict.status == "ok"
    assert outcomes(verdict, "failed") == {}
    assert run_troubleshooting(tmp_path, url).returncode == 0


def test_with_no_rights_every_skip_says_what_would_help(role, tmp_path):
    url = role()
    verdict = judged(url)
    assert verdict.status == "ok"
    skipped = outcomes(verdict, "skipped")
    assert 'grant pg_monitor to "the Watcher\'s";' in skipped["idle-in-transaction"]
    assert all(skipped.values())
    assert run_troubleshooting(tmp_path, url).returncode == 0


def test_the_grant_that_a_skip_names_makes_the_check_work(role, server):
    url = role()
    remedies = {it.remedy for it in judged(url, "connections").checks if it.outcome == "skipped" and it.remedy}
    with server.connect() as connection:
        for remedy in remedies:
            connection.execute(remedy)
    assert set(outcomes(judged(url, "connections"), "skipped")) <= {"pooler-waiting", "subtransaction-overflow"}


def test_through_a_transaction_pooler_the_incident_is_found_and_the_next_client_is_left_alone(server, tmp_path):
    drill = drills()["ddl-lock-queue"]
    with pooler(server) as console:
        shop = make_conninfo(console, dbname="shop")
        with drill.fault(server) as incident:
            verdict = judged(shop, "locks", "connections", thresholds=drill.thresholds)
        assert incident.name in [it.name for it in verdict.about("ddl-lock-queue")]
        assert outcomes(verdict, "failed") == {}
        result = run_troubleshooting(tmp_path, shop)
        assert (result.returncode, result.stderr) == (0, "")
        with psycopg.connect(shop, autocommit=True, prepare_threshold=None) as next_client:
            settings = [
                next_client.execute(f"show {name}").fetchone()[0]
                for name in ("statement_timeout", "lock_timeout", "default_transaction_read_only")
            ]
        assert settings == ["0", "0", "off"]


def test_on_a_hot_standby_the_run_is_complete(server, tmp_path):
    with temporary_standby(server) as standby:
        verdict = judged(standby.url())
        assert (verdict.status, verdict.server.in_recovery) == ("ok", True)
        assert outcomes(verdict, "failed") == {}
        assert run_troubleshooting(tmp_path, standby.url()).returncode == 0


def test_another_database_is_asked_by_name_and_the_document_says_so(server):
    target = Target(name="tested", dsn=server.url())
    verdict = look(target, checks_for(), database="postgres", runbook="check", parameters={})
    assert verdict.document()["server"]["database"] == "postgres"
    assert verdict.status == "ok"


def test_an_idle_database_is_well(server):
    assert [it.code for it in diagnose(server).findings if it.severity != "info"] == []
