"""Checks of one's own: entry points of installed packages, and the folder that the targets file names."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType

from pgrunbooks.check import SEVERITIES, Check
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.targets import checks_folder

ENTRY_POINTS = "pgrunbooks.checks"
_PACKAGE = "pgrunbooks_own_checks"  # as whose modules the files of the folder are imported
_WORDS = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
CODE = re.compile(rf"{_WORDS}\.{_WORDS}")


def own_checks() -> Mapping[str, Check]:
    """Return the checks that are not shipped, those of installed packages first: code -> Check.

    They are imported once a process. Raises ConfigurationError, in one line that names the file or entry point, for
    what cannot be imported, is no check, or takes a code that is taken.
    """
    return _own_checks(checks_folder())


@cache
def _own_checks(folder: Path | None) -> Mapping[str, Check]:
    found: dict[str, Check] = {}
    places: dict[str, str] = {}
    for place, load in (*_of_packages(), *(_of_folder(folder) if folder else ())):
        check = _understood(_loaded(place, load), place)
        if check.code in found:
            raise ConfigurationError(f"{place}: the code {check.code!r} is taken by {places[check.code]}")
        found[check.code], places[check.code] = check, place
    return MappingProxyType(found)


def _of_packages() -> Iterator[tuple[str, Callable[[], object]]]:
    for entry in sorted(entry_points(group=ENTRY_POINTS)):
        package = f" of {entry.dist.name}" if entry.dist else ""
        yield f"entry point {entry.name} = {entry.value}{package}", entry.load


def _of_folder(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the files that hold a check; they are modules of one package, so that ``from . import _shared`` works."""
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]  # of another folder
    sys.modules[_PACKAGE] = package
    importlib.invalidate_caches()
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            yield str(path), lambda name=path.stem: _check_of(name)  # type: ignore[misc]


def _check_of(name: str) -> object:
    return getattr(importlib.import_module(f"{_PACKAGE}.{name}"), "check", None)


def _loaded(place: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever such a file raises is told with its name
        frames = [it for it in traceback.extract_tb(error.__traceback__) if it.filename == place]
        line = f" in line {frames[-1].lineno}" if frames else ""
        message = (str(error).splitlines() or [""])[0]
        reason = ": ".join(filter(None, (type(error).__name__, message)))
        raise ConfigurationError(f"{place}: cannot be imported{line}: {reason}") from None


def _understood(check: object, place: str) -> Check:
    """Return the check, whose code has a prefix and whose rule is its own and can be understood."""
    if not isinstance(check, Check):
        raise ConfigurationError(
            f"{place}: is no check: needs a variable 'check' that holds a Check, got {type(check).__name__}"
        )
    code, rule = check.code, check.own_rule
    if not CODE.fullmatch(code):
        raise ConfigurationError(
            f"{place}: the code {code!r} needs a prefix of your own and lower-case words, as in 'my.slow-refund'"
        )
    if rule is None or rule.code != code:
        raise ConfigurationError(f"{place}: needs own_rule=Rule(code={code!r}, ...), since checks.csv has no {code}")
    if rule.worst not in SEVERITIES:
        raise ConfigurationError(f"{place}: worst: needs one of {', '.join(SEVERITIES)}, got {rule.worst!r}")
    try:
        rule.limits()
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{place}: the defaults of its rule: {error}") from None
    return check
