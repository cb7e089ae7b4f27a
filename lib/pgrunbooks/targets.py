"""Targets: the databases one may connect to, read from targets.yml and validated before anything connects."""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import psycopg
import yaml
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from pgrunbooks import units
from pgrunbooks.check import rules
from pgrunbooks.errors import ConfigurationError
from pgrunbooks.sandbox import default_sandbox

SANDBOX = "sandbox"
M = TypeVar("M", bound="Model")
LEVELS = ("all", "hourly", "daily", "weekly")  # how densely a month of the history is kept
_TOP: dict[str, type] = {"defaults": dict, "targets": dict, "schedule": list, "history": dict, "checks": str}
TOP_KEYS = {  # what each of them holds, for the reference
    "defaults": "keys of a target that hold for every target which does not have them itself; any but `dsn`",
    "targets": "name: keys of a target",
    "schedule": "a list of what runs when; `pgrunbooks schedule` prints it for a scheduler, which nothing here is",
    "history": "where `pgrunbooks snapshot` and the growth report keep what they measured, and for how long",
    "checks": "the folder of checks of one's own, relative to this file",
}
_MOST_S = 86400.0  # of a time-out; the server takes 24 days, and no statement of ours may last them
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# One field of a cron expression in what every scheduler understands: names of three letters, a step after * or a range.
_TERM = r"(?:\d+|[a-z]{3})(?:-(?:\d+|[a-z]{3})(?:/\d+)?)?"
_CRON_FIELD = re.compile(rf"\*(?:/\d+)?|{_TERM}(?:,{_TERM})*", re.IGNORECASE)

QUANTITIES: dict[units.Kind, BeforeValidator] = {
    "duration": BeforeValidator(lambda value: units.parse(value, "duration")),
    "bytes": BeforeValidator(lambda value: units.parse(value, "bytes")),
}
Duration = Annotated[float, QUANTITIES["duration"]]
Bytes = Annotated[float, QUANTITIES["bytes"]]


