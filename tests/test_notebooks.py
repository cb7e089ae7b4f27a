"""The committed notebooks: executed by nbval, the verdict's card compared."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from pgrunbooks.check import registry
from pgrunbooks.verdict import checks_for

ROOT = Path(__file__).parents[1]
# The walkthroughs come last, as they do when the notebooks are refreshed: the server counts what they do.
NOTEBOOKS = [*sorted(ROOT.glob("runbooks/*.ipynb")), *sorted(ROOT.glob("notebooks/*.ipynb"))]
SANITIZE = Path(__file__).with_name("nbval.cfg")


def nbval(notebook):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", f"--nbval-sanitize-with={SANITIZE}",
               "--nbval-cell-timeout=60", "-c", "/dev/null", "--rootdir", str(notebook.parent), str(notebook)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_was_committed(path):
    result = nbval(path)
    assert result.returncode == 0, result.stdout[-3000:]


def test_a_verdict_that_differs_is_noticed(tmp_path):
    notebook = nbformat.read(ROOT / "runbooks" / "troubleshooting.ipynb", as_version=4)
    text = json.dumps(notebook)
    assert "all of it is well" in text
    changed = nbformat.from_dict(json.loads(text.replace("all of it is well", "nothing is well")))
    nbformat.write(changed, tmp_path / "changed.ipynb")
    assert nbval(tmp_path / "changed.ipynb").returncode == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestEveryNotebook:
    def test_is_committed_with_its_outputs_and_without_a_failure(self, path):
        cells = nbformat.read(path, as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
        assert not [out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]

    def test_has_short_cells_with_one_idea(self, path):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%%sql"):
                assert len(cell.source.splitlines()) <= 7, cell.source
                assert not {"def", "class", "try:"} & set(cell.source.split()), cell.source

    def test_names_no_folder_of_this_machine(self, path):
        assert str(ROOT) not in path.read_text()


def test_the_table_of_complaints_names_findings_that_exist_and_are_asked():
    cells = nbformat.read(ROOT / "runbooks" / "troubleshooting.ipynb", as_version=4).cells
    rows = next(cell.source for cell in cells if "| complaint |" in cell.source).splitlines()[6:]
    assert len(rows) == 8
    names = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[3])}
    assert names <= set(registry())
    elsewhere = {"sequence-exhaustion", "integer-key-exhaustion", "invalid-index"}  # the row names these runbooks
    assert names - elsewhere <= {check.code for check in checks_for("troubleshooting")}
