"""The tools to compare with, each in a virtual environment of its own below the user's cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHECK_POSTGRES = {  # ten actions that look at what goes on, with limits where there is no default
    "backends": (),
    "locks": (),
    "txn_idle": ("--warning=5s", "--critical=30s"),
    "txn_time": ("--warning=5s", "--critical=30s"),
    "query_time": ("--warning=5s", "--critical=30s"),
    "prepared_txns": (),
    "txn_wraparound": (),
    "autovac_freeze": (),
    "hitratio": (),
    "commitratio": (),
}


@dataclass(frozen=True)
class Tool:
    """One tool as its user calls it: commands that run one after the other.

    ``files`` are what it writes beside its output; ``absent`` says why it cannot be run here.
    """

    name: str
    commands: tuple[tuple[str | Path, ...], ...] = ()
    cwd: Path | None = None
    files: tuple[Path, ...] = ()
    absent: str | None = None


@dataclass(frozen=True)
class Peer:
    """A package of PyPI: its environment and its version, or why it is absent."""

    name: str
    home: Path
    version: str | None
    absent: str | None = None

    def program(self, name: str) -> Path:
        """Return the path of one of its commands."""
        return self.home / "bin" / name


def install(name: str, *extras: str) -> Peer:
    """Install a package and what it needs beside it, once; without a network it is absent.

    Where its metadata refuses this Python it is tried all the same, and the version says so.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "pgrunbooks-benchmarks" / name
    version = home / "version"
    if not version.exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        pip: list[str | Path] = [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, name, *extras], capture_output=True, text=True, check=False)
        note = ""
        if done.returncode and "Requires-Python" in done.stderr:
            done = subprocess.run(
                [*pip, "--ignore-requires-python", name, *extras], capture_output=True, text=True, check=False
            )
            note = f" (made for a newer Python than {sys.version_info.major}.{sys.version_info.minor})"
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return Peer(name, home, None, absent=(lines or ["pip failed"])[-1])
        asked = f"from importlib.metadata import version; print(version({name!r}))"
        said = subprocess.run([home / "bin" / "python", "-c", asked], capture_output=True, text=True, check=True)
        version.write_text(said.stdout.strip() + note, encoding="utf-8")
    return Peer(name, home, version.read_text(encoding="utf-8"))


def tools(url: str, socket: Path, database: str, scratch: Path) -> tuple[list[Tool], dict[str, str]]:
    """Return the peers as tools that look at a database, and their versions."""
    pg_diag, perf, dblinter = install("pg-diag"), install("pg-perf-check", "psycopg[binary]"), install("dblinter")
    tools = [
        *_pg_diag(pg_diag, url, scratch),
        _tool(perf, "pg-perf-check, no SQL files", [perf.program("pg-perf-check"), "--no-sql-files", *_perf(url)]),
        _tool(perf, "pg-perf-check", [perf.program("pg-perf-check"), *_perf(url)]),
        _check_postgres(socket, database),
        _dblinter(dblinter, socket, database),
    ]
    versions = {peer.name: peer.version for peer in (pg_diag, perf, dblinter) if peer.version}
    if program := shutil.which("check_postgres"):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        versions["check_postgres"] = (re.findall(r"[\d.]+\d", said) or ["unknown"])[0]
    return tools, versions


def _tool(peer: Peer, name: str, command: Iterable[str | Path], **settings: Path | tuple[Path, ...]) -> Tool:
    if peer.absent:
        return Tool(name, absent=peer.absent)
    return Tool(name, (tuple(command),), **settings)  # type: ignore[arg-type]


def _pg_diag(peer: Peer, url: str, scratch: Path) -> Iterable[Tool]:
    for name, tags in (("pg-diag, tag Locks", ("--tags", "Locks")), ("pg-diag, everything", ())):
        report = scratch / f"{name}.json"
        mode = ("--collection-mode", "remote-db-only", "--output-format", "json", "--json-out", report)
        command = [peer.program("pg-diag"), "one-shot", "--dsn", url, *mode, *tags]
        yield _tool(peer, name, command, cwd=scratch, files=(report,))


def _perf(url: str) -> tuple[str, ...]:
    return "--quiet", "--database-url", url


def _check_postgres(socket: Path, database: str) -> Tool:
    name, program = f"check_postgres, {len(CHECK_POSTGRES)} actions", shutil.which("check_postgres")
    if not program:
        return Tool(name, absent="not on the path; on Debian: apt-get install check-postgres")
    where = (f"--host={socket}", f"--dbname={database}", "--dbuser=postgres")
    return Tool(name, tuple((program, f"--action={it}", *where, *limits) for it, limits in CHECK_POSTGRES.items()))


def _dblinter(peer: Peer, socket: Path, database: str) -> Tool:
    where = ("--user", "postgres", "--password", "none", "--host", socket, "--dbname", database)
    packages = next((peer.home / "lib").glob("python*/site-packages"), None)  # it reads its rules relative to here
    return _tool(peer, "dblinter", [peer.program("dblinter"), *where], **({"cwd": packages} if packages else {}))
