"""The schedule of targets.yml as cron, systemd, Kubernetes and Airflow want it, and one scheduled run at a time.

Nothing here schedules: what is printed calls ``pgrunbooks run RUNBOOK --target NAME --scheduled`` at its time. That
option looks up in targets.yml whom to notify, so no address and no token stands in a crontab, a unit or a process list.
Values of environment variables are never printed, only their names and the file or secret that they come from.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import pwd
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.filing import history_folder
from pgrunbooks.record import runbooks
from pgrunbooks.store import Location
from pgrunbooks.targets import Schedule, load_schedule, targets_file, variables

_LONGEST_NAME = 52  # of a CronJob: the name of its job appends eleven characters to it and is a label of 63
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True)
class Line:
    """One runbook on one target at its times; ``key`` is its place in targets.yml, ``name`` a label of its own."""

    key: str
    entry: Schedule
    target: str
    variables: Sequence[str]
    name: str = ""

    @property
    def title(self) -> str:
        """Return what runs, in words."""
        return f"{self.entry.runbook} on {self.target}"


@dataclass(frozen=True)
class Place:
    """Where and as whom scheduled runs run; all paths are absolute."""

    python: Path
    targets: Path
    out: Path
    history: Location
    user: str
    version: str

    @property
    def environment(self) -> Path:
        """Return the file beside the targets file with the NAME='value' lines that it needs."""
        return self.targets.with_suffix(".env")


def lines() -> list[Line]:
    """Return the schedule of the targets file in force, a line for each target of each entry.

    Raises ConfigurationError for an unknown runbook or target, and for a runbook that stands twice on one target:
    what a run is called, locks and notifies goes by these two.
    """
    path, known = targets_file(), runbooks()
    found: list[Line] = []
    for index, entry in enumerate(load_schedule()):
        key = f"{path}: schedule.{index}"
        if entry.runbook not in known:
            raise ConfigurationError(f"{key}.runbook: unknown runbook {entry.runbook!r}; known: {', '.join(known)}")
        for target in entry.targets:
            line = Line(key, entry, target, variables(entry, target))
            if not target.isprintable():
                raise ConfigurationError(f"{key}.targets: {target!r} holds what no scheduler takes")
            if line.title in (other.title for other in found):
                raise ConfigurationError(f"{key}.targets: {line.title} is scheduled twice; give it one cron expression")
            found.append(line)
    slugs = Counter(map(_slug, found))
    return [replace(line, name=_name(line, unique=slugs[_slug(line)] == 1)) for line in found]


def find(runbook: str, target: str) -> Line:
    """Return the schedule's line for that runbook on that target; raises ConfigurationError where there is none."""
    for line in lines():
        if (line.entry.runbook, line.target) == (runbook, target):
            return line
    raise ConfigurationError(f"{targets_file()}: schedule: has no {runbook} on {target}, which --scheduled looks for")


def here(out: Path) -> Place:
    """Return this machine's own place, as the user who asks, with the records below ``out``."""
    targets = targets_file()
    if not targets or not load_schedule():
        raise ConfigurationError(
            f"{targets or 'no targets.yml'}: schedule: is empty; it needs lines such as "
            '{runbook: growth_report, targets: [prod], cron: "0 6 * * 1"}'
        )
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return Place(
        Path(sys.executable), targets.absolute(), out.absolute(), history_folder(), user, version("pgrunbooks")
    )


@contextlib.contextmanager
def alone(out: Path, line: Line) -> Iterator[datetime.datetime | None]:
    """Lock a target and runbook below ``out``; yield None, or since when another scheduled run holds the lock.

    Only scheduled runs lock: a person who runs a runbook twice during an incident means it. The lock is the kernel's,
    on a hidden file, so that it goes with the process that holds it, however that ends.
    """
    folder = out / line.target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{re.sub(r'[^A-Za-z0-9_]', '_', line.entry.runbook)}.lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        else:
            os.utime(path)
            yield None


# ---- the formats -------------------------------------------------------------------------------------------------


def cron(schedule: Sequence[Line], place: Place) -> str:
    """Return lines for a person's crontab.

    Exit statuses stay as they are, since cron looks at none. It mails what a line prints: an error in any case, the
    verdict only where the line notifies nobody.
    """
    head = [
        f"pgrunbooks {place.version}: the schedule of {place.targets}, for 'crontab -e'.",
        "Times are the machine's own. cron does not make up for a run that it missed; the systemd timers do.",
        "cron mails what a line prints: errors, and the verdict where the line notifies nobody.",
        *_needs(schedule, f"in {place.environment}: NAME='value' lines in a file that only {place.user} can read"),
    ]
    body = []
    for line in schedule:
        quiet = " >/dev/null" if line.entry.notify else ""
        command = _shell(line, place).replace("%", r"\%")  # a bare % ends the command in a crontab
        body.append(f"\n# {line.title}\n{line.entry.cron} {command}{quiet}")
    return _comment(head) + "\n".join(body) + "\n"


