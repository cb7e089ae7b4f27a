"""Practice: one drill on the user's own sandbox, held by a process of its own until somebody stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pgrunbooks.drills import drills
from pgrunbooks.errors import ConfigurationError, SandboxError
from pgrunbooks.sandbox import Sandbox, default_sandbox

_START_S = 120.0
# What the process that holds a fault is told once somebody knows of it; where whoever wanted it is gone, it heals.
_GO_ON = b"go on"


@dataclass(frozen=True)
class Running:
    """The drill that runs: its check, the object that the check must name, and the process that holds it."""

    code: str
    kind: str
    name: str
    process: int


def running(sandbox: Sandbox) -> Running | None:
    """Return the drill that runs on a sandbox, if there is one."""
    state = sandbox.drill()
    return Running(state["code"], state["kind"], state["name"], state["process"]) if state else None


def start(code: str) -> Running:
    """Start a drill on the user's sandbox and return it once the fault is ripe.

    Raises ConfigurationError for an unknown drill and SandboxError where one runs already or the fault cannot be made.
    """
    if code not in drills():
        raise ConfigurationError(f"unknown drill {code!r}; 'pgrunbooks drill list' names them")
    sandbox = default_sandbox()
    if sandbox.drill():
        raise SandboxError("a drill runs already; 'pgrunbooks drill stop' ends it")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, code],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        assert process.stdin
        told = process.stdin
        deadline = time.monotonic() + _START_S
        try:
            while not (found := running(sandbox)):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.terminate()
                    output.seek(0)
                    last = (output.read().strip().splitlines() or ["it said nothing"])[-1]
                    raise SandboxError(f"the drill {code} could not be started: {last}")
                time.sleep(0.05)
            with contextlib.suppress(BrokenPipeError):  # it was stopped at once
                os.write(told.fileno(), _GO_ON)
        except (KeyboardInterrupt, SystemExit):
            told.close()
            process.terminate()
            process.wait()
            raise
        finally:
            told.close()
    process.returncode = 0  # it lives on by itself; nobody here waits for it
    return found


def stop() -> Running | None:
    """Heal the drill that runs on the user's sandbox and return it; None where none runs."""
    sandbox = default_sandbox()
    found = running(sandbox)
    if found:
        os.kill(found.process, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while sandbox.drill():
            if time.monotonic() > deadline:
                raise SandboxError(f"the drill's process {found.process} does not end")
            time.sleep(0.05)
    return found


def _hold(code: str) -> None:
    """Make the fault, say so in the sandbox's folder, and wait for the signal that ends it.

    An interrupt may come before whoever started this process can end it: then its standard input is at an end.
    """
    sandbox = default_sandbox().start()
    drill = drills()[code]
    try:
        with drill.fault(sandbox) as incident:
            thresholds = {name: dict(limits) for name, limits in drill.thresholds.items()}
            state = {
                "code": code,
                "kind": incident.kind,
                "name": incident.name,
                "process": os.getpid(),
                "settings": {"thresholds": thresholds, **incident.settings},
            }
            _say(sandbox.drill_file, json.dumps(state))
            if sys.stdin.buffer.read(len(_GO_ON)) == _GO_ON:
                signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:  # after the healing: whoever ends a drill waits for that
        sandbox.drill_file.unlink(missing_ok=True)


def _say(path: Path, text: str) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    _hold(sys.argv[1])
