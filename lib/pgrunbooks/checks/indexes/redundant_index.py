"""Is an index the left prefix of another?

A plain btree on (a) adds little beside one on (a, b) with the same operator classes, collations, sort options and
predicate: whatever the first can look up or sort, the second can. It is covered, not a duplicate: the wider one is
larger, so that a hot lookup on (a) alone may read a few more pages. Unique indexes, those that back a constraint or
replica identity and those that CLUSTER uses are left out, and exact copies are duplicate-index's.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Rows
from pgrunbooks.checks._indexes import SQL, drop, evidence, prefixes
from pgrunbooks.display import size


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each index that a wider one covers, beside the narrowest one that covers it and stays."""
    for overlap in prefixes(rows):
        narrow, wide = overlap.drop, overlap.keep
        yield Finding(
            severity="warning",
            kind="index",
            name=narrow["index"],
            title=f"Index {narrow['index']} is covered by the wider {wide['index']}, "
            f"about {size(narrow['size_bytes'])} beside {size(wide['size_bytes'])}",
            impact=f"Every write to {narrow['table']} maintains both; the wider one answers what the narrow one does.",
            evidence=[evidence(narrow, verdict="covered"), evidence(wide, verdict="stays")],
            remedies=(
                drop(narrow, f"Compare the scans of both, then drop the narrow one; {wide['index']} takes its queries"),
            ),
        )


check = Check(
    "redundant-index",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/indexes-multicolumn.html",),
    runbook="index_analysis",
)
