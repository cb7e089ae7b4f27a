"""Times the runbook 'troubleshooting' against papermill running an empty notebook, in turns on one machine.

What papermill, the kernel and the interpreter cost is in both; the ratio says what the runbook adds to that.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import nbformat

from measure import Page, Run, figure, run, table
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.workspace import shipped

EMPTY = "papermill, an empty notebook"
PACKAGES = ("pgrunbooks", "papermill", "ipykernel", "pandas", "matplotlib", "ipython-sql")
AIM = 1.6


def main() -> None:
    """Measure, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each command (default: 5)")
    given = parser.parse_args()
    page = Page("What a runbook adds to papermill", {name: metadata.version(name) for name in PACKAGES})
    with temporary_sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        os.environ["PGRUNBOOKS_SANDBOX"] = str(sandbox.directory)
        os.environ["PGRUNBOOKS_HISTORY"] = str(sandbox.directory / "history")
        commands = commands_in(Path(folder))
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(given.runs + 1):  # the first turn fills the caches of the file system
            for name, command in commands.items():
                done = run(command, cwd=Path(folder))
                if done.status != 0:
                    sys.exit(f"{name}: exit status {done.status}\n{done.output[-2000:]}")
                if turn:
                    runs[name].append(done)
    rows = [
        {
            "command": name,
            "s": figure([it.seconds for it in mine]),
            "x empty": figure([it.seconds / empty.seconds for it, empty in zip(mine, runs[EMPTY], strict=True)]),
            "CPU s": figure([it.cpu_s for it in mine]),
            "CPU x empty": figure([it.cpu_s / empty.cpu_s for it, empty in zip(mine, runs[EMPTY], strict=True)]),
        }
        for name, mine in runs.items()
    ]
    page.write(
        "notebooks",
        table(rows),
        f"Medians of {given.runs} runs (lowest to highest) of the whole process, after one turn that is not counted. "
        "CPU seconds include the kernel's. The ratios are taken turn by turn. "
        f"The aim for troubleshooting without HTML is at most {AIM}.",
    )


def commands_in(folder: Path) -> dict[str, tuple[str | Path, ...]]:
    """Return what is compared; an empty notebook and the outputs lie in ``folder``."""
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    empty.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(empty, folder / "empty.ipynb")
    papermill = (sys.executable, "-m", "papermill", "--no-progress-bar")
    runbook = shipped("runbooks") / "troubleshooting.ipynb"
    ours = (sys.executable, "-m", "pgrunbooks", "run", "troubleshooting", "--target", "sandbox")
    return {
        EMPTY: (*papermill, folder / "empty.ipynb", folder / "empty-out.ipynb"),
        "pgrunbooks run troubleshooting --target sandbox --no-html": (*ours, "--no-html", "--out", folder / "records"),
        "pgrunbooks run troubleshooting --target sandbox": (*ours, "--out", folder / "records"),
        "papermill runbooks/troubleshooting.ipynb out.ipynb": (*papermill, runbook, folder / "out.ipynb"),
    }


if __name__ == "__main__":
    main()
