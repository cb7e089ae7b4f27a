"""The reference: the pages of docs/ that are made from the code, so that they say what the code does.

``python -m pgrunbooks.reference`` writes them, and so does ``make refresh``; a test compares them.
"""

from __future__ import annotations

import datetime
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pgrunbooks import targets, units
from pgrunbooks.check import Check, shipped_checks
from pgrunbooks.cli import main as command_line
from pgrunbooks.display import duration, size
from pgrunbooks.drills import drills
from pgrunbooks.privileges import LEVELS
from pgrunbooks.suggestions import Suggestion, suggestions
from pgrunbooks.verdict import AREAS, checks_for
from pgrunbooks.workspace import shipped

_MADE = "<!-- Made by `make refresh` from the code; a change here is lost. -->"
_WIDTH = 100
_BELOW = "keys, see below"
_WORDS = {
    str: "a text",
    bool: "`true` or `false`",
    int: "a number",
    float: "a number",
    datetime.date: "a date",
    Any: "a value",
}
_KINDS = {"duration": "a duration", "bytes": "a size", "share": "a percentage", "count": "a number"}


def main() -> None:
    """Write the pages, and remove those of areas that are no more."""
    folder, written = shipped("runbooks").parent / "docs", pages()
    for page in (folder / "checks").glob("*.md"):
        if f"checks/{page.name}" not in written:
            page.unlink()
    for name, text in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return every page that is made: its path below docs/ -> its text."""
    return {
        "checks.md": _checks_index(),
        **{f"checks/{area}.md": _area_page(area, checks) for area, checks in _by_area().items()},
        "command_line.md": _command_line_page(),
        "targets.md": _targets_page(),
    }


# ---- checks ------------------------------------------------------------------------------------------------------


def _by_area() -> dict[str, list[Check]]:
    """Return the checks that the project ships, in the order of checks.csv, by area."""
    areas: dict[str, list[Check]] = {}
    for check in shipped_checks().values():
        if check.judge.__module__.startswith("pgrunbooks.checks."):
            areas.setdefault(check.rule.area, []).append(check)
    return areas


def _checks_index() -> str:
    lines = [
        "# The checks",
        _MADE,
        "Every check, its question, the worst that it says, and its limits, each of which the key `thresholds` of a"
        " [target](targets.md) overrides. *Rights* are the [levels](permissions.md#the-three-levels) that it needs, in"
        " full or in part, beyond connecting. Each is proved by a drill on the oldest and the newest supported"
        " PostgreSQL.",
    ]
    for area, checks in _by_area().items():
        rows = [
            (
                f"[{check.code}](checks/{area}.md#{check.code})",
                _prose(check.rule.asks),
                check.rule.worst,
                ", ".join(f"{name} {default}" for name, default in check.rule.defaults.items()) or "none",
                ", ".join(_levels(check)) or "none",
            )
            for check in checks
        ]
        lines += [f"## {area}", _table(("check", "question", "worst", "limits", "rights"), rows)]
    return _page(lines)


def _area_page(area: str, checks: Iterable[Check]) -> str:
    lines = [
        f"# Checks: {area}",
        _MADE,
        f"All of them: `pgrunbooks check {area} --target NAME`. In what a check suggests, {{table}} stands for what the"
        " finding names, and [one | other] for what depends on it."
        " [The list of all checks](../checks.md).",
    ]
    for check in checks:
        lines += _check_section(check)
    return _page(lines)


def _check_section(check: Check) -> Iterator[str]:
    rule, module = check.rule, inspect.getmodule(check.judge)
    question, _, words = (inspect.getdoc(module) or "").partition("\n\n")
    yield f"## {check.code}"
    yield f"**{_prose(question)}**"
    yield _prose(words)
    names = rule.kind.replace("_", " ").replace(" |", ",")
    yield f"*The rule:* {_prose(rule.rule)}. *Worst:* {rule.worst}. *Names:* {names}."
    if rule.defaults:
        rows = [(f"`{name}`", value, _KINDS[units.kind_of(value)]) for name, value in rule.defaults.items()]
        yield _table(("limit", "default", "is"), rows)
    if needs := list(_needs(check)):
        yield "*Its limits:* " + "; ".join(needs) + "."
    if found := suggestions(check):
        yield "*Suggests,* by what it finds:"
        yield "\n".join(f"{number}. {_suggestion(it)}" for number, it in enumerate(found, 1))
    if drill := drills().get(check.code):
        yield f"*Proved by the drill* `pgrunbooks drill start {check.code}`: {_prose(drill.symptom)}"
    yield "*Asked by:* " + ", ".join(_askers(check)) + "."
    yield "*Read on:* " + ", ".join(_sources(check)) + "."


def _needs(check: Check) -> Iterator[str]:
    """Yield what a check cannot do without, and where it is not asked."""
    if check.opt_in:
        yield "it is asked by its own name only, since it costs more than a look"
    if levels := _levels(check):
        yield f"needs rights of [level {' and '.join(levels)}](../permissions.md#the-three-levels), in full or in part"
    if (lowest := min(check.sql)) > 15:
        yield f"needs PostgreSQL {lowest} or later"
    if check.extension:
        yield f"needs the extension `{check.extension}` in the database"
    if check.primary_only:
        yield "says nothing on a standby"
    if check.asks_standbys:
        yield "asks the `standbys` of the target too"
    if check.asks_pooler:
        yield "needs the key `pooler` of the target"
    if check.uses_counters:
        yield "goes by counters, which a reset or a crash empties"
    if check.since_snapshot:
        yield "is sharper with a history, which `pgrunbooks snapshot` and the growth report write"
    if check.samples > 1:
        yield f"looks {check.samples} times, {duration(check.sample_every_s)} apart"
    if check.budget_s:
        yield f"has {duration(check.budget_s)} in all, then it is stopped and named"


def _levels(check: Check) -> list[str]:
    return [str(level.number) for level in LEVELS if check.code in level.checks()]


def _suggestion(it: Suggestion) -> str:
    notes = [f"risk {it.risk.strip('[]').replace(' | ', ' or ')}"] + (
        [f"locks: {_prose(it.locks)}"] if it.locks and it.locks != "none" else []
    )
    text = f"{_prose(it.title)} *({', '.join(notes)})*"
    if it.sql:
        text += "\n\n" + "\n".join(f"   {line}".rstrip() for line in ("```text", *it.sql.splitlines(), "```"))
    return text + ("\n" if it.sql else "")


def _askers(check: Check) -> Iterator[str]:
    yield f"`pgrunbooks check {check.code if check.opt_in else check.rule.area}`"
    for name in sorted({*AREAS, "health_check"}):
        if check in checks_for(name) and (shipped("runbooks") / f"{name}.ipynb").is_file():
            yield f"[{name}](../../runbooks/{name}.ipynb)"


def _sources(check: Check) -> Iterator[str]:
    for number, url in enumerate(check.docs, 1):
        yield f"[the manual{f' ({number})' if number > 1 else ''}]({url})"
    for title, function in (
        ("the check", check.judge),
        ("the drill", getattr(drills().get(check.code), "fault", None)),
    ):
        if function:
            path = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").relative_to(Path(__file__).parent)
            yield f"[{title}](../../lib/pgrunbooks/{path.as_posix()})"


# ---- the command line --------------------------------------------------------------------------------------------

_STATUSES = """| status | means |
| --- | --- |
| 0 | ok, or done; `doctor`: nothing is missing |
| 1 | warning; `doctor`: something is missing or risky |
| 2 | critical |
| 3 | unknown: could not connect, could not judge, the runbook raised, or the sandbox does not start |
| 64 | wrong usage or configuration; nothing was asked |
| 130, 143 | ended by Ctrl-C, by SIGTERM |

