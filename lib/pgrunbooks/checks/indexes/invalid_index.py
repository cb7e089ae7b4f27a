"""Did a CREATE or REINDEX CONCURRENTLY leave a dead index?

A concurrent build that fails (a duplicate value, a deadlock, a cancelled statement, a lost connection) leaves its index
behind, marked invalid. No query uses it, yet most of them are maintained by every write, and a unique one goes on
refusing rows. REINDEX CONCURRENTLY leaves its transient copy (``_ccnew``) or the index it has already replaced
(``_ccold``). An index whose build still runs is left alone, and so is a partitioned index that waits for its children.
"""

import re
from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._indexes import SQL, Row, drop, evidence, is_bound, name
from pgrunbooks.display import size

# https://www.postgresql.org/docs/18/sql-reindex.html#SQL-REINDEX-CONCURRENTLY: a number may follow the suffix.
_LEFTOVER = re.compile(r'_cc(new|old)\d*"?$')


def _is_bound(row: Row) -> bool:
    """Tell whether a partitioned index or a constraint forbids to drop an index."""
    return row["root_index_oid"] is not None or is_bound(row)


def rebuild(row: Row) -> Remedy:
    """Return the remedy that builds an index again while reads and writes go on."""
    return Remedy(
        ("Build" if _is_bound(row) else "Or build")
        + " it again, once the reason of the failure is gone (for a unique index: the duplicate values)",
        sql=f"reindex index concurrently {row['index']};",
        risk="low",
        locks="SHARE UPDATE EXCLUSIVE on the table: reads and writes go on; it waits for transactions to end",
        undo=None if _is_bound(row) else f"drop index concurrently {row['index']};",
    )


def _remedies(row: Row, leftover: str | None) -> Sequence[Remedy]:
    if _is_bound(row):
        return (rebuild(row),)
    if leftover == "old":
        return (drop(row, "Drop it: the rebuild that left it has succeeded, its successor is in place"),)
    if leftover == "new":
        return (drop(row, "Drop it: the original is untouched; then try REINDEX CONCURRENTLY again"),)
    dropped = drop(row, "Drop it; then run its CREATE INDEX CONCURRENTLY again if it is wanted")
    return (dropped,) if row["state"] == "dead" else (dropped, rebuild(row))


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report every invalid index that nobody is building; skip where a build would not be visible to this role."""
    for row in rows:
        if row["state"] == "valid" or row["is_partitioned"] or row["extension"] or row["build"] == "running":
            continue
        if row["build"] == "unseen":
            grant = f"grant pg_monitor to {context.server.quoted_role};"
            yield Skip(f"{row['index']} is invalid; cannot see whether another role's session is building it", grant)
            continue
        match = _LEFTOVER.search(name(row))
        leftover = "; REINDEX CONCURRENTLY left it behind" if match else ""
        weight = f", about {size(row['size_bytes'])}," if row["size_bytes"] else ""
        refuses = ", and it may refuse rows as duplicates" if row["is_unique"] else ""
        yield Finding(
            severity="warning",
            kind="index",
            name=row["index"],
            title=f"Index {row['index']}{weight} is invalid and no query uses it{leftover}",
            impact=f"Every write to {row['table']} goes on maintaining it{refuses}."
            if row["state"] == "invalid"
            else f"It does nothing; the queries on {row['table']} that it was meant for go without an index.",
            evidence=[evidence(row, state=row["state"])],
            remedies=_remedies(row, match[1] if match else None),
        )


check = Check(
    "invalid-index",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY",),
    runbook="index_analysis",
)
