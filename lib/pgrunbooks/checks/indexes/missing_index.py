"""Which new index would pay for itself on the observed workload?

A statement that reads a whole table for a few rows is the most common cause of a slow database, and the cheapest to
heal. The statements of pg_stat_statements are put before the planner in the what-if lab, with indexes that are not
there. An index is reported where it lowers the cost of the workload by 'gain', the cost that it adds to every write
taken off, and where the statements that it helps were called 'min_calls' times. None is sought for calls of less than a
tenth of a millisecond, which are the start of the executor for the most part. Nothing is created in the database.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._sessions import Row
from pgrunbooks.errors import LabError
from pgrunbooks.session import Session
from pgrunbooks.workload import WHERE

if TYPE_CHECKING:
    from pgrunbooks.advice import Advice, Helped

SQL = {15: WHERE}
BUDGET_S = 30.0
_MOST_NAMED = 5  # tables
_CURE = re.compile(r": ((?:grant|alter role) [^;]+;)")  # that a reason of the lab ends in
_EVIDENCE = ("queryid", "calls", "cost_before", "cost_after", "query")


def deepen(session: Session, rows: Rows, limits: Limits, left_s: float) -> Sequence[Row | Skip] | Skip:
    """Return a row for each index that pays, the one that saves most first; ``rows`` say where the statements are.

    A Skip among them names the tables of the workload that the lab could not have, or expressions without constants.
    """
    from pgrunbooks.advice import advise  # a parser and a server, for those who ask

    if not rows:
        return Skip("needs the extension pg_stat_statements", "create extension pg_stat_statements;")
    try:
        advice = advise(session, gain=limits["gain"], min_calls=int(limits["min_calls"]))
    except LabError as error:
        return _unseen([str(error)])
    if isinstance(advice, Skip):
        return advice
    reasons = [advice.unseen[table] for table in sorted(advice.unseen)]
    if lost := sorted({expression for some in advice.lost.values() for expression in some}):
        reasons = [f"pg_stat_statements keeps no constants, so no index was tried on {', '.join(lost)}", *reasons]
    return [*_rows(advice), *([_unseen(reasons)] if reasons else [])]


def _unseen(reasons: Sequence[str]) -> Skip:
    """Return the reasons of the lab, each once and without what would help, which is the remedy."""
    cures = dict.fromkeys(cure for reason in reasons for cure in _CURE.findall(reason))
    said = list(dict.fromkeys(_CURE.sub("", reason) for reason in reasons))
    more = [f"and {len(said) - _MOST_NAMED} more"] if len(said) > _MOST_NAMED else []
    return Skip("; ".join((*said[:_MOST_NAMED], *more)), "\n".join(sorted(cures, reverse=True)) or None)


def _rows(advice: Advice) -> Iterator[Row]:
    """Yield a row a proposal, in the order in which they save most; each knows what the workload costs from then on."""
    by_index = {it.index: it for it in advice.proposals}
    total_bytes = 0
    for before, after in pairwise(advice.path):
        (index,) = after.indexes - before.indexes
        it = by_index[index]
        total_bytes += it.size_bytes
        yield {
            "table": index.table,
            "index": it.name,
            "statement": it.sql,
            "undo": it.undo,
            "partitions": None if it.partitions is None else len(it.partitions),
            "gain": it.gain,
            "saved": before.cost - after.cost,
            "write_cost": it.write_cost,
            "size_bytes": it.size_bytes,
            "calls": it.calls,
            "confidence": it.confidence,
            "replaces": list(it.redundant),
            "workload_cost": after.cost,
            "workload_bytes": total_bytes,
            "planner": advice.planner,
            "helped": [_helped(each) for each in it.helped],
        }


def _helped(it: Helped) -> Row:
    row = {"queryid": it.statement.queryid, "query": it.statement.text, "calls": it.statement.calls}
    row |= {"cost_before": it.before, "cost_after": it.after}
    row |= {"plan_before": it.plan_before.outline(), "plan_after": it.plan_after.outline()}
    return {**row, "on_production": it.on_production}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report each table on which at least one index pays."""
    tables: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["gain"] >= limits["gain"] and row["calls"] >= limits["min_calls"]:
            tables[row["table"]].append(row)
    for table, paying in tables.items():
        saved = sum(row["saved"] for row in paying)
        yield Finding(
            severity="warning",
            kind="table",
            name=table,
            title=f"{'An index' if len(paying) == 1 else f'{len(paying)} indexes'} on {table} would save "
            f"{saved:.0%} of the workload's cost",
            impact=f"{sum(row['calls'] for row in paying)} calls read more of {table} than they need."
            + _another_planner(paying[0]["planner"], context.server.major),
            evidence=[
                {"index": row["index"], **{name: each[name] for name in _EVIDENCE}}
                for row in paying
                for each in row["helped"]
            ],
            remedies=[_create(row, step) for step in _steps(paying, limits["gain"]) for row in step],
        )


def _another_planner(planner: int, major: int) -> str:
    return "" if planner == major else f" Planned by PostgreSQL {planner}: this machine has no {major} that could."


def _steps(paying: Sequence[Row], gain: float) -> Iterator[Sequence[Row]]:
    """Yield what has to be created together to save ``gain``: an OR over two columns gains nothing from one index.

    What each saves is taken off what those before it leave, so that the shares add up; ``gain`` of a row is what would
    be lost without that index alone, which both sides of an OR lose.
    """
    together: list[Row] = []
    for row in paying:
        together.append(row)
        if sum(it["saved"] for it in together) >= gain:
            yield together
            together = []
    if together:
        yield together


def _create(row: Row, step: Sequence[Row]) -> Remedy:
    size = f"{row['size_bytes'] / 2**20:.0f} MB" if row["size_bytes"] >= 2**20 else f"{row['size_bytes'] // 1024} kB"
    others = [it["index"] for it in step if it is not row]
    replaced = f"; it does what {' and '.join(row['replaces'])} does, which can go then" if row["replaces"] else ""
    together = f", and {' and '.join(others)} too, since one alone saves little" if others else ""
    return Remedy(
        f"Create it without blocking writers{together}; about {size}, writes get {row['write_cost']:.1%} of the"
        f" workload dearer{replaced}",
        sql=row["statement"],
        undo=row["undo"],
        locks=f"SHARE UPDATE EXCLUSIVE on {row['table']}; it waits for transactions that are open"
        if row["partitions"] is None
        else "SHARE UPDATE EXCLUSIVE on one partition after the other; the last statement, which adopts them, SHARE on"
        " all of them for a moment",
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
