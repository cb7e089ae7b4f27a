import dataclasses

import pytest

from conftest import diagnose
from pgrunbooks.check import Outcome
from pgrunbooks.checks.meta.privilege_missing import judge
from pgrunbooks.drills import drills

MONITOR = "grant pg_monitor to watcher;"
SEQUENCES = "grant select on all sequences in schema shop to watcher;"
READ_ALL = "grant pg_read_all_data to watcher;"
FILES = (
    "grant select on pg_catalog.pg_hba_file_rules, pg_catalog.pg_file_settings to watcher;\n"
    "grant execute on function pg_catalog.pg_hba_file_rules(), pg_catalog.pg_show_all_file_settings() to watcher;"
)
ROLE = {"role": "watcher", "quoted_role": "watcher", "has_monitor": False, "has_read_all_data": False}


def skipped(code, remedy, outcome="skipped", reason="cannot see"):
    return Outcome(code, outcome, 1.0, reason, remedy)


def judged(context, *outcomes, **changes):
    return list(judge([ROLE | changes], {}, dataclasses.replace(context, outcomes=outcomes)))


def remedies(context, *outcomes, **changes):
    (finding,) = judged(context, *outcomes, **changes)
    return [it.sql for it in finding.remedies]


def asked(server, **settings):
    return diagnose(server, "connections", "growth", "privilege-missing", **settings)


def test_the_drill_is_found_and_each_level_heals_its_part(server):
    assert asked(server).about("privilege-missing") == []
    with drills()["privilege-missing"].fault(server) as incident:
        for lacking in (2, 1):
            (finding,) = asked(server, **incident.settings).about("privilege-missing")
            assert (finding.kind, finding.name, finding.severity) == (incident.kind, incident.name, incident.severity)
            assert len(finding.remedies) == lacking
            with server.connect() as session:
                session.execute(finding.remedies[0].sql)
                session.execute(finding.remedies[0].undo)
                session.execute(finding.remedies[0].sql)
        healed = asked(server, **incident.settings)
        assert healed.about("privilege-missing") == []
        assert [it.code for it in healed.checks if (it.remedy or "").startswith("grant")] == []
    assert asked(server).about("privilege-missing") == []


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [Outcome("deadlocks", "ok", 1.0)],
        [skipped("pooler-waiting", None)],
        [skipped("heap-corruption", "create extension amcheck;")],
    ],
)
def test_without_a_grant_to_give_it_is_silent(outcomes, context):
    assert judged(context, *outcomes) == []


def test_no_row_is_silent(context):
    assert list(judge([], {}, dataclasses.replace(context, outcomes=(skipped("deadlocks", MONITOR),)))) == []


def test_each_level_has_one_grant_whatever_the_number_of_checks(context):
    outcomes = [
        skipped("long-transaction", MONITOR),
        skipped("long-running-query", "grant pg_read_all_stats to watcher;"),
        skipped("hba-trust", "grant select on pg_hba_file_rules to watcher;"),
        skipped("pending-restart", MONITOR, reason="permission denied for view pg_file_settings"),
        skipped("sequence-exhaustion", SEQUENCES, outcome="found"),
        skipped("integer-key-exhaustion", READ_ALL),
    ]
    (finding,) = judged(context, *outcomes)
    assert [it.sql for it in finding.remedies] == [MONITOR, FILES, READ_ALL]
    assert [row["level"] for row in finding.evidence] == [1, 1, 2, 2, 3, 3]
    assert finding.title == (
        "Role watcher could not see enough for 6 checks: long-transaction, long-running-query, hba-trust,"
        " pending-restart and 2 more"
    )


def test_the_narrow_grant_is_kept_where_it_is_enough(context):
    outcomes = [skipped(code, SEQUENCES) for code in ("sequence-exhaustion", "integer-key-exhaustion")]
    assert remedies(context, *outcomes) == [SEQUENCES]


def test_what_the_role_has_already_is_not_proposed_again(context):
    assert remedies(context, skipped("table-bloat", MONITOR), has_monitor=True) == [READ_ALL]


@pytest.mark.parametrize("view", ["pg_hba_file_rules", "pg_file_settings", "pg_ident_file_mappings"])
def test_the_grants_on_the_servers_files_open_them(view, server, context):
    denied = skipped("hba-trust", "grant pg_monitor to lab_role;", reason=f"permission denied for view {view}")
    (finding,) = judged(context, denied, role="lab_role", quoted_role="lab_role")
    with server.connect() as session:
        session.execute("create role lab_role")
        try:
            for statement in (finding.remedies[0].sql, finding.remedies[0].undo, finding.remedies[0].sql):
                session.execute(statement)
            session.execute(f"set role lab_role; select count(*) from {view}")
        finally:
            session.execute("reset role; drop owned by lab_role; drop role lab_role")


def test_an_odd_role_is_named_bare_and_quoted_in_the_grant(server):
    name = 'No " rights to x'
    quoted = '"No "" rights to x"'
    with server.connect() as session:
        session.execute(f"create role {quoted} login")
        try:
            (finding,) = asked(server, dsn=server.url(user=name)).about("privilege-missing")
            assert (finding.name, finding.remedies[0].undo) == (name, f"revoke pg_monitor from {quoted};")
            for remedy in finding.remedies:
                session.execute(remedy.sql)
            assert asked(server, dsn=server.url(user=name)).about("privilege-missing") == []
        finally:
            session.execute(f"drop owned by {quoted}; drop role {quoted}")
