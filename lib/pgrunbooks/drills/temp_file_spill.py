"""A new report sorts far more than its work_mem can hold, each time through the disk."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

REPORTS = "drill_reports"  # a database of its own, with counters of its own, which are gone with it
_SORT = """
select count(*) from (
    select repeat(md5(i::text), 8) as line from generate_series(1, 100000) as i order by 1 offset 0
) as report
"""


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Sort some tens of megabytes in 64 kB of memory, three times."""
    with Actors(sandbox) as stage:
        drop = f"drop database if exists {REPORTS} with (force)"
        stage.watcher.execute(drop)
        stage.heal(drop)
        stage.watcher.execute(f"create database {REPORTS}")
        with Actors(sandbox) as reports:
            reports.enter("report", "set work_mem = '64kB'", *[_SORT] * 3, database=REPORTS)
        stage.wait_until("select temp_bytes > 64 << 20 from pg_stat_database where datname = %s", REPORTS)
        yield Incident("database", REPORTS, "warning")


drill = Drill(
    "temp-file-spill",
    symptom="Whenever the new report runs the disk is busy, though it reads next to nothing from tables.",
    fault=fault,
    thresholds={"temp-file-spill": {"warning": "64MB"}},
)
