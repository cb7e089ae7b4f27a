"""The server was upgraded from one that was made long ago, without checksums."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.drills._server import run, stopped
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Switch the checksums off and, at the end, on again; each takes a restart."""
    with stopped(sandbox):
        run(sandbox, "pg_checksums", "--disable", "--no-sync")
    try:
        yield Incident("cluster", "cluster", "info")
    finally:
        with stopped(sandbox):
            run(sandbox, "pg_checksums", "--enable", "--no-sync")


drill = Drill(
    "checksums-disabled",
    symptom="The auditor asks how you would notice a disk that quietly returns wrong data.",
    fault=fault,
)
