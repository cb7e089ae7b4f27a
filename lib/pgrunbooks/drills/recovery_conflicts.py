"""A nightly job truncates a table that a report on the standby is reading."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import DATABASE, Sandbox, temporary_standby, wait_until

_TABLE = "drill_stock_today"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Start a streaming standby that waits for nobody, and cancel one transaction there; the standby is to be asked."""
    with temporary_standby(sandbox) as standby:
        conflict(sandbox, standby)
        yield Incident("database", DATABASE, "warning", settings={"dsn": standby.url()})


def conflict(sandbox: Sandbox, standby: Sandbox) -> None:
    """Truncate on the primary what a transaction on the standby reads, and wait until that was counted."""
    with sandbox.connect() as job, standby.connect() as dba:
        try:
            job.execute(f"drop table if exists {_TABLE}")
            job.execute(f"create table {_TABLE} as select 1 as item")
            dba.execute("alter system set max_standby_streaming_delay = '10ms'")
            dba.execute("select pg_reload_conf()")
            wait_until(dba, "select to_regclass(%s) is not null", [_TABLE])
            with standby.connect() as report, contextlib.suppress(psycopg.Error):  # this is who loses
                report.execute("begin")
                report.execute(f"select item from {_TABLE}")
                job.execute(f"truncate {_TABLE}")
                wait_until(dba, "select sum(confl_lock) > 0 from pg_stat_database_conflicts")
                report.execute("commit")
        finally:
            job.execute(f"drop table if exists {_TABLE}")
        wait_until(dba, "select sum(confl_lock) > 0 from pg_stat_database_conflicts")


drill = Drill(
    "recovery-conflicts",
    symptom="The stock report fails some nights: 'canceling statement due to conflict with recovery'. By day it works.",
    fault=fault,
    thresholds={"recovery-conflicts": {"warning": "1"}},
)
