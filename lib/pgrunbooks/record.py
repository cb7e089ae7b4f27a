"""Records: what a runbook executed through papermill leaves behind, whole or not at all."""

from __future__ import annotations

import ast
import contextlib
import datetime
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgrunbooks import execution
from pgrunbooks.archive import STAMP, Record, check_incident, note_incident, records, with_first_seen, write_overview
from pgrunbooks.display import BUNDLE, FILES
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.report import render_report
from pgrunbooks.targets import Target, load_target
from pgrunbooks.verdict import not_judged, utc_now
from pgrunbooks.workspace import runbook_files

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class Parameter:
    """One parameter of a runbook: its default as Python writes it, and what the cell's comment says about it."""

    name: str
    default: Any
    help: str


@dataclass(frozen=True)
class Runbook:
    """A notebook that can be run: the question in its title, and its parameters."""

    name: str
    path: Path
    question: str
    parameters: Mapping[str, Parameter]


def findings_schema() -> dict[str, Any]:
    """Return the JSON schema that every findings.json follows."""
    text = resources.files("pgrunbooks").joinpath("findings.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def runbooks() -> dict[str, Runbook]:
    """Read every runbook's title and parameters, those beside the targets file before the shipped: name -> Runbook."""
    return {name: _read(path) for name, path in runbook_files().items()}


def execute(
    name: str,
    target: str,
    *,
    given: Mapping[str, str],
    out: Path,
    database: str | None = None,
    incident: str | None = None,
    html: bool = True,
    progress: bool = False,
) -> Record:
    """Execute a runbook on a target through papermill and return the record that it left below ``out``.

    A cell that fails, a database that does not answer and a kernel that dies leave a record too, with the status
    unknown and the reason. Raises ConfigurationError for an unknown runbook, target or parameter, before anything
    runs, and for a value that the runbook itself refuses; it leaves no record then.
    """
    known = runbooks()
    if name not in known:
        raise ConfigurationError(f"unknown runbook {name!r}; known: {', '.join(known)}")
    runbook = known[name]
    if incident:
        check_incident(incident)
    the_target = load_target(target)
    parameters = _parameters(runbook, {**given, "target": target, **({"database": database} if database else {})})
    _try_to_write(out / the_target.name)
    started_at = utc_now()
    notebook, problem = execution.execute(runbook.path, parameters, progress=progress)
    document = _document(notebook, problem, runbook, the_target, parameters, started_at)
    return leave(notebook, document, out, owner=the_target.owner, began=started_at, incident=incident, html=html)


def _try_to_write(parent: Path) -> None:
    """Refuse a place where no record can be left, before anything runs."""
    try:
        with _aside(parent):
            pass
    except OSError as error:
        raise ConfigurationError(f"--out: {parent}: no record can be written: {error.strerror}") from None


def leave(
    notebook: NotebookNode,
    document: Mapping[str, Any],
    out: Path,
    *,
    owner: str | None,
    began: datetime.datetime,
    incident: str | None = None,
    html: bool = True,
) -> Record:
    """Write the record of a notebook that ran, whole or not at all, and bring the overview up to date.

    Raises RunbookError, which tells the status, where the disk is full by now.
    """
    parent = out / document["target"]
    with _full_disk_told(parent, document["status"]):
        document = with_first_seen(document, (it.document for it in records(out, document["target"])))
        with _aside(parent) as aside:
            _write(aside / "notebook.ipynb", execution.text_of(notebook))
            _write(aside / "findings.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            for file, text in _files(notebook).items():
                _write(aside / file, text)
            if html:
                _write(aside / "report.html", render_report(notebook, document, owner=owner, cost=_cost(notebook)))
            folder = _publish(aside, parent, began, document["runbook"])
        if incident:
            note_incident(out, incident, folder)
        write_overview(out)
    return Record(folder, document)


@contextlib.contextmanager
def _full_disk_told(parent: Path, status: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunbookError(f"{parent}: cannot be written: {error.strerror}; the status is {status.upper()}") from None


def _read(path: Path) -> Runbook:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]  # nbformat takes a second to import
        title = "".join(next(it["source"] for it in cells if it["cell_type"] == "markdown")).splitlines()[0]
        source = "".join(next(it["source"] for it in cells if "parameters" in it["metadata"].get("tags", [])))
        return Runbook(path.stem, path, title.lstrip("# "), {it.name: it for it in _parameters_of(source)})
    except (OSError, ValueError, SyntaxError, StopIteration, LookupError, TypeError):
        raise ConfigurationError(
            f"{path}: is no runbook: needs a title, and a cell tagged 'parameters' with 'name: type = literal' lines"
        ) from None


def _parameters_of(source: str) -> Iterator[Parameter]:
    """Read ``name: type = literal  # help`` lines; the parameters cell holds nothing else."""
    comments = dict(enumerate(source.splitlines(), start=1))
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            comment = comments[statement.end_lineno or 0][statement.end_col_offset or 0 :]
            yield Parameter(statement.target.id, ast.literal_eval(statement.value), comment.strip(" #"))


def _parameters(runbook: Runbook, given: Mapping[str, str]) -> dict[str, Any]:
    """Return every parameter with its value in the type of its default; refuse what the runbook does not have."""
    for name in given:
        if name not in runbook.parameters:
            raise ConfigurationError(f"unknown parameter {name!r}; {runbook.name} has: {', '.join(runbook.parameters)}")
    return {
        name: _typed(name, given[name], parameter.default) if name in given else parameter.default
        for name, parameter in runbook.parameters.items()
    }


def _typed(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, (int, float)):
            number = float(text)
            return int(number) if isinstance(default, int) and number == int(number) else number
    except (KeyError, ValueError, OverflowError):
        raise ConfigurationError(f"parameter {name}: needs a value like {default!r}, got {text!r}") from None
    return text


def _document(
    notebook: NotebookNode,
    problem: str | None,
    runbook: Runbook,
    target: Target,
    parameters: Mapping[str, Any],
    started_at: datetime.datetime,
) -> dict[str, Any]:
    """Return the findings that the notebook itself left; without any, or after a failure, the status is unknown."""
    bundles = [output.data[BUNDLE] for output in _bundles(notebook)]
    if not bundles:
        reason = problem or "the runbook left no findings"
        return not_judged(target, reason, runbook=runbook.name, parameters=parameters, started_at=started_at).document()
    document = json.loads(json.dumps(bundles[-1]))
    if problem and document["status"] != "critical":
        document |= {"status": "unknown", "reason": document["reason"] or problem}
    return {**document, "parameters": dict(parameters)}


def _bundles(notebook: NotebookNode, kind: str = BUNDLE) -> list[NotebookNode]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if kind in output.get("data", {})]


def _files(notebook: NotebookNode) -> dict[str, str]:
    """Return the SQL files that the cells left for the record, by name; a name that leads elsewhere is none."""
    files = {name: text for output in _bundles(notebook, FILES) for name, text in output.data[FILES].items()}
    return {name: text for name, text in files.items() if text and re.fullmatch(r"[a-z.]+\.sql", name)}


def _cost(notebook: NotebookNode) -> str | None:
    """Return what the run cost the server, which stands beside the findings that the notebook left."""
    return next((it.metadata.get(BUNDLE, {}).get("cost") for it in reversed(_bundles(notebook))), None)


@contextlib.contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=parent))
    aside.chmod(0o755)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _publish(aside: Path, parent: Path, started_at: datetime.datetime, name: str) -> Path:
    """Rename the finished record to its place; a second run within the same second takes the next one."""
    while True:
        folder = parent / f"{started_at.strftime(STAMP)}-{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
        try:
            return aside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        started_at += datetime.timedelta(seconds=1)
