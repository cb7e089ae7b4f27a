"""What people hear of a scheduled run: received by a real mail server and a real webhook."""

import base64
import email
import http.server
import json
import os
import subprocess
import sys
import threading
from email.policy import default as mail_policy

import pytest
from aiosmtpd.controller import Controller

from pgrunbooks.archive import Record
from pgrunbooks.drills import drills
from pgrunbooks.notify import message

DRILL = drills()["ddl-lock-queue"]
SECRET = "s3cret"


class Mailbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        self.mails.append(email.message_from_bytes(envelope.content, policy=mail_policy))
        return "250 taken"


@pytest.fixture
def mail_server(free_port):
    """Return a mailbox behind a real SMTP server, and the URL that sends there."""
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port)
    controller.start()
    url = f"mailtos://127.0.0.1:{free_port}?mode=insecure&from=watcher@example.com&to=dba@example.com"
    yield mailbox, url.replace("mailtos", "mailto")
    controller.stop()


@pytest.fixture
def webhook():
    """Return what a real web server was posted, and the URL that posts there, with a secret in it."""
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = self.path.endswith("/refuse")
            posted.append((self.path, self.headers["Authorization"], content))
            self.send_response(500 if refused else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield posted, f"json://watcher:{SECRET}@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path, newest, monkeypatch):
    """Return a scheduled run of troubleshooting with these URLs to notify."""
    monkeypatch.chdir(tmp_path)

    def run(*urls, **environment):
        limits = {code: dict(own) for code, own in DRILL.thresholds.items()}
        target = {"dsn": newest.url(), "thresholds": limits}
        entry = {"runbook": "troubleshooting", "targets": ["prod"], "cron": "0 6 * * 1", "notify": urls}
        (tmp_path / "targets.yml").write_text(json.dumps({"targets": {"prod": target}, "schedule": [entry]}))
        command = [sys.executable, "-m", "pgrunbooks", "run", "troubleshooting", "--target", "prod", "--scheduled"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False, env={**os.environ, **environment}
        )

    return run


def reports(folder):
    return sorted(folder.glob("records/prod/*/report.html"))


def test_a_mail_server_and_a_webhook_receive_what_is_new_with_the_report(run, mail_server, webhook, newest, tmp_path):
    (mailbox, mail_url), (posted, hook) = mail_server, webhook
    urls = [mail_url, hook.replace(SECRET, "${HOOK_SECRET}")]
    well = run(*urls, HOOK_SECRET=SECRET)
    with DRILL.fault(newest) as incident:
        ill = run(*urls, HOOK_SECRET=SECRET)
    assert (well.returncode, well.stderr, ill.returncode, ill.stderr) == (0, "", 2, "")

    first, mail = mailbox.mails
    assert first["subject"].startswith("OK prod: ")
    assert mail["subject"].startswith("CRITICAL prod: ")
    assert mail["to"] == "dba@example.com"
    text = mail.get_body(("plain", "html")).get_content()
    assert f"Session {incident.name}" in text or incident.name in text
    for words in ("CRITICAL", "first: ", "New since the report of ", "report.html"):
        assert words in text
    assert "New since" not in first.get_body(("plain", "html")).get_content()
    (attached,) = mail.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("report.html", "text/html")
    page = reports(tmp_path)[1].read_bytes()
    assert attached.get_payload(decode=True).splitlines() == page.splitlines()

    assert len(posted) == 2
    _, authorization, content = posted[1]
    assert base64.b64decode(authorization.split()[1]).decode() == f"watcher:{SECRET}"
    assert content["title"].startswith("CRITICAL prod: ")
    assert content["type"] == "failure"
    assert base64.b64decode(content["attachments"][0]["base64"]) == page
    assert SECRET not in json.dumps(content) + mail.as_string() + ill.stdout


def test_a_failure_to_notify_keeps_record_and_exit_status_and_tells_no_secret(run, webhook, free_port, tmp_path):
    posted, hook = webhook
    result = run(
        f"{hook}/refuse",
        f"mailto://watcher:{SECRET}@127.0.0.1:{free_port}?from=a@example.com&to=b@example.com",
        f"nosuch://{SECRET}",
        "json://${NO_SUCH_VARIABLE}@localhost",
        hook,
    )
    assert result.returncode == 0
    assert len(reports(tmp_path)) == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 4, result.stderr
    for index, words in enumerate(["JSON", "E-Mail", "knows no service", "NO_SUCH_VARIABLE is not set"]):
        assert f"schedule.0.notify.{index}" in lines[index]
        assert "could not notify" in lines[index]
        assert words in lines[index]
    assert SECRET not in result.stdout + result.stderr
    assert [path for path, _, _ in posted] == ["/refuse", "/"]


def test_a_run_by_hand_notifies_nobody(run, webhook, tmp_path):
    posted, hook = webhook
    run(hook)
    command = [sys.executable, "-m", "pgrunbooks", "run", "troubleshooting", "--target", "prod", "--no-html"]
    assert subprocess.run(command, capture_output=True, timeout=90, check=False).returncode == 0
    assert len(posted) == 1


def test_apprise_is_imported_only_where_something_is_sent():
    code = "import sys; from pgrunbooks import cli, notify, schedule; print('apprise' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


# ---- the message -------------------------------------------------------------------------------------------------

SERVER = {"version": "18.0", "version_num": 180000, "system_identifier": "1", "database": "shop", "role": "r",
          "in_recovery": False}  # fmt: skip


def document(day, *names, severity="warning", **changes):
    findings = [
        {
            "id": f"blocking-lock:pid:{name}", "code": "blocking-lock", "area": "locks", "severity": severity,
            "object": {"kind": "pid", "name": name}, "title": f"Session {name} blocks", "impact": "i", "evidence": [],
            "evidence_total": 0, "remedies": [{"title": f"Ask {name}", "risk": "none"}], "caused_by": [],
        }
        for name in names
    ]  # fmt: skip
    base = {
        "runbook": "troubleshooting", "target": "prod", "status": "warning" if names else "ok", "reason": None,
        "started_at": f"2026-11-{day:02}T06:00:00+00:00", "finished_at": f"2026-11-{day:02}T06:00:01+00:00",
        "server": SERVER, "findings": findings, "checks": [{"code": "blocking-lock", "outcome": "found", "reason": None}],
    }  # fmt: skip
    return {**base, **changes}


def said(now, *earlier, folder):
    return message(Record(folder, now), earlier)


def test_the_message_tells_what_came_and_went_since_the_last_report(tmp_path):
    title, body = said(document(9, "2", "3"), document(2, "1", "2"), document(1), folder=tmp_path)
    assert title == "WARNING prod: Session 2 blocks"
    assert "WARNING  Session 2 blocks\n    first: Ask 2" in body
    assert "New since the report of 2026-11-02 06:00 UTC:\n- Session 3 blocks\n\n" in body
    assert "Healed since the report of 2026-11-02 06:00 UTC:\n- Session 1 blocks\n\n" in body
    assert body.endswith(f"{tmp_path}/findings.json")


def test_the_first_report_claims_nothing_new(tmp_path):
    assert "New" not in said(document(9, "1"), folder=tmp_path)[1]


def test_five_findings_are_told_and_the_rest_is_counted(tmp_path):
    _, body = said(document(9, *"1234567"), document(2), folder=tmp_path)
    assert body.count("first: ") == 5
    assert "and 2 more" in body
    assert "- and 2 more" in body


def test_notes_are_no_findings_and_a_run_that_could_not_judge_says_why(tmp_path):
    assert "first:" not in said(document(9, "1", severity="info", status="ok"), folder=tmp_path)[1]
    title, body = said(document(9, status="unknown", reason="cannot connect"), folder=tmp_path)
    assert title.startswith("UNKNOWN prod: ")
    assert "cannot connect" in body


def test_names_from_the_database_cannot_deceive_a_reader(tmp_path):
    now = document(9, "1")
    now["findings"][0]["title"] = "Session\n1 \x1b[2J\u202e blocks"
    title, body = said(now, folder=tmp_path)
    assert not {"\x1b", "\u202e"} & set(title + body)
    assert "Session 1 " in body
