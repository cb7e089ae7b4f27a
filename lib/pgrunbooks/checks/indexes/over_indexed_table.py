"""Does a write-heavy table carry too many indexes?

Every insert, and every update that is not HOT, makes an entry in each index; with many of them the indexes outweigh
the table, fill the cache and slow the writes. Reported where a table has ``indexes`` or more, they take more than twice
the heap, and rows written (inserted, deleted, updated other than HOT, which leaves indexes alone) outnumber reads
(sequential and index scans). A partitioned table is judged as one: bytes and counters summed over its partitions, the
number of indexes that of its most indexed partition.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows
from pgrunbooks.checks._indexes import SQL, Row, evidence
from pgrunbooks.display import size

HEAPS = 2  # index bytes for each byte of heap, from the rule


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Weigh the indexes of each table, or family of partitions, against its heap and its writes."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row["is_partitioned"] and not row["extension"]:
            families[row["root_table"] or row["table"]].append(row)
    for table, indexes in families.items():
        members = {row["table_oid"]: row for row in indexes}
        number = max(Counter(row["table_oid"] for row in indexes).values())
        index_bytes = sum(row["size_bytes"] for row in indexes)
        heap_bytes = sum(row["table_bytes"] for row in members.values())
        writes = sum(_writes(row) for row in members.values())
        reads = sum(row["sequential_scans"] or 0 for row in members.values()) + sum(
            row["scans"] or 0 for row in indexes
        )
        if number < limits["indexes"] or index_bytes <= HEAPS * heap_bytes or writes <= reads:
            continue
        yield Finding(
            severity="info",
            kind="table",
            name=table,
            title=f"Table {table} carries {number} indexes of about {size(index_bytes)} on {size(heap_bytes)} of rows",
            impact=f"Each of its writes pays for all of them: {writes:,} rows written against {reads:,} scans.",
            evidence=[evidence(row) for row in sorted(indexes, key=lambda row: (row["scans"] or 0, row["index_oid"]))],
            remedies=(_look(table, members),),
        )


def _writes(row: Row) -> int:
    updates = (row["rows_updated"] or 0) - (row["rows_hot_updated"] or 0)
    return int((row["rows_inserted"] or 0) + (row["rows_deleted"] or 0) + updates)


def _look(table: str, members: dict[int, Row]) -> Remedy:
    oids: Sequence[str] = [str(oid) for oid in sorted(members)]
    return Remedy(
        f"See which indexes of {table} are scanned least; drop those that unused-, duplicate- and redundant-index name",
        sql="select indexrelid::regclass as index, idx_scan as scans\n"
        f"from pg_catalog.pg_stat_all_indexes\nwhere relid in ({', '.join(oids)})\norder by idx_scan, indexrelid;",
        risk="none",
        locks="none",
    )


check = Check(
    "over-indexed-table",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/storage-hot.html",),
    runbook="index_analysis",
    uses_counters=True,
)