class Model(BaseModel):
    """What a person writes: an unknown key is a mistake, and no message quotes a value, which may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Ignore(Model):
    """A finding that the team has decided to live with, for a while and for a reason."""

    code: str = Field(description="the check, by its code")
    object: str = Field(description="name of the object; * and ? are wildcards")
    why: str = Field(description="the reason, shown with the verdict")
    until: datetime.date | None = Field(default=None, description="last day on which the finding is silenced")

    @field_validator("code")
    @classmethod
    def _code_exists(cls, code: str) -> str:
        if code not in rules():
            raise ValueError(f"no check has the code {code!r}; 'pgrunbooks list --checks' names them")
        return code

    def silences(self, code: str, name: str, today: datetime.date) -> bool:
        """Tell whether a finding of ``code`` about the object ``name`` is ignored on that day."""
        in_time = self.until is None or today <= self.until
        return in_time and code == self.code and fnmatch.fnmatchcase(name, self.object)


class Target(Model):
    """One database: how to reach it, what it is, and which of the default limits do not suit it."""

    name: str = Field(exclude=True)
    dsn: str = Field(repr=False, description="any libpq string or URI, service=NAME, or '' for the PG* variables")
    environment: Literal["development", "staging", "production"] | None = Field(
        default=None, description="what kind of database it is"
    )
    owner: str | None = Field(default=None, description="shown with every verdict")
    statement_timeout: Duration = Field(default=15.0, gt=0, le=_MOST_S, description="for each statement of ours")
    lock_timeout: Duration = Field(
        default=0.5, gt=0, le=_MOST_S, description="for each lock that a statement of ours waits for"
    )
    disk_bytes: Bytes | None = Field(default=None, description="what the volume holds in all")
    tablespaces: dict[str, Bytes] = Field(default={}, description="name -> what its own volume holds in all")
    memory_bytes: Bytes | None = Field(default=None, description="main memory of the server's host")
    backup_max_age: Duration | None = Field(default=None, description="how old the newest backup may be")
    pooler: str | None = Field(default=None, repr=False, description="libpq string of PgBouncer's admin console")
    thresholds: dict[str, dict[str, Any]] = Field(default={}, description="code -> {limit: value}")
    standbys: tuple[str, ...] = Field(default=(), description="other targets that are standbys of this one")
    ignore: tuple[Ignore, ...] = Field(default=(), description="findings that the team has decided to live with")
    allow_actions: bool = Field(default=False, description="lets the notebook's confirmed cancel / terminate work")

    @field_validator("thresholds", mode="before")
    @classmethod
    def _limits_exist(cls, thresholds: object) -> object:
        if not isinstance(thresholds, Mapping):
            raise ValueError(f"needs {{code: {{limit: value}}}}, got {thresholds!r}")
        for code, overrides in thresholds.items():
            if code not in rules():
                raise ValueError(f"{code}: no check has this code; 'pgrunbooks list --checks' names them")
            if not isinstance(overrides, Mapping):
                raise ValueError(f"{code}: needs {{limit: value}}, got {overrides!r}")
            try:
                rules()[code].limits(overrides)
            except ValueError as error:
                raise ValueError(f"{code}.{error}") from None
        return thresholds

    def limits(self, code: str) -> dict[str, float]:
        """Return the limits of a check as this target wants them, in seconds, bytes, fractions or counts."""
        return rules()[code].limits(self.thresholds.get(code, {}))


class Schedule(Model):
    """One line of the schedule: which runbook runs when, on which targets, and who hears of it."""

    runbook: str = Field(description="which one runs, by its name")
    targets: tuple[str, ...] = Field(description="on which targets, by their names")
    cron: str = Field(description="when: minute, hour, day of month, month, day of week; a step follows * or a range")
    notify: tuple[str, ...] = Field(default=(), repr=False, description="URLs as Apprise writes them; ${VAR} as in dsn")

    @field_validator("cron")
    @classmethod
    def _cron_means_the_same_everywhere(cls, cron: str) -> str:
        """Refuse what is no cron expression, what never comes, and what schedulers read in different ways."""
        from cronsim import CronSim, CronSimError

        fields = cron.split()
        if len(fields) != 5 or not all(map(_CRON_FIELD.fullmatch, fields)):
            raise ValueError(
                f"needs minute, hour, day of month, month and day of week, such as '0 6 * * 1', got {cron!r}"
            )
        days = [fields[2], fields[4]]
        if "*" not in days and any(field.startswith("*") for field in days):
            raise ValueError(
                f"{cron!r}: where day of month and day of week are both given, schedulers do not agree on a step after "
                "*; write the days out"
            )
        try:
            next(CronSim(cron, datetime.datetime(2000, 1, 1)))
        except CronSimError as error:
            raise ValueError(f"{cron!r}: {error}") from None
        except StopIteration:
            raise ValueError(f"{cron!r}: this time never comes") from None
        return " ".join(fields)


class Keep(Model):
    """How long the history keeps one snapshot an hour, then one a day, then one a week; counted in whole months."""

    hourly: Duration = Field(default=math.inf, gt=0, description="older than that: one a day")
    daily: Duration = Field(default=math.inf, gt=0, description="older than that: one a week")
    weekly: Duration = Field(default=math.inf, gt=0, description="older than that: none")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.hourly <= self.daily <= self.weekly:
            raise ValueError("needs hourly <= daily <= weekly, where one that is left out is without end")
        return self

    def level(self, age_s: float) -> str | None:
        """Return how densely snapshots of that age are kept; None: not at all."""
        return next((level for level in LEVELS[1:] if age_s < getattr(self, level)), None)


class History(Model):
    """Where the history lies, and what is kept of it; by default all of it, in a folder of the user's."""

    url: str | None = Field(default=None, min_length=1, description="a folder, or a URL such as s3://bucket/prefix")
    keep: Keep | None = Field(default=None, description="how densely it is kept as it grows old")


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def targets_file(start: Path | None = None) -> Path | None:
    """Return the targets file in force: $PGRUNBOOKS_TARGETS, else the nearest targets.yml, else the user's own.

    The nearest is sought from ``start`` (the current directory) upwards. Raises ConfigurationError where
    $PGRUNBOOKS_TARGETS names no file.
    """
    named = os.environ.get("PGRUNBOOKS_TARGETS")
    if named:
        if not Path(named).is_file():
            raise ConfigurationError(f"{named}: no such targets file")
        return Path(named)
    start = start or Path.cwd()
    places = [folder / "targets.yml" for folder in (start, *start.parents)]
    places.append(Path.home() / ".config" / "pgrunbooks" / "targets.yml")
    return next((place for place in places if place.is_file()), None)


