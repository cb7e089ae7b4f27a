"""A real PostgreSQL for the tests of this workspace: it is started for them and gone after them."""

from pathlib import Path

import pytest

from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.targets import load_target
from pgrunbooks.verdict import checks_for, look

TARGETS = Path(__file__).parents[1] / "targets.yml"


@pytest.fixture(scope="session")
def sandbox():
    """Return a server with a shop in it, which is the target 'sandbox' while the tests run."""
    with temporary_sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRUNBOOKS_SANDBOX", str(sandbox.directory))
        patch.setenv("PGRUNBOOKS_TARGETS", str(TARGETS))
        patch.setenv("PGRUNBOOKS_HISTORY", str(sandbox.directory / "history"))
        yield sandbox


@pytest.fixture
def findings(sandbox):
    """Return what asks the sandbox one check and lists the kind, name and severity of each finding."""

    def ask(code):
        verdict = look(load_target("sandbox"), checks_for(code), database=None, runbook="check", parameters={})
        assert verdict.checks[0].outcome in ("ok", "found"), verdict.checks[0].reason
        return [(it.kind, it.name, it.severity) for it in verdict.about(code)]

    return ask
