"""The command line: each command is a few lines over the library; what exits how is decided here alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from pgrunbooks import units
from pgrunbooks import verdict as verdicts
from pgrunbooks.errors import ConfigurationError, RunbookError

USAGE = ConfigurationError.exit_status


def run() -> None:
    """Run the command line; the exit statuses are those of the monitoring plug-ins, 64 for wrong usage."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever was begun is cleared away
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--targets",
    type=click.Path(),
    metavar="FILE",
    help="The targets file (else $PGRUNBOOKS_TARGETS, else the nearest targets.yml).",
)
@click.version_option(package_name="pgrunbooks")
def main(targets: str | None) -> None:
    """PostgreSQL runbooks that run: they name the root cause and hand over the safe next statement."""
    if targets:
        os.environ["PGRUNBOOKS_TARGETS"] = str(Path(targets).absolute())


target_option = click.option("--target", required=True, metavar="NAME", help="An entry of targets.yml, or 'sandbox'.")
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
@click.argument("area", nargs=-1)
@target_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print findings.json instead of a page.")
def check(area: tuple[str, ...], target: str, database: str | None, as_json: bool) -> int:
    """Ask the checks of the AREAs (default: all that is cheap) and print the verdict, with no kernel."""
    from pgrunbooks.session import open_session
    from pgrunbooks.targets import load_target

    checks = verdicts.checks_for(*area)
    the_target = load_target(target)
    parameters: dict[str, Any] = {"areas": " ".join(area), "target": target, "database": database or ""}
    started_at = verdicts.utc_now()
    try:
        with open_session(the_target, database=database) as session:
            verdict = verdicts.ask(session, checks, runbook="check", parameters=parameters, started_at=started_at)
    except ConfigurationError:
        raise
    except RunbookError as error:
        verdict = verdicts.not_judged(
            the_target, str(error), runbook="check", parameters=parameters, started_at=started_at
        )
        click.echo(f"pgrunbooks: {error}", err=True)
    document = verdict.document()
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif verdict.server:
        from rich.console import Console

        from pgrunbooks.display import terminal

        terminal(document, Console(), owner=the_target.owner)
    return verdicts.EXIT_STATUS[verdict.status]


@main.command("list")
@click.option("--checks", is_flag=True, help="List the checks with their limits instead of the runbooks.")
def list_command(checks: bool) -> None:
    """List the runbooks with the question each answers and its parameters."""
    if checks:
        for it in verdicts.checks_for():
            limits = " ".join(f"{name}={default}" for name, default in it.rule.defaults.items())
            click.echo(f"{it.code:28} {it.rule.area:12} {it.rule.asks}  {limits}")
        return
    from pgrunbooks.record import runbooks

    for runbook in runbooks().values():
        click.echo(f"{runbook.name:24} {runbook.question}")
        for parameter in runbook.parameters.values():
            click.echo(f"    {parameter.name} = {parameter.default}    {parameter.help}")


@main.command("run")
@click.argument("runbook")
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
@click.option("--no-html", is_flag=True, help="Leave report.html out.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 for warning and critical; 3 and 64 stay.")
def run_command(
    runbook: str,
    target: str,
    database: str | None,
    parameters: tuple[tuple[str, str], ...],
    out: Path,
    no_html: bool,
    exit_zero: bool,
) -> int:
    """Execute RUNBOOK through papermill and write a record of the run."""
    from pgrunbooks.record import execute

    record = execute(
        runbook,
        target,
        database=database,
        given=dict(parameters),
        out=out,
        html=not no_html,
        progress=sys.stderr.isatty(),
    )
    return report(record, exit_zero=exit_zero)


def report(record: Any, *, exit_zero: bool) -> int:
    """Say in two lines what a run found and where its record is; return the exit status."""
    status = record.document["status"]
    if record.document["reason"]:
        click.echo(f"pgrunbooks: {record.document['reason']}", err=True)
    click.echo(f"{status.upper()}  {record.document['target']}  {record.document['runbook']}")
    click.echo(record.page)
    return 0 if exit_zero and status in ("warning", "critical") else verdicts.EXIT_STATUS[status]


@main.command()
@out_option
@click.option("--prune", "age", metavar="AGE", help="First remove the records older than AGE, such as 90d.")
def records(out: Path, age: str | None) -> None:
    """Rebuild DIR/index.html, the browsable list of all runs: what is new, what healed, what stands since when."""
    from pgrunbooks.archive import prune, write_overview

    if age:
        try:
            seconds = units.parse(age, "duration")
        except ValueError as error:
            raise ConfigurationError(f"--prune: {error}") from None
        click.echo(f"{prune(out, seconds, verdicts.utc_now())} records removed", err=True)
    click.echo(write_overview(out))


@main.group()
def sandbox() -> None:
    """Start, stop, reset or open the embedded PostgreSQL."""


@sandbox.command("start")
def sandbox_start() -> None:
    """Start the sandbox and let it run until 'pgrunbooks sandbox stop'; prints its URL."""
    from pgrunbooks.sandbox import default_sandbox

    click.echo(default_sandbox().start(keep=True).url())


@sandbox.command("stop")
def sandbox_stop() -> None:
    """Stop the sandbox; its data stays."""
    from pgrunbooks.sandbox import default_sandbox

    default_sandbox().stop()


@sandbox.command("reset")
def sandbox_reset() -> None:
    """Throw the sandbox's data away; the next start makes it anew."""
    from pgrunbooks.sandbox import default_sandbox

    default_sandbox().delete()


@sandbox.command("url")
def sandbox_url() -> None:
    """Print the URL of the sandbox's database, for any client; starts nothing."""
    from pgrunbooks.sandbox import default_sandbox

    click.echo(default_sandbox().url())


@sandbox.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox_psql(arguments: tuple[str, ...]) -> int:
    """Open psql on the sandbox; ARGUMENTS go to psql."""
    from pgrunbooks.sandbox import default_sandbox

    server = default_sandbox().start()
    return subprocess.run([str(server.programs / "psql"), server.url(), *arguments], check=False).returncode


@main.command()
@out_option
def demo(out: Path) -> None:
    """Make an incident in the sandbox, run the runbook inside it, and say where the report is."""
    from pgrunbooks.demo import play

    play(out, click.echo)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> int:
    """Open JupyterLab on the runbooks; ARGUMENTS go to jupyter lab."""
    from pgrunbooks.record import runbooks_folder

    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={runbooks_folder().parent}", *arguments]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