`check` and `run` end with the verdict; `--exit-zero` turns 1 and 2 into 0 for schedulers that take any other status
for a broken job. `sandbox psql` and `lab` hand on the status of psql and of JupyterLab. Every other command ends with 0
once it is done. Results go to standard output, everything else to standard error."""

_VARIABLES = """| variable | is |
| --- | --- |
| `PGRUNBOOKS_TARGETS` | the targets file, before any `targets.yml` that lies near; `--targets` sets it |
| `PGRUNBOOKS_HISTORY` | where the history lies, a folder or a URL, before the key `history.url` |
| `PGRUNBOOKS_SANDBOX` | the folder of the sandbox |
| `PGRUNBOOKS_PG_BIN` | the `bin` folder of another PostgreSQL to make the sandbox with |"""


def _command_line_page() -> str:
    lines = [
        "# The command line",
        _MADE,
        "Each command with the text of its `--help`.",
        "## Exit statuses",
        _STATUSES,
        "## Environment variables",
        _VARIABLES,
    ]
    for path, text in _help(command_line, ("pgrunbooks",), None):
        lines += [f"## {' '.join(path)}", f"```text\n{text}\n```"]
    return _page(lines)


def _help(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield a command's path and its help, then those of the commands below it."""
    context = command.context_class(
        command,
        info_name=path[-1],
        parent=parent,
        **{**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH},
    )
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below and not below.hidden:
                yield from _help(below, (*path, name), context)


