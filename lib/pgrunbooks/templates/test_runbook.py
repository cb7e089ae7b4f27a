"""The runbook my_runbook, executed on a real PostgreSQL as 'pgrunbooks run my_runbook' does."""

from pgrunbooks.record import execute


def test_it_runs_and_leaves_a_record(sandbox, tmp_path):
    record = execute("my_runbook", "sandbox", given={}, out=tmp_path)
    assert record.document["status"] in ("ok", "warning", "critical"), record.document["reason"]
    assert record.page.name == "report.html"
