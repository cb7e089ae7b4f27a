"""What the shell offers where somebody presses Tab; 'pgrunbooks --help' says how a shell learns of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from click import Context, Parameter

from pgrunbooks.check import registry
from pgrunbooks.drills import drills
from pgrunbooks.errors import RunbookError
from pgrunbooks.targets import target_names
from pgrunbooks.workspace import runbook_files

Completion = Callable[[Context, Parameter, str], list[str]]


def _offer(names: Callable[[], Iterable[str]]) -> Completion:
    def complete(context: Context, _: Parameter, incomplete: str) -> list[str]:
        if named := context.find_root().params.get("targets"):
            os.environ["PGRUNBOOKS_TARGETS"] = os.path.expanduser(named)  # noqa: PTH111 - a word, as the shell has it
        with contextlib.suppress(RunbookError):  # in the middle of a line nobody can be told what is wrong
            return [name for name in names() if name.startswith(incomplete)]
        return []

    return complete


def _areas_and_codes() -> list[str]:
    checks = registry()
    return [*dict.fromkeys(check.rule.area for check in checks.values()), *checks]


areas = _offer(_areas_and_codes)
targets = _offer(target_names)
runbooks = _offer(runbook_files)
drill_names = _offer(drills)