# ---- targets.yml -------------------------------------------------------------------------------------------------


def _targets_page() -> str:
    lines = [
        "# targets.yml",
        _MADE,
        "The databases that pgrunbooks may connect to, what is scheduled, and where the history lies. The file is"
        " `--targets FILE`, else `$PGRUNBOOKS_TARGETS`, else the nearest `targets.yml` from the current directory"
        " upwards, else `~/.config/pgrunbooks/targets.yml`. The name `sandbox` is always a target and needs no file."
        " A wrong key, type, unit, target or an unset variable is one line that names the file and the key, exit status"
        " 64, before anything connects.",
        "Durations, sizes and percentages are written as PostgreSQL writes them: `500ms`, `15s`, `10min`, `1h`, `30d`,"
        " `64MB`, `500GB`, `80%`. `${NAME}` in a connection string or URL is taken from the environment.",
        "## The file",
        _table(("key", "holds"), [(f"`{key}`", text) for key, text in targets.TOP_KEYS.items()]),
        "`pgrunbooks init` writes this one:",
        "```yaml\n"
        + resources.files("pgrunbooks").joinpath("targets_example.yml").read_text(encoding="utf-8").strip()
        + "\n```",
    ]
    for title, model in _models(
        {"A target": targets.Target, "A line of the schedule": targets.Schedule, "The history": targets.History}
    ):
        lines += [
            f"## {title}",
            _prose(inspect.getdoc(model) or ""),
            _table(("key", "is", "default", "means"), _keys(model)),
        ]
    return _page(lines)


def _models(first: Mapping[str, type[targets.Model]]) -> Iterator[tuple[str, type[targets.Model]]]:
    """Yield these models by their titles, each followed by those that its keys hold."""
    for title, model in first.items():
        yield title, model
        for name, field in model.model_fields.items():
            for part in _parts(field.annotation):
                if isinstance(part, type) and issubclass(part, targets.Model):
                    yield f"{title}: {name}", part


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def _keys(model: type[targets.Model]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if not field.exclude:
            yield f"`{name}`", _type(field.annotation, field.metadata), _default(field), _prose(field.description or "")


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return what a person writes for a key of this type."""
    metadata = [*metadata, *getattr(annotation, "__metadata__", ())]
    kinds = [kind for kind, known in targets.QUANTITIES.items() if known in metadata]
    origin, parts = typing.get_origin(annotation), [it for it in typing.get_args(annotation) if it is not type(None)]
    if kinds:
        return _KINDS[kinds[0]]
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, parts))
    if origin is typing.Literal:
        return ", ".join(f"`{it}`" for it in parts)
    if origin is tuple:
        return "a list, see below" if _type(parts[0]) == _BELOW else f"a list of {_type(parts[0]).removeprefix('a ')}s"
    if origin is dict:
        return f"name: {_type(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, targets.Model):
        return _BELOW
    return _WORDS.get(annotation, getattr(annotation, "__name__", "anything"))


def _default(field: FieldInfo) -> str:
    value, kinds = field.default, [kind for kind, known in targets.QUANTITIES.items() if known in field.metadata]
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, float) and not math.isfinite(value):
        return "without end"
    if kinds:
        return {"duration": duration, "bytes": size}[kinds[0]](value).replace(" ", "")
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# ---- Markdown ----------------------------------------------------------------------------------------------------


def _page(lines: Iterable[str]) -> str:
    return "\n\n".join(line.rstrip() for line in lines if line) + "\n"


def _prose(text: str) -> str:
    """Return a text of the code as Markdown: its ``code`` as `code`, and no sign of HTML in it."""
    pieces = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(
        f"`{piece.strip('`')}`" if piece.startswith("`") else re.sub(r"([<|])", r"\\\1", piece) for piece in pieces
    ).strip()


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    head = [columns, ["---"] * len(columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *map(list, rows)])


if __name__ == "__main__":
    main()
