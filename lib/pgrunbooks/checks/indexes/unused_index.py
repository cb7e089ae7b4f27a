"""Which indexes are never scanned?

An index that no query uses costs on every write, keeps updates from being HOT, and takes cache and disk. Counters are
believed only where they are older than ``min_age``, on this server and on every standby that the target names, since
reports often run there. Some indexes work without being scanned and are never named: unique ones (the planner reasons
with uniqueness), those of constraints and of replica identity, those with expressions (they give the planner
statistics), the last one that supports a foreign key, and the one that shall take the scans of a copy or of a narrower
one that duplicate-index or redundant-index sends away: of two copies the planner scans only one. A partitioned index is
judged with all its children.
"""

from collections.abc import Iterable, Sequence, Set

from pgrunbooks.check import Check, Context, Finding, Limits, Rows, Skip
from pgrunbooks.checks._indexes import SQL, Row, drop, duplicates, evidence, is_bound, is_own, prefixes, whole
from pgrunbooks.display import duration, size

_A_DAY_S = 86400.0


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report indexes of ``min_bytes`` without a scan for ``min_age``; skip where a standby cannot be believed."""
    if not _old_enough(context.server.counters_age_s, limits):
        return
    indexes = whole(rows)
    idle = [row for row in indexes if _is_idle(row, limits) and row["size_bytes"] >= limits["min_bytes"]]
    removable = [row for row in idle if _could_go(row)]
    if not removable:
        return
    overlaps = [*duplicates(rows), *prefixes(rows)]
    going = {overlap.drop["index_oid"] for overlap in overlaps}
    candidates = _spared_by_foreign_keys(removable, indexes, going)
    for server, answer in sorted(context.standbys.items()) if candidates else ():
        if answer is None:
            yield Skip(f"{len(candidates)} not scanned here, but the standby {server} could not be asked for its scans")
            return
        age_s = next((row["counters_age_s"] for row in answer), None)
        if answer and not _old_enough(age_s, limits):
            yield Skip(f"the counters of the standby {server} are younger than {duration(limits['min_age'])}")
            return
    elsewhere = {
        server: {row["index"]: row for row in whole(answer or ())} for server, answer in context.standbys.items()
    }

    def there(row: Row) -> dict[str, Row]:
        return {server: answer[row["index"]] for server, answer in elsewhere.items() if row["index"] in answer}

    def is_idle(row: Row) -> bool:
        return all(_is_idle(each, limits) for each in (row, *there(row).values()))

    heirs = {overlap.keep["index_oid"] for overlap in overlaps if not is_idle(overlap.drop)}
    for row in candidates:
        if is_idle(row) and row["index_oid"] not in heirs:
            yield _finding(row, there(row), context)


def _old_enough(age_s: float | None, limits: Limits) -> bool:
    return age_s is not None and age_s >= limits["min_age"]


def _is_idle(row: Row, limits: Limits) -> bool:
    """Tell whether nobody uses an index; a scan of the last day is use, however short ``min_age`` is."""
    return row["scans"] == 0 or (row["last_scan_s"] or 0) >= max(limits["min_age"], _A_DAY_S)


def _could_go(row: Row) -> bool:
    needed = row["is_unique"] or row["expressions"] or is_bound(row)
    return is_own(row) and row["state"] == "valid" and not needed


def _spared_by_foreign_keys(candidates: Sequence[Row], indexes: Rows, going: Set[int]) -> list[Row]:
    """Return the candidates without those that would leave a foreign key unsupported; the largest may go first.

    Those that are ``going``, as copies or narrow ones, leave their support to another index and count for none.
    """
    supporters: dict[str, int] = {}
    own = [row for row in indexes if row["root_index_oid"] is None and row["index_oid"] not in going]
    for row in own:
        for key in (row["supports"] or "").split():
            supporters[key] = supporters.get(key, 0) + 1
    spared = []
    for row in sorted(candidates, key=lambda row: (-row["size_bytes"], row["index"])):
        foreign_keys = [] if row["index_oid"] in going else (row["supports"] or "").split()
        if all(supporters[key] > 1 for key in foreign_keys):
            supporters.update({key: supporters[key] - 1 for key in foreign_keys})
            spared.append(row)
    return spared


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return what says that another index does the same: the planner scans one of the two."""
    same = ("duplicate-index", "redundant-index")
    return (other for other in others if other.code in same and other.name == finding.name)


def _finding(row: Row, standbys: dict[str, Row], context: Context) -> Finding:
    age = duration(context.server.counters_age_s or 0)
    since = (
        f"last scan {duration(row['last_scan_s'])} ago"
        if row["scans"]
        else f"no scan in the {age} that its counters span"
    )
    job = "CLUSTER, for which it is marked" if row["is_clustered"] else "a yearly report"
    where = f" here and on {', '.join(sorted(context.standbys))}" if context.standbys else ""
    return Finding(
        severity="warning",
        kind="index",
        name=row["index"],
        title=f"Index {row['index']}, about {size(row['size_bytes'])}, is unused{where}: {since}",
        impact=f"Every write to {row['table']} maintains it for nothing, and it takes up cache, disk and backup.",
        evidence=[
            evidence(row, server=context.target.name, counters_age_s=context.server.counters_age_s),
            *(
                evidence(other, server=server, counters_age_s=other["counters_age_s"])
                for server, other in sorted(standbys.items())
            ),
        ],
        remedies=(drop(row, f"Drop it, unless it is younger than the counters or serves a rare job ({job})"),),
    )


check = Check(
    "unused-index",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=("https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ALL-INDEXES-VIEW",),
    runbook="index_analysis",
    primary_only=True,
    uses_counters=True,
    asks_standbys=True,
)