def checks_folder() -> Path | None:
    """Return the folder of checks of one's own, which the targets file in force may name relative to itself.

    Raises ConfigurationError where there is no such folder.
    """
    path = targets_file()
    return _checks_folder(path.absolute(), path.stat().st_mtime_ns) if path else None


@cache
def _checks_folder(path: Path, _changed_at: int) -> Path | None:
    named = expand(_read(path)["checks"], f"{path}: checks")
    folder = path.parent / Path(named).expanduser()
    if named and not folder.is_dir():
        raise ConfigurationError(f"{path}: checks: no such folder: {folder}; 'pgrunbooks new check NAME' makes it")
    return folder if named else None


def name_checks_folder(path: Path) -> Path:
    """Return the folder of checks that a targets file names; where it names none, add ``checks``, which lies beside it.

    Raises ConfigurationError where the key cannot be added.
    """
    named = expand(_read(path)["checks"], f"{path}: checks")
    if named:
        return path.parent / Path(named).expanduser()
    text = path.read_text(encoding="utf-8")
    before = yaml.load(text, Loader=_StrictLoader)
    block = f"{text.rstrip()}\n\nchecks: checks                # the folder of checks of your own\n"
    for changed in (block, text.replace("{", '{"checks": "checks", ', 1)):  # as people write it, and as JSON
        with contextlib.suppress(yaml.YAMLError):
            if yaml.load(changed, Loader=_StrictLoader) == {**before, "checks": "checks"}:
                try:
                    path.write_text(changed, encoding="utf-8")
                except OSError as error:
                    raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
                return path.parent / "checks"
    raise ConfigurationError(f"{path}: names no folder of checks; add the key to it: checks: checks")


def target_names() -> list[str]:
    """Return the names one may give as a target, the sandbox last."""
    path = targets_file()
    names = [name for name in _read(path)["targets"] if name != SANDBOX] if path else []
    return [*names, SANDBOX]


def load_target(name: str) -> Target:
    """Return the target called ``name`` from the targets file in force; ``sandbox`` needs no file.

    Raises ConfigurationError, in one line that names the file and the key, for anything that is wrong with it.
    """
    path = targets_file()
    content = _read(path) if path else {"targets": {}, "defaults": {}}
    if path:
        _history(path, content["history"])  # a mistake there is told before anything connects
        rules()  # so is one in a check of one's own
    entry = content["targets"].get(name)
    if "/" in name or name.startswith(".") or not name:
        raise ConfigurationError(f"target {name!r}: cannot name a folder, and records lie in one of that name")
    if entry is None and name == SANDBOX:
        entry = {}
    if entry is None:
        known = ", ".join([*content["targets"], SANDBOX])
        where = str(path) if path else f"no targets.yml from {Path.cwd()} upwards; 'pgrunbooks init DIR' makes one"
        raise ConfigurationError(f"unknown target {name!r} ({where}); known: {known}")
    key = f"targets.{name}"
    drill = default_sandbox().drill() if name == SANDBOX else None
    own = {"dsn": "", "allow_actions": True} if name == SANDBOX else {}
    settings = {**content["defaults"], **own, **(drill["settings"] if drill else {}), **entry}
    for setting in ("dsn", "pooler"):
        if isinstance(settings.get(setting), str):
            settings[setting] = expand(settings[setting], f"{path}: {key}.{setting}")
            _check_conninfo(settings[setting], f"{path}: {key}.{setting}")
    target = _validate(Target, {"name": name, **settings}, f"{path}: {key}")
    for standby in target.standbys:
        if standby not in content["targets"]:
            raise ConfigurationError(f"{path}: {key}.standbys: unknown target {standby!r}")
    return target


