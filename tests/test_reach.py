from pgrunbooks.reach import answers
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target


def test_server_standbys_and_pooler_answer_or_say_why_not(newest, tmp_path, monkeypatch, free_port):
    file = tmp_path / "targets.yml"
    file.write_text(
        f"targets:\n  there: {{dsn: '{newest.url()}'}}\n  gone: {{dsn: 'host=127.0.0.1 port={free_port}'}}\n"
    )
    monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(file))
    pooler = f"host=127.0.0.1 port={free_port} dbname=pgbouncer user=postgres"
    target = Target(name="tested", dsn=newest.url(), standbys=("there", "gone", "nobody"), pooler=pooler)
    with open_session(target) as session:
        rows = answers(session)
    assert [(row["who"], row["name"], row["answers"]) for row in rows] == [
        ("server", "tested", True),
        ("standby", "there", True),
        ("standby", "gone", False),
        ("standby", "nobody", False),
        ("pooler", "tested", False),
    ]
    assert rows[0]["says"].startswith("PostgreSQL 18.")
    assert ", primary, up for " in rows[0]["says"]
    assert "cannot connect to gone: " in rows[2]["says"]
    assert "unknown target" in rows[3]["says"]
    assert "cannot connect to the pooler of tested: " in rows[4]["says"]
    assert all(row["took_s"] < 30 for row in rows)


def test_a_target_alone_is_one_row(newest):
    with open_session(Target(name="tested", dsn=newest.url())) as session:
        assert len(answers(session)) == 1
