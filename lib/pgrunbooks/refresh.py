"""Bring what is generated up to date, the pages of docs/ and the notebooks' outputs: what ``make refresh`` runs."""

from __future__ import annotations

import os

import nbformat
from nbclient import NotebookClient

from pgrunbooks import reference
from pgrunbooks.sample_data import run_workload
from pgrunbooks.sandbox import temporary_sandbox
from pgrunbooks.workspace import shipped

_VOLATILE = ("language_info", "widgets")


def main() -> None:
    """Execute each notebook in a fresh kernel against a fresh sandbox, as nbval does, and keep what it shows."""
    reference.main()
    with temporary_sandbox() as sandbox:
        run_workload(sandbox.url(), calls=2000, clients=1)  # so that the pages show a shop at work
        os.environ["PGRUNBOOKS_SANDBOX"] = str(sandbox.directory)  # the kernels inherit it
        os.environ["PGRUNBOOKS_HISTORY"] = str(sandbox.directory / "history")
        for folder in ("runbooks", "notebooks"):
            for path in sorted(shipped(folder).glob("*.ipynb")):
                notebook = nbformat.read(path, as_version=4)
                NotebookClient(
                    notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}, record_timing=False
                ).execute()
                for cell in notebook.cells:
                    cell.metadata.pop("execution", None)
                for key in _VOLATILE:
                    notebook.metadata.pop(key, None)
                nbformat.write(notebook, path)
                print(path.name)


if __name__ == "__main__":
    main()