def load_schedule() -> list[Schedule]:
    """Return the schedule of the targets file in force; empty where there is none."""
    path = targets_file()
    content = _read(path) if path else {"targets": {}, "schedule": []}
    entries = []
    for index, line in enumerate(content["schedule"]):
        entries.append(_validate(Schedule, line, f"{path}: schedule.{index}"))
        for name in entries[-1].targets:
            if name not in (*content["targets"], SANDBOX):
                raise ConfigurationError(f"{path}: schedule.{index}.targets: unknown target {name!r}")
    return entries


def variables(entry: Schedule, target: str) -> list[str]:
    """Return the names of the environment variables that a run of a schedule's entry on that target needs."""
    path = targets_file()
    content = _read(path) if path else {"targets": {}, "defaults": {}}
    settings = {**content["defaults"], **(content["targets"].get(target) or {})}
    texts = [str(settings.get("dsn", "")), str(settings.get("pooler", "")), *entry.notify]
    return sorted({name for text in texts for name in _VARIABLE.findall(text)})


def load_history() -> History:
    """Return where the targets file in force wants the history, and what is kept of it."""
    path = targets_file()
    return _history(path, _read(path)["history"]) if path else History()


def _history(path: Path, settings: dict[str, Any]) -> History:
    url = settings.get("url")
    if isinstance(url, str) and url:
        url = expand(url, f"{path}: history.url")
        is_relative = "://" not in url and not url.startswith("~")
        settings = {**settings, "url": str(path.absolute().parent / url) if is_relative else url}
    return _validate(History, settings, f"{path}: history")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {type(error).__name__}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise ConfigurationError(f"{path}:{line} is not YAML: {problem or 'cannot be parsed'}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: needs the key 'targets'")
    unknown = set(content) - set(_TOP)
    if unknown:
        raise ConfigurationError(f"{path}: {min(map(str, unknown))}: unknown key; known: {', '.join(_TOP)}")
    content = {key: content.get(key) or wanted() for key, wanted in _TOP.items()}
    for key, wanted in _TOP.items():
        if not isinstance(content[key], wanted):
            raise ConfigurationError(f"{path}: {key}: needs a {wanted.__name__}, got {type(content[key]).__name__}")
    content["targets"] = {str(name): entry for name, entry in content["targets"].items()}
    for name, entry in content["targets"].items():
        if not isinstance(entry, Mapping) and not (entry is None and name == SANDBOX):
            raise ConfigurationError(f"{path}: targets.{name}: needs keys and values, got {type(entry).__name__}")
    if "dsn" in content["defaults"]:
        raise ConfigurationError(f"{path}: defaults.dsn: a target has its own dsn")
    return content


def expand(text: str, where: str) -> str:
    """Return ``text`` with every ${VAR} replaced; raises ConfigurationError, which begins with ``where``, for none."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigurationError(f"{where}: the environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)


def _check_conninfo(text: str, where: str) -> None:
    """Refuse what leads nowhere; not shown, since libpq takes a piece of a password for a host, port or database."""
    try:
        known = conninfo_to_dict(text)
    except psycopg.ProgrammingError:  # its message quotes the whole string, password included
        raise ConfigurationError(
            f"{where}: is not a libpq connection string or URI (not shown: it may hold a password)"
        ) from None
    hosts, ports = (str(known.get(name) or "").split(",") for name in ("host", "port"))
    path = text.partition("/")[2].partition("/")[2].partition("/")[2].partition("?")[0]
    is_cut = text.startswith(("postgresql://", "postgres://")) and "@" in path
    is_port = all(not port or (port.isdecimal() and 0 < int(port) < 65536) for port in ports)
    if is_cut or not is_port or any("@" in host[1:] for host in hosts):
        raise ConfigurationError(
            f"{where}: its host, port or database cannot be one (not shown: it may be a piece of the password); in a "
            "URI each @ : / ? # of a password is written %40 %3A %2F %3F %23"
        )


def _validate(model: type[M], content: object, where: str) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; known: {', '.join(name for name in model.model_fields if name != 'name')}"
        joint = "." if key else ""
        raise ConfigurationError(f"{where}{joint}{key}: {message}") from None