def systemd(schedule: Sequence[Line], place: Place) -> str:
    """Return a service and a timer for each line, each after a comment with its path.

    ``Persistent`` makes up for a run that was missed while the machine was off. Warning and critical are successes of
    the service, which did its work; ``systemctl status`` shows them all the same.
    """
    folder = "/etc/systemd/system"
    timers = " ".join(f"{line.name}.timer" for line in schedule)
    head = [
        f"pgrunbooks {place.version}: the schedule of {place.targets}. Each file begins with its path; as root:",
        "  pgrunbooks schedule --format systemd | awk '/^# .etc.systemd.system./ {file = $2} file {print > file}'",
        f"  systemctl daemon-reload && systemctl enable --now {timers}",
        *_needs(schedule, f"in {place.environment}: NAME='value' lines in a file that only {place.user} can read"),
    ]
    files = []
    for line in schedule:
        environment = [f"EnvironmentFile={_specifiers(str(place.environment))}"] if line.variables else []
        service = [
            f"# {folder}/{line.name}.service", "[Unit]", f"Description=pgrunbooks: {_specifiers(line.title)}",
            "Wants=network-online.target", "After=network-online.target", "", "[Service]", "Type=oneshot",
            f"User={place.user}", f"Environment={_unit_word(f'PGRUNBOOKS_HISTORY={place.history}')}", *environment,
            f"ExecStart={' '.join(_unit_word(word).replace('$', '$$') for word in _command(line, place))}",
            "SuccessExitStatus=1 2",
        ]  # fmt: skip
        timer = [
            f"# {folder}/{line.name}.timer", "[Unit]", f"Description=pgrunbooks: {_specifiers(line.title)}", "",
            "[Timer]", *(f"OnCalendar={moment}" for moment in on_calendar(line.entry.cron)), "Persistent=true", "",
            "[Install]", "WantedBy=timers.target",
        ]  # fmt: skip
        files += ["\n".join(service), "\n".join(timer)]
    return _comment(head) + "\n" + "\n\n".join(files) + "\n"


def kubernetes(schedule: Sequence[Line], place: Place) -> str:
    """Return a volume claim for records and history, and a CronJob for each line.

    A job that exits with 1 or 2 would be a failed one, hence ``--exit-zero``; it is not tried again, since the next run
    comes. A run that was missed for up to an hour is made up for, and none starts while one is under way.
    """
    needed = sorted({name for line in schedule for name in line.variables})
    data = [f"--from-file=targets.yml={shlex.quote(str(place.targets))}"]
    data += [f'--from-literal={name}="${name}"' for name in needed]
    head = [
        f"pgrunbooks {place.version}: the schedule of {place.targets}, for 'kubectl apply -f -'. It needs",
        f"  an image: FROM python:3.12-slim and RUN pip install pgrunbooks=={place.version}",
        f"  a secret: kubectl create secret generic pgrunbooks {' '.join(data)}",
    ]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "pgrunbooks"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
    }
    documents = [claim, *(_cron_job(line, place) for line in schedule)]
    return _comment(head) + "".join(f"---\n{yaml.safe_dump(it, sort_keys=False, width=120)}" for it in documents)


def airflow(schedule: Sequence[Line], place: Place) -> str:
    """Return a file of DAGs, one for each line, for Airflow 3 on workers that have this machine's paths.

    A task that exits with 1 or 2 would be a failed one, hence ``--exit-zero``.
    """
    head = [
        f"pgrunbooks {place.version}: the schedule of {place.targets}, as a file for Airflow's folder of DAGs.",
        "The workers need the paths below. Times are UTC; a run that was missed is not made up for.",
        *_needs(schedule, f"in {place.environment}: NAME='value' lines in a file that only the workers can read"),
    ]
    imports = """
import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
"""
    dags = [
        f"""
with DAG(
    dag_id={line.name!r},
    description={line.title!r},
    schedule={line.entry.cron!r},
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["pgrunbooks"],
):
    BashOperator(task_id="run", retries=0, bash_command={_shell(line, place, "--exit-zero")!r})
"""
        for line in schedule
    ]
    return _comment(head) + imports + "".join(dags)


