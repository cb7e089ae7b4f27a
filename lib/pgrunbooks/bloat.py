"""Bloat, measured instead of estimated: on request, the worst estimates first, within a budget of time.

To weigh the holes of a relation is to read it, so no check does it. It takes the extension pgstattuple and a role in
pg_stat_scan_tables, which pg_monitor is a member of. https://www.postgresql.org/docs/current/pgstattuple.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgrunbooks import sizes
from pgrunbooks.check import Rows
from pgrunbooks.checks import _btree
from pgrunbooks.checks.vacuum import table_bloat
from pgrunbooks.display import duration
from pgrunbooks.session import Session, refused

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]

_SCHEMA = """
select n.nspname::text as schema
from pg_catalog.pg_extension as e
join pg_catalog.pg_namespace as n on n.oid = e.extnamespace
where e.extname = 'pgstattuple'
order by n.nspname
"""


@dataclass(frozen=True)
class Bloat:
    """How much of a relation is waste, as a share of it: by estimate, and by measurement where that was possible.

    ``estimated`` is None where the statistics do not allow it; ``not_measured`` says why ``measured`` is None.
    """

    kind: str
    name: str
    bytes: int
    estimated: float | None
    measured: float | None = None
    not_measured: str | None = None

    @property
    def share(self) -> float | None:
        """Return the better figure of the two."""
        return self.estimated if self.measured is None else self.measured


@dataclass(frozen=True)
class _Method:
    """How the relations of a check are estimated and measured; by oid, since a name may be another's by then."""

    kind: str
    needed_bytes: Callable[[Row], float]
    query: str
    share: Callable[[Row, float], float | None]


def index_share(measured: Row, fillfactor: float) -> float | None:
    """Return which share of a btree a new build would free, from a row of pgstatindex; None for an empty one.

    Pages that are full to the fillfactor stay; deduplication that a new build would do for the first time is not seen.
    """
    leaves, density = measured["leaf_pages"], measured["avg_leaf_density"]
    if not leaves or density is None:
        return None
    full = min(density / 100 / fillfactor, 1.0)
    pages = 1 + (leaves + measured["internal_pages"]) * full
    page_bytes = measured["index_size"] / (
        1 + leaves + sum(measured[name] for name in ("internal_pages", "empty_pages", "deleted_pages"))
    )
    return max(1 - float(pages * page_bytes / measured["index_size"]), 0.0)


def table_share(measured: Row, fillfactor: float) -> float | None:
    """Return which share of a table is free or dead, beyond what its fillfactor keeps free; None for an empty one."""
    if not measured["table_len"]:
        return None
    waste = measured["approx_free_percent"] + measured["dead_tuple_percent"]
    return max(float(waste) / 100 - (1 - fillfactor), 0.0)


_METHODS = {
    "index-bloat": _Method(
        "index", _btree.needed_bytes, "select * from {}.pgstatindex(%(oid)s::int8::oid::regclass)", index_share
    ),
    "table-bloat": _Method(
        "table",
        table_bloat.needed_bytes,
        "select * from {}.pgstattuple_approx(%(oid)s::int8::oid::regclass)",
        table_share,
    ),
}


def measure(session: Session, rows: Mapping[str, Rows], budget_s: float = 60.0) -> list[Bloat]:
    """Measure what index-bloat and table-bloat suspect, one relation after the other, the worst estimate first.

    ``rows`` are those of a verdict. A relation is a candidate where its size reaches the limit of its check, and its
    estimated waste half the limit, or where there is no estimate. No statement takes longer than the target's
    ``statement_timeout``, all of them together hardly longer than ``budget_s`` seconds, and what somebody has locked,
    or waits to lock, is left alone. Returns every candidate, measured or with the reason why not.
    Raises ConnectionLostError where the server goes away.
    """
    schema = next((row["schema"] for row in session.rows(_SCHEMA)), None)
    refusal = None if schema else "needs an extension: create extension pgstattuple;"
    deadline, results = time.monotonic() + budget_s, []
    for method, row, bloat in _candidates(session, rows):
        left_s = deadline - time.monotonic()
        reason, share = refusal, None
        if not reason and left_s <= 0:
            reason = f"no time was left of {duration(budget_s)}"
        if not reason and {row["table_oid"], row.get("index_oid")} & sizes.locked(session):
            reason = "somebody holds a lock on it, or waits for one"
        if not reason:
            query = sql.SQL(method.query).format(sql.Identifier(str(schema))).as_string()
            oid = {"oid": row.get("index_oid", row["table_oid"])}
            try:
                stat = session.rows(query, oid, lock_timeout_s=sizes.LOCK_TIMEOUT_S, timeout_s=left_s)[0]
                share = method.share(stat, row["fillfactor"])
                reason = "it is empty" if share is None else None
            except pg.InsufficientPrivilege:
                refusal = reason = f"needs a right: grant pg_stat_scan_tables to {session.server.quoted_role};"
            except psycopg.Error as error:
                answer = refused(error, session.server)
                reason = answer if isinstance(answer, str) else answer.reason
        results.append(replace(bloat, measured=share, not_measured=reason))
    return results


def table(session: Session, rows: Mapping[str, Rows], *, measured: bool, budget_s: float = 60.0) -> pandas.DataFrame:
    """Return what ``measure`` returns, a row each; without ``measured`` the estimates alone, and nothing is read.

    Columns: relation, bytes, waste_bytes and waste (a text in percent) by the better figure, estimated and measured
    (texts in percent, missing where there is none), because (why it was not measured).
    """
    import pandas

    if measured:
        found = measure(session, rows, budget_s)
    else:
        found = [replace(it, not_measured="not asked for") for _, _, it in _candidates(session, rows)]
    columns = ["relation", "bytes", "waste_bytes", "estimated", "measured", "not_measured"]
    records = [
        {
            "relation": it.name,
            "bytes": it.bytes,
            "waste_bytes": None if it.share is None else round(it.bytes * it.share),
            "estimated": _percent(it.estimated),
            "measured": _percent(it.measured),
            "not_measured": it.not_measured,
        }
        for it in found
    ]
    return pandas.DataFrame(records, columns=columns)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _candidates(session: Session, rows: Mapping[str, Rows]) -> list[tuple[_Method, Row, Bloat]]:
    found = []
    for code, method in _METHODS.items():
        limits = session.target.limits(code)
        for row in rows.get(code, ()):
            if row["bytes"] < max(limits["min_bytes"], 1):
                continue
            share = None if row["unread"] else max(1 - method.needed_bytes(row) / row["bytes"], 0.0)
            if share is None or share >= limits["waste"] / 2:
                found.append((method, row, Bloat(method.kind, row[method.kind], row["bytes"], share)))
    return sorted(found, key=lambda it: (-(it[2].estimated or 0.0) * it[2].bytes, -it[2].bytes, it[2].name))
