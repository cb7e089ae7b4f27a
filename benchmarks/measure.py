"""What the benchmarks share: a process timed from outside, a figure with its range, and the page of a result."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 120.0


@dataclass(frozen=True)
class Run:
    """One command from its start to its exit; ``status`` is None where it was killed at the limit.

    ``cpu_s`` is what it and all that it waited for spent on a processor, which a busy machine changes little.
    """

    seconds: float
    output: str
    status: int | None
    cpu_s: float = 0.0


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit_s: float = LIMIT_S,
) -> Run:
    """Run a command with nothing to read and time it; its output goes through a file, which blocks nobody.

    At the limit it is killed with all that it started. Compiled modules are kept, as where a package is installed.
    Raises FileNotFoundError where there is no such program.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        start, spent = time.monotonic(), _cpu_of_children()
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(env or {})},
            cwd=cwd,
            start_new_session=True,
        ) as process:
            try:
                status: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = None
            seconds = time.monotonic() - start
        output.seek(0)
        return Run(seconds, output.read(), status, _cpu_of_children() - spent)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def figure(values: Sequence[float], digits: int = 2) -> str:
    """Return the median with the range beside it, such as ``0.61 (0.59 to 0.70)``; of one value, that value."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (one run)"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return records as a Markdown table; the keys of the first name the columns."""
    columns = list(rows[0])
    cells = [[str(row[name]).replace("|", "\\|") for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells])


class Page:
    """A result as it grows: what was run, when and where, and what came of it."""

    def __init__(self, title: str, versions: Mapping[str, str]) -> None:
        self.title = title
        self.versions = versions
        self.started_at = datetime.datetime.now(datetime.UTC)
        self.load = os.getloadavg()[0]

    def write(self, name: str, *parts: str) -> None:
        """Print the page and write it to ``results/NAME.md``."""
        text = "\n\n".join([f"# {self.title}", self._circumstances(), *parts]) + "\n"
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        print(text)

    def _circumstances(self) -> str:
        cores = os.cpu_count() or 1
        command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        versions = {"Python": platform.python_version(), **self.versions}
        shared = ": the machine was shared with other work" if self.load >= cores / 4 else ""
        return "\n".join(
            [
                f"- `{command}`, {self.started_at:%Y-%m-%d %H:%M} UTC",
                f"- {', '.join(f'{name} {version}' for name, version in versions.items())}",
                f"- {cores} cores, {platform.system()} {platform.machine()}; load {self.load:.2f} when it began, "
                f"{os.getloadavg()[0]:.2f} at its end{shared}",
            ]
        )