FORMATS = {"cron": cron, "systemd": systemd, "kubernetes": kubernetes, "airflow": airflow}


def on_calendar(expression: str) -> list[str]:
    """Return systemd's calendar events for a cron expression.

    They are two where both days are given: cron runs on either, and one event of systemd on both only.
    """
    sim = CronSim(expression, datetime.datetime(2000, 1, 1))
    clock = f"{_field(sim.hours, range(24))}:{_field(sim.minutes, range(60))}:00"
    weekdays = sorted({day % 7 for day in sim.weekdays if isinstance(day, int)})
    named = ",".join(_DAYS[day] for day in weekdays) + " " if len(weekdays) < 7 else ""
    month, day = _field(sim.months, range(1, 13)), _field(sim.days, range(1, 32))
    if named and day != "*":
        return [f"{named}*-{month}-* {clock}", f"*-{month}-{day} {clock}"]
    return [f"{named}*-{month}-{day} {clock}"]


def _field(values: Collection[int], possible: range) -> str:
    return "*" if len(values) == len(possible) else ",".join(f"{value:02}" for value in sorted(values))


def _cron_job(line: Line, place: Place) -> dict[str, Any]:
    data, secret = "/var/lib/pgrunbooks", "/etc/pgrunbooks"
    own = {"HOME": "/tmp", "PGRUNBOOKS_HISTORY": f"{data}/history"}
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in own.items()]
    environment += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "pgrunbooks", "key": name}}} for name in line.variables
    ]
    container = {
        "name": "pgrunbooks",
        "image": f"pgrunbooks:{place.version}",
        "command": ["pgrunbooks"],
        "args": [*_arguments(line, f"{secret}/targets.yml", f"{data}/records"), "--exit-zero"],
        "env": environment,
        "volumeMounts": [
            {"name": "data", "mountPath": data},
            {"name": "targets", "mountPath": secret, "readOnly": True},
        ],
    }
    targets = {"secretName": "pgrunbooks", "items": [{"key": "targets.yml", "path": "targets.yml"}]}
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "pgrunbooks"}},
            {"name": "targets", "secret": targets},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": line.name, "labels": {"app.kubernetes.io/name": "pgrunbooks"}},
        "spec": {
            "schedule": _without_seven(line.entry.cron),
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
        },
    }


def _without_seven(expression: str) -> str:
    """Return the expression with Sunday as 0 only: Kubernetes does not know day 7."""
    *others, weekday = expression.split()
    if "7" not in weekday:
        return expression
    days = CronSim(expression, datetime.datetime(2000, 1, 1)).weekdays
    return " ".join([*others, ",".join(map(str, sorted({day % 7 for day in days if isinstance(day, int)})))])


def _arguments(line: Line, targets: object, out: object) -> list[str]:
    where = ["--target", line.target, "--out", str(out)]
    return ["--targets", str(targets), "run", line.entry.runbook, *where, "--scheduled"]


def _command(line: Line, place: Place) -> list[str]:
    # -P: a scheduler runs it in some home folder, whose files must not be taken for modules
    return [str(place.python), "-P", "-m", "pgrunbooks", *_arguments(line, place.targets, place.out)]


def _shell(line: Line, place: Place, *options: str) -> str:
    read = f"set -a; . {shlex.quote(str(place.environment))}; set +a; " if line.variables else ""
    history = f"PGRUNBOOKS_HISTORY={shlex.quote(str(place.history))}"
    return f"{read}{history} {shlex.join([*_command(line, place), *options])}"


def _unit_word(word: str) -> str:
    quoted = word.replace("\\", "\\\\").replace('"', '\\"')
    return _specifiers(f'"{quoted}"' if re.search(r"[\s\"'\\;]", word) else word)


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _needs(schedule: Sequence[Line], where: str) -> list[str]:
    names = sorted({name for line in schedule for name in line.variables})
    return [f"It needs {', '.join(names)} {where}."] if names else []


def _comment(sentences: Sequence[str]) -> str:
    return "".join(f"# {sentence}\n" for sentence in sentences)


def _slug(line: Line) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", f"pgrunbooks {line.entry.runbook} {line.target}".lower()))


def _name(line: Line, *, unique: bool) -> str:
    slug = _slug(line)
    if unique and len(slug) <= _LONGEST_NAME:
        return slug
    return f"{slug[: _LONGEST_NAME - 7].rstrip('-')}-{hashlib.sha256(line.title.encode()).hexdigest()[:6]}"
