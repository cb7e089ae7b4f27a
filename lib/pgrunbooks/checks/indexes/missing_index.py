"""Which new index would pay for itself on the observed workload?

A statement that reads a whole table for a few rows is the most common cause of a slow database, and the cheapest to
heal. The statements of pg_stat_statements are put before the planner in the what-if lab, with indexes that are not
there. An index is reported where it lowers the cost of the workload by 'gain', the cost that it adds to every write
taken off, and where the statements that it helps were called 'min_calls' times. Nothing is created in the database.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.errors import LabError
from pgrunbooks.session import Session
from pgrunbooks.workload import WHERE

SQL = {15: WHERE}
BUDGET_S = 30.0


def deepen(session: Session, rows: Rows, limits: Limits, left_s: float) -> Rows | Skip:
    """Return a row for each index that pays, the one that saves most first; ``rows`` say where the statements are."""
    from pgrunbooks.advice import advise  # a parser and a server, for those who ask

    if not rows:
        return Skip("needs the extension pg_stat_statements", "create extension pg_stat_statements;")
    try:
        advice = advise(session, gain=limits["gain"], min_calls=int(limits["min_calls"]))
    except LabError as error:
        return Skip(str(error))
    if isinstance(advice, Skip):
        return advice
    return [
        {
            "table": it.index.table,
            "statement": it.sql,
            "gain": it.gain,
            "write_cost": it.write_cost,
            "size_bytes": it.size_bytes,
            "calls": it.calls,
            "confidence": it.confidence,
            "replaces": list(it.redundant),
            "query": "; ".join(helped.statement.text for helped in it.helped),
            "cost_before": sum(helped.before for helped in it.helped),
            "cost_after": sum(helped.after for helped in it.helped),
        }
        for it in advice.proposals
    ]


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each table on which at least one index pays."""
    tables: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["gain"] >= limits["gain"] and row["calls"] >= limits["min_calls"]:
            tables[row["table"]].append(row)
    for table, paying in tables.items():
        gain = sum(row["gain"] for row in paying)
        yield Finding(
            severity="warning",
            kind="table",
            name=table,
            title=f"{'An index' if len(paying) == 1 else f'{len(paying)} indexes'} on {table} would save "
            f"{gain:.0%} of the workload's cost",
            impact=f"{sum(row['calls'] for row in paying)} calls read more of {table} than they need.",
            evidence=paying,
            remedies=[_create(row) for row in paying],
        )


def _create(row: Mapping[str, Any]) -> Remedy:
    size = f"{row['size_bytes'] / 2**20:.0f} MB" if row["size_bytes"] >= 2**20 else f"{row['size_bytes'] // 1024} kB"
    return Remedy(
        f"Create it without blocking writers; about {size}, writes get {row['write_cost']:.1%} of the workload dearer",
        sql=row["statement"],
        locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}; it waits for transactions that are open",
    )


check = Check(
    "missing-index",
    sql=SQL,
    judge=judge,
    deepen=deepen,
    budget_s=BUDGET_S,
    docs=("https://www.postgresql.org/docs/current/indexes-examine.html",),
    runbook="index_analysis",
    sees_sessions=True,
)
