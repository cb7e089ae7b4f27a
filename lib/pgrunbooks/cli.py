"""The command line: each command is a few lines over the library; what exits how is decided here alone."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgrunbooks import completion, units
from pgrunbooks import verdict as verdicts
from pgrunbooks.check import registry
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.patience import patience

if TYPE_CHECKING:
    from pgrunbooks.archive import Record

USAGE = ConfigurationError.exit_status
_GARBAGE_AFTER = (
    50_000  # new objects: a command lives for seconds, and to search after 700 makes imports a third slower
)


def run() -> None:
    """Run the command line; the exit statuses are those of the monitoring plug-ins, 64 for wrong usage."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # whatever was begun is cleared away
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="replace")  # a locale without our characters is no reason to fail
    gc.set_threshold(_GARBAGE_AFTER)
    try:
        sys.exit(main.main(prog_name="pgrunbooks", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        click.echo(f"pgrunbooks: {error.format_message()} (see --help)", err=True)
        sys.exit(USAGE)
    except RunbookError as error:
        click.echo(f"pgrunbooks: {error}", err=True)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("pgrunbooks: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        _hush()
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that may not be written to
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"pgrunbooks: {where}{error.strerror or error}", err=True)
        _hush()
        sys.exit(RunbookError.exit_status)


def _hush() -> None:
    """Send nowhere what is still to be printed, since nobody reads it."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--targets",
    type=click.Path(),
    metavar="FILE",
    help="The targets file (else $PGRUNBOOKS_TARGETS, else the nearest targets.yml).",
)
@click.version_option(package_name="pgrunbooks")
def main(targets: str | None) -> None:
    """PostgreSQL runbooks that run: they name the root cause and hand over the safe next statement.

    \b
    Try it:             pgrunbooks demo
    At 2 a.m.:          pgrunbooks check --target NAME
    With a record:      pgrunbooks run troubleshooting --target NAME
    A new database:     pgrunbooks init DIR, then pgrunbooks doctor --target NAME

    \b
    Exit status:        0 ok, 1 warning, 2 critical, 3 unknown (could not
                        connect or judge), 64 wrong usage, 130 interrupted

    \b
    Completion with Tab, a line for ~/.bashrc, ~/.zshrc or fish's config:
      eval "$(_PGRUNBOOKS_COMPLETE=bash_source pgrunbooks)"
      eval "$(_PGRUNBOOKS_COMPLETE=zsh_source pgrunbooks)"
      _PGRUNBOOKS_COMPLETE=fish_source pgrunbooks | source
    """
    if targets:
        os.environ["PGRUNBOOKS_TARGETS"] = str(Path(targets).absolute())


target_option = click.option(
    "--target",
    required=True,
    metavar="NAME",
    help="An entry of targets.yml, or 'sandbox', the embedded PostgreSQL.",
    shell_complete=completion.targets,
)
database_option = click.option("--database", metavar="DB", help="Another database of the same server.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("records"),
    show_default=True,
    metavar="DIR",
    help="Where records go.",
)


@main.command()
@click.argument("area", nargs=-1, shell_complete=completion.areas)
@target_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print findings.json instead of a page.")
@click.option(
    "--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Ask again every SECONDS until Ctrl-C."
)
def check(area: tuple[str, ...], target: str, database: str | None, as_json: bool, watch: float | None) -> int:
    """Ask the checks and print the verdict, without a notebook.

    Without an AREA everything that is cheap is asked. An AREA is one of those that 'pgrunbooks list --checks' shows in
    its second column, the code of a single check, or a runbook, which stands for all that it asks.

    \b
    Examples:  pgrunbooks check --target prod
               pgrunbooks check locks connections --target prod --watch 5
               pgrunbooks check index-corruption --target prod --json
    """
    from pgrunbooks.targets import load_target

    if watch and not watch <= 86400:  # which is true of nan as well
        raise ConfigurationError("--watch: needs seconds from 0.1 to 86400")
    checks = verdicts.checks_for(*area)
    the_target = load_target(target)
    parameters = {"areas": " ".join(area), "target": target, "database": database or ""}
    status = "unknown"
    with contextlib.suppress(KeyboardInterrupt) if watch else contextlib.nullcontext():
        while True:
            with patience(f"asking {target}"):
                verdict = verdicts.look(the_target, checks, database=database, runbook="check", parameters=parameters)
            status = verdict.status
            try:
                _print(verdict, as_json=as_json, watch=bool(watch))
            except BrokenPipeError:  # the status stays what it is, whoever stopped reading
                _hush()
                break
            if not watch:
                break
            time.sleep(watch)
    return verdicts.EXIT_STATUS[status]


def _print(verdict: verdicts.Verdict, *, as_json: bool, watch: bool) -> None:
    document = verdict.document()
    if not verdict.server:
        _say_reason(document)
    if as_json:
        encoding = getattr(sys.stdout, "encoding", "utf-8")  # it is None where somebody closed it
        ascii_only = encoding.lower().replace("-", "") != "utf8"
        click.echo(json.dumps(document, indent=None if watch else 2, ensure_ascii=ascii_only))
    elif verdict.server:
        from rich.console import Console

        from pgrunbooks.display import terminal

        console = Console()
        if watch:
            console.clear()
        terminal(document, console, owner=verdict.target.owner, cost=verdicts.cost_in_words(verdict.cost))


def _say_reason(document: Mapping[str, Any]) -> None:
    """Say in one line why a database could not be judged, and what looks closer where it does not answer."""
    closer = f"; 'pgrunbooks doctor --target {document['target']}' looks closer" if not document["server"] else ""
    click.echo(f"pgrunbooks: {document['reason']}{closer}", err=True)


@main.command()
@target_option
@database_option
@click.option("--script", is_flag=True, help="Print the SQL of a role that suffices; connects to nothing.")
def doctor(target: str, database: str | None, script: bool) -> int:
    """Say what this role can see, and what would show it more.

    It names the checks that a grant, an extension or a setting would enable, each with its statement. It reads and
    changes nothing. Exit status 1 where something is missing or the role may do too much.

    \b
    Examples:  pgrunbooks doctor --target prod
               pgrunbooks doctor --target prod --script | psql -h db.example.com -U postgres shop
    """
    from rich.console import Console

    from pgrunbooks import doctor
    from pgrunbooks.targets import load_target

    the_target = load_target(target)
    if script:
        click.echo(doctor.script(the_target), nl=False)
        return 0
    with patience(f"looking at {target}"):
        found = doctor.examine(the_target, database=database)
    doctor.show(found, Console())
    return found.exit_status


@main.command("list")
@click.option("--checks", is_flag=True, help="List the checks with their limits instead of the runbooks.")
def list_command(checks: bool) -> None:
    """List the runbooks, or with --checks the checks and their limits.

    A runbook has its question and its parameters, a check its area, its question and the limits that a target may set.

    \b
    Examples:  pgrunbooks list
               pgrunbooks list --checks | grep locks
    """
    if checks:
        for it in registry().values():
            limits = " ".join(f"{name}={default}" for name, default in it.rule.defaults.items())
            click.echo(f"{it.code:28} {it.rule.area:12} {it.rule.asks}  {limits}")
        return
    from pgrunbooks.record import runbooks

    for runbook in runbooks().values():
        click.echo(f"{runbook.name:24} {runbook.question}")
        for parameter in runbook.parameters.values():
            click.echo(f"    {parameter.name} = {parameter.default}    {parameter.help}")


@main.command("run")
@click.argument("runbook", shell_complete=completion.runbooks)
@target_option
@database_option
@click.option(
    "-p",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="KEY VALUE",
    help="A parameter of the runbook; may be given again.",
)
@out_option
@click.option("--incident", metavar="ID", help="Add the run to the timeline of this incident.")
@click.option("--no-html", is_flag=True, help="Leave report.html out.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 for warning and critical; 3 and 64 stay.")
@click.option("--scheduled", is_flag=True, help="Notify as the schedule says; end where such a run is under way.")
def run_command(
    runbook: str,
    target: str,
    database: str | None,
    parameters: tuple[tuple[str, str], ...],
    out: Path,
    incident: str | None,
    no_html: bool,
    exit_zero: bool,
    scheduled: bool,
) -> int:
    """Execute RUNBOOK and write a record of the run.

    The record is a folder below DIR with the executed notebook, report.html and findings.json. 'pgrunbooks list' names
    the runbooks and the parameters that -p sets.

    \b
    Examples:  pgrunbooks run troubleshooting --target prod --incident INC-4711
               pgrunbooks run troubleshooting --target prod -p sample_s 5
    """
    from pgrunbooks.record import execute

    def run() -> Record:
        return execute(
            runbook,
            target,
            database=database,
            given=dict(parameters),
            out=out,
            incident=incident,
            html=not no_html,
            progress=sys.stderr.isatty(),
        )

    if scheduled:
        return _scheduled(run, runbook, target, out, exit_zero=exit_zero)
    return report(run(), exit_zero=exit_zero)


def _scheduled(run: Callable[[], Record], runbook: str, target: str, out: Path, *, exit_zero: bool) -> int:
    """Run what the schedule has, alone, and notify whom it names."""
    from pgrunbooks import archive, notify, schedule
    from pgrunbooks.display import when

    line = schedule.find(runbook, target)
    with schedule.alone(out, line) as under_way_since:
        if under_way_since:
            since = when(under_way_since.isoformat())
            click.echo(f"pgrunbooks: a run of {line.title} is under way since {since}; this one ends", err=True)
            return 0
        earlier = [it.document for it in archive.records(out, target) if it.document["runbook"] == runbook]
        record = run()
        status = report(record, exit_zero=exit_zero)
        for problem in notify.notify(line, record, earlier):
            click.echo(f"pgrunbooks: {problem}", err=True)
    return status


def report(record: Any, *, exit_zero: bool) -> int:
    """Say in two lines what a run found and where its record is; return the exit status."""
    status = record.document["status"]
    if record.document["reason"]:
        _say_reason(record.document)
    click.echo(f"{status.upper()}  {record.document['target']}  {record.document['runbook']}")
    click.echo(record.page)
    return 0 if exit_zero and status in ("warning", "critical") else verdicts.EXIT_STATUS[status]


@main.command()
@out_option
@click.option("--prune", "age", metavar="AGE", help="First remove the records older than AGE, such as 90d.")
def records(out: Path, age: str | None) -> None:
    """Rebuild DIR/index.html, the overview of all runs.

    It tells what is new, what healed and what stands since when. Every run rebuilds it too.

    \b
    Example:  pgrunbooks records --prune 90d
    """
    from pgrunbooks.archive import prune, write_overview

    if age:
        try:
            seconds = units.parse(age, "duration")
        except ValueError as error:
            raise ConfigurationError(f"--prune: {error}") from None
        click.echo(f"{prune(out, seconds, verdicts.utc_now())} records removed", err=True)
    click.echo(write_overview(out))


@main.command("schedule")
@click.option(
    "--format",
    "name",
    type=click.Choice(["cron", "systemd", "kubernetes", "airflow"]),
    default="cron",
    show_default=True,
    help="The scheduler that shall read it.",
)
@out_option
def schedule_command(name: str, out: Path) -> None:
    """Print the schedule of targets.yml as a scheduler reads it.

    It is the key 'schedule' of the targets file. Nothing is installed.

    \b
    Examples:  pgrunbooks schedule             # lines for crontab -e
               pgrunbooks schedule --format kubernetes | kubectl apply -f -
    """
    from pgrunbooks import schedule

    place = schedule.here(out)
    click.echo(schedule.FORMATS[name](schedule.lines(), place), nl=False)


@main.command()
@target_option
@database_option
def snapshot(target: str, database: str | None) -> None:
    """Measure the database once into the history.

    That is what growth, forecasts and 'since the last run' are reckoned from. The history lies where
    $PGRUNBOOKS_HISTORY or 'history' in targets.yml says; the path of the new file is printed. Once an hour is a good
    pace.

    \b
    Example:  pgrunbooks snapshot --target prod
    """
    from pgrunbooks.history import record_snapshot
    from pgrunbooks.session import open_session

    with patience(f"measuring {target}"), open_session(target, database=database) as session:
        path = record_snapshot(session)
    click.echo(path)


@main.group()
def drill() -> None:
    """Practise on a real incident in the sandbox.

    \b
    Example:  pgrunbooks drill start
              pgrunbooks check --target sandbox
              pgrunbooks drill reveal
              pgrunbooks drill stop
    """


@drill.command("list")
def drill_list() -> None:
    """List the drills with the symptom that a pager would tell."""
    from pgrunbooks.drills import drills

    for it in drills().values():
        click.echo(f"{it.code:28} {it.symptom}")


@drill.command("start")
@click.argument("name", required=False, shell_complete=completion.drill_names)
def drill_start(name: str | None) -> None:
    """Make the incident NAME in the sandbox, or one of them all.

    It stands until 'pgrunbooks drill stop'. Without a NAME it is not said which one it is.

    \b
    Example:  pgrunbooks drill start ddl-lock-queue
    """
    from pgrunbooks import practice
    from pgrunbooks.drills import drills

    usual = {it.code for it in verdicts.checks_for()}
    with patience("making the incident"):
        started = practice.start(name or random.choice([code for code in drills() if code in usual]))
    named = "" if started.code in usual else f" {started.code}"  # is asked by name only
    click.echo(f"{drills()[started.code].symptom}\n")
    click.echo(f"Find it:      pgrunbooks check{named} --target sandbox\nThe answer:   pgrunbooks drill reveal")
    click.echo("Heal and end: pgrunbooks drill stop")


@drill.command("reveal")
def drill_reveal() -> None:
    """Tell what the running drill is."""
    from pgrunbooks import practice
    from pgrunbooks.sandbox import default_sandbox

    found = practice.running(default_sandbox())
    if not found:
        raise ConfigurationError("no drill runs; 'pgrunbooks drill start' starts one")
    click.echo(f"{found.code}: the {found.kind.replace('_', ' ')} {found.name}")


@drill.command("stop")
def drill_stop() -> None:
    """Heal the incident and end the drill."""
    from pgrunbooks import practice

    with patience("healing the incident"):
        found = practice.stop()
    click.echo(f"{found.code} is healed" if found else "no drill runs")


@main.group()
def sandbox() -> None:
    """Start, stop, reset or open the embedded PostgreSQL.

    It is a private server with a small shop in it. Nothing has to be started by hand: --target sandbox starts it, and
    it stops when nobody uses it any more.

    \b
    Examples:  pgrunbooks sandbox psql
               pgrunbooks sandbox psql -c 'select count(*) from shop.orders'
    """


@sandbox.command("start")
def sandbox_start() -> None:
    """Start the sandbox, print its URL and let it run until 'stop'."""
    from pgrunbooks.sandbox import default_sandbox

    with patience("starting the embedded PostgreSQL"):
        url = default_sandbox().start(keep=True).url()
    click.echo(url)


@sandbox.command("stop")
def sandbox_stop() -> None:
    """Stop the sandbox; its data stays."""
    from pgrunbooks import practice
    from pgrunbooks.sandbox import default_sandbox

    with patience("stopping the embedded PostgreSQL"):
        practice.stop()
        default_sandbox().stop()


@sandbox.command("reset")
def sandbox_reset() -> None:
    """Throw the sandbox's data away; the next start makes it anew."""
    from pgrunbooks import practice
    from pgrunbooks.sandbox import default_sandbox

    practice.stop()
    default_sandbox().delete()


@sandbox.command("url")
def sandbox_url() -> None:
    """Print the URL of the sandbox's database; starts nothing."""
    from pgrunbooks.sandbox import default_sandbox

    click.echo(default_sandbox().url())


@sandbox.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox_psql(arguments: tuple[str, ...]) -> int:
    """Open psql on the sandbox; ARGUMENTS go to psql."""
    from pgrunbooks.sandbox import default_sandbox

    with patience("starting the embedded PostgreSQL"):
        server = default_sandbox().start()
    return subprocess.run([str(server.programs / "psql"), server.url(), *arguments], check=False).returncode


@main.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def init(directory: Path) -> None:
    """Make a workspace of your own in DIRECTORY.

    It gets the runbooks and walkthroughs to change, a commented targets.yml, an example check with its test, and a CI
    file. What is there already is kept.

    \b
    Example:  pgrunbooks init my-runbooks
    """
    from pgrunbooks.workspace import make_workspace

    written, kept = make_workspace(directory)
    for name in written:
        click.echo(f"wrote {directory / name}")
    for name in kept:
        click.echo(f"kept  {directory / name}, which was there already")
    click.echo(f"\nNext: name your database in {directory / 'targets.yml'}, then: cd {directory} && pgrunbooks list")


@main.group("new")
def new_group() -> None:
    """Add a check or a runbook of your own.

    It is written beside the targets file, with a test; it works at once and waits to be filled in.
    """


@new_group.command("check")
@click.argument("name")
def new_check(name: str) -> None:
    """Write the check NAME and its test.

    The code of the check is NAME, with the prefix 'my.' where it has none.

    \b
    Example:  pgrunbooks new check slow-refund
              pgrunbooks new check acme.slow-refund
    """
    from pgrunbooks import workspace

    code, written = workspace.new_check(name)
    check, *rest = _say_written(written)
    click.echo(f"\nNext: put your question into {check}. It works already:")
    click.echo(f"  pgrunbooks check {code} --target sandbox\n  pytest {rest[0]}")


@new_group.command("runbook")
@click.argument("name")
def new_runbook(name: str) -> None:
    """Write the runbook NAME and its test.

    \b
    Example:  pgrunbooks new runbook slow_refunds
    """
    from pgrunbooks import workspace

    runbook, *rest = _say_written(workspace.new_runbook(name))
    click.echo(f"\nNext: open {runbook} in 'pgrunbooks lab'. It works already:")
    click.echo(f"  pgrunbooks run {name} --target sandbox\n  pytest {rest[0]}")


def _say_written(paths: Sequence[Path]) -> list[Path]:
    """Name the files that were written, as seen from here, and return them so."""
    here = Path.cwd()
    seen = [path.relative_to(here) if path.is_relative_to(here) else path for path in paths]
    for path in seen:
        click.echo(f"wrote {path}")
    return seen


@main.command()
@out_option
def demo(out: Path) -> None:
    """Play an incident in the sandbox and run the runbooks in it.

    It ends with the path of the report. No database of yours is asked.
    """
    from pgrunbooks.demo import play

    play(out, click.echo)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the runbooks; ARGUMENTS go to jupyter lab.


    It listens on this machine only and asks for the token in the link that it prints. What you set there lies in the
    folder .lab of the workspace; your own ~/.jupyter stays as it is. Ctrl-C ends it with all its kernels.

    \b
    Example:  pgrunbooks lab --no-browser --port 8889
    """
    from pgrunbooks.jupyterlab import command, workspace

    folder = workspace()
    words, environment = command(folder, arguments)
    os.chdir(folder)
    os.execvpe(words[0], words, environment)  # signals reach it as they reach any server
