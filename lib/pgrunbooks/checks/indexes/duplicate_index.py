"""Are there exact duplicates?

Two indexes of one table with the same access method, keys in the same order, operator classes, collations, sort
options, predicate, expressions and included columns do the same work, and every write pays for both. The copy is the
one that nothing needs: a constraint, a foreign key that references its columns, replica identity, uniqueness and the
mark of CLUSTER make the other one stay, and else the older stays. An index of which another one is merely the longer
version is redundant-index's.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Rows
from pgrunbooks.checks._indexes import SQL, drop, duplicates, evidence
from pgrunbooks.display import size


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each copy once, whatever the number of copies, beside the one that stays."""
    for overlap in duplicates(rows):
        copy, keep = overlap.drop, overlap.keep
        than = " (which is unique as well)" if keep["is_unique"] and not copy["is_unique"] else ""
        yield Finding(
            severity="warning",
            kind="index",
            name=copy["index"],
            title=f"Index {copy['index']} is an exact duplicate of {keep['index']}{than}, "
            f"about {size(copy['size_bytes'])}",
            impact=f"Every write to {copy['table']} maintains both; no query needs the second.",
            evidence=[evidence(copy, verdict="to drop"), evidence(keep, verdict="stays")],
            remedies=(drop(copy, f"Drop the copy; {keep['index']} does the same"),),
        )


check = Check(
    "duplicate-index",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/sql-dropindex.html",),
    runbook="index_analysis",
)
