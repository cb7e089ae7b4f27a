"""A running ``pgrunbooks lab`` for the tests, with a home and a data folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOKEN = "of-the-tests"
_ADDRESS = re.compile(r"is running at:\n.*\n.* (http://127\.0\.0\.1:\d+/)lab")


@dataclass(frozen=True)
class Lab:
    """Its address, its workspace, and the user's home beside that."""

    url: str
    workspace: Path
    home: Path
    process: subprocess.Popen[bytes]


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """Start ``pgrunbooks lab`` in ``folder``/workspace, on a port that it finds itself; its log lies beside it."""
    home, log = folder / "home", folder / "lab.log"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    folders = {"JUPYTER_DATA_DIR": str(folder / "data"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    command = [
        sys.executable,
        "-m",
        "pgrunbooks",
        "lab",
        "--no-browser",
        "--port=0",
        f"--IdentityProvider.token={TOKEN}",
    ]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=folder / "workspace",
            env={**inherited, **folders, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (address := _ADDRESS.search(log.read_text())) or not _answers(address[1]):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"pgrunbooks lab does not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield Lab(address[1], folder / "workspace", home, process)
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def _answers(url: str) -> bool:
    """Tell whether the server listens, which it says a moment before it does."""
    try:
        with urllib.request.urlopen(f"{url}api", timeout=5):
            return True
    except OSError:
        return False
