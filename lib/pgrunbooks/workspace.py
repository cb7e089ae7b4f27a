"""A workspace: runbooks, walkthroughs and checks of one's own, with a targets file to fill in and tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pgrunbooks.check import catalogue
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.own_checks import CODE
from pgrunbooks.targets import name_checks_folder, targets_file

_EXAMPLE = "my.table-without-key"
_RUNBOOK = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def shipped(folder: str) -> Path:
    """Return the folder ``runbooks`` or ``notebooks`` that came with the package, in a checkout and installed alike."""
    return (Path(__file__).parent / folder).resolve()


def runbook_files() -> dict[str, Path]:
    """Return where each runbook lies: name -> notebook.

    A folder ``runbooks`` beside the targets file in force, such as ``pgrunbooks init`` makes, wins over the shipped.
    """
    targets = targets_file()
    folders = [shipped("runbooks"), *([targets.parent / "runbooks"] if targets else [])]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.ipynb"))}


def make_workspace(directory: Path) -> tuple[list[Path], list[Path]]:
    """Fill a folder with runbooks, walkthroughs, a commented targets.yml, an example check, its test and a CI file.

    Returns what was written and what was kept, since a file that is there already is never touched. Raises
    ConfigurationError where the folder cannot be written.
    """
    texts = {}
    for folder in ("runbooks", "notebooks"):
        for path in sorted(shipped(folder).iterdir()):
            if path.suffix in (".ipynb", ".md"):
                texts[Path(folder, path.name)] = path.read_text(encoding="utf-8")
    texts[Path(".github", "workflows", "runbooks.yml")] = _template("workflow.yml")
    texts[Path("targets.yml")] = (Path(__file__).parent / "targets_example.yml").read_text(encoding="utf-8")
    if not (directory / "targets.yml").exists():  # which may name no folder of checks
        texts |= _check(_EXAMPLE, Path("checks"), Path("targets.yml"))
    kept = [name for name in texts if (directory / name).exists()]
    written = [name for name in texts if name not in kept]
    _write({directory / name: texts[name] for name in written})
    return written, kept


def new_check(name: str) -> tuple[str, list[Path]]:
    """Write a check of one's own and its test beside the targets file in force; return its code and what was written.

    The code is ``name``, with the prefix ``my.`` where it has none. Both work as they are, and wait to be changed.
    Raises ConfigurationError for a name that cannot be one or is taken, and where there is no targets file.
    """
    code = name if "." in name else f"my.{name}"
    if not CODE.fullmatch(code):
        raise ConfigurationError(
            f"{name!r} cannot name a check: needs lower-case words joined by '-', as in 'slow-refund', which a prefix "
            "and a dot may precede, as in 'acme.slow-refund'"
        )
    if code.partition(".")[2] in catalogue():
        raise ConfigurationError(f"{name!r} is the name of a shipped check; choose another one")
    targets = _targets()
    folder = name_checks_folder(targets)
    return code, _add(_check(code, folder, targets))


def new_runbook(name: str) -> list[Path]:
    """Write a runbook of one's own and its test beside the targets file in force; return what was written.

    Both work as they are, and wait to be changed. Raises ConfigurationError as ``new_check`` does.
    """
    if not _RUNBOOK.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a runbook: needs lower-case words joined by '_', as in 'slow_refunds'"
        )
    if (shipped("runbooks") / f"{name}.ipynb").exists():
        raise ConfigurationError(f"{name!r} is the name of a shipped runbook; choose another one")
    targets = _targets()
    texts = {
        targets.parent / "runbooks" / f"{name}.ipynb": _template("runbook.ipynb", {"my_runbook": name}),
        targets.parent / "tests" / f"test_{name}_runbook.py": _template("test_runbook.py", {"my_runbook": name}),
    }
    return _add(texts | _conftest(targets))


def _targets() -> Path:
    path = targets_file()
    if not path:
        raise ConfigurationError(
            f"no targets.yml from {Path.cwd()} upwards, so there is no workspace; 'pgrunbooks init DIR' makes one"
        )
    return path


def _check(code: str, folder: Path, targets: Path) -> dict[Path, str]:
    """Return the files of a check of one's own: its own in the folder, the rest beside the targets file."""
    prefix, _, fault = code.partition(".")
    name = fault.replace("-", "_")
    check = _template("check.py", {_EXAMPLE: code, 'area="my"': f'area="{prefix}"'})
    test = _template("test_check.py", {_EXAMPLE: code})
    return {folder / f"{name}.py": check, targets.parent / "tests" / f"test_{name}.py": test, **_conftest(targets)}


def _conftest(targets: Path) -> dict[Path, str]:
    return {targets.parent / "tests" / "conftest.py": _template("conftest.py", {"targets.yml": targets.name})}


def _template(file: str, names: Mapping[str, str] = MappingProxyType({})) -> str:
    text = (Path(__file__).parent / "templates" / file).read_text(encoding="utf-8")
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def _add(texts: Mapping[Path, str]) -> list[Path]:
    """Write new files, where only conftest.py, which the tests share, may be there already."""
    there = [path for path in texts if path.exists()]
    taken = [path for path in there if path.name != "conftest.py"]
    if taken:
        raise ConfigurationError(f"{taken[0]} exists already; choose another name, or remove it first")
    return _write({path: text for path, text in texts.items() if path not in there})


def _write(texts: Mapping[Path, str]) -> list[Path]:
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
    return list(texts)
