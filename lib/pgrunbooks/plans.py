"""Plans: how the server would run the statements that an incident is about, asked of the planner and never run."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg

from pgrunbooks.display import cut, duration, printable, templates
from pgrunbooks.masking import command, mask
from pgrunbooks.session import Session

MOST = 5
_LONGEST = 20_000  # characters of a statement or plan: a page must still open on a phone
_EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE")

# The text of a session in another database may be in another encoding: it is not read at all.
_STATEMENTS = """
with activity as (
    select a.pid, a.usesysid, a.datname, a.query_start,
        case when a.datname = pg_catalog.current_database() then a.query end as query
    from pg_catalog.pg_stat_activity as a
    where a.pid = any(%(pids)s) and a.state = 'active' and a.backend_type = 'client backend'
)
select
    pg_catalog.array_agg(a.pid order by a.query_start, a.pid) as pids,
    a.query,
    a.datname = pg_catalog.current_database() as is_here,
    pg_catalog.octet_length(a.query) >= pg_catalog.pg_size_bytes(current_setting('track_activity_query_size')) - 1
        as is_cut,
    pg_catalog.bool_and(coalesce(r.rolsuper, false)) as by_superuser,
    max(extract(epoch from clock_timestamp() - a.query_start))::float8 as running_s
from activity as a
left join pg_catalog.pg_roles as r on r.oid = a.usesysid
group by a.query, a.datname
order by running_s desc, a.query
limit 100
"""


@dataclass(frozen=True)
class Plan:
    """The plan of one statement that runs now, or why there is none; literals are masked unless they were asked for."""

    pids: Sequence[int]
    query: str
    running_s: float
    text: str | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Plans:
    """The plans of a few statements, as a notebook shows them: one that unfolds for each statement."""

    plans: Sequence[Plan]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        template = templates().get_template("plans.html.j2")
        html = template.render(plans=self.plans, cut=cut, duration=duration).strip()
        lines = [f"{printable(it.query)}\n{printable(it.text or it.why_not or '')}" for it in self.plans]
        return {"text/html": html, "text/plain": "\n\n".join(lines) or "No statement to explain."}


def plans(session: Session, pids: Collection[int], *, show_literals: bool = False, most: int = MOST) -> Plans:
    """Return the plans of what the sessions ``pids`` run now, the longest statement first, equal texts once.

    EXPLAIN without ANALYZE runs nothing of the statement, but planning it may call a function that the statement
    names. So a superuser's session explains statements of superusers only, except on the sandbox. Raises
    ConnectionLostError where the server went away.
    """
    rows = session.rows(_STATEMENTS, {"pids": sorted(pids)}) if pids else []
    planned = [row for row in rows if row["query"] is None or command(row["query"]) in _EXPLAINED]
    return Plans([_plan(session, row, show_literals) for row in planned[:most]])


def _plan(session: Session, row: dict[str, Any], show_literals: bool) -> Plan:
    query = (row["query"] if show_literals else mask(row["query"] or "")) or "a statement in another database"
    text, why_not = None, _why_not(session, row)
    if not why_not:
        try:
            lines = [str(line["QUERY PLAN"]) for line in _explain(session, row["query"])]
            text = "\n".join(lines if show_literals else map(_masked, lines))
        except psycopg.Error as error:
            why_not = _refusal(error)
    return Plan(row["pids"], cut(query, _LONGEST), row["running_s"], text and cut(text, _LONGEST), why_not)


def _explain(session: Session, query: str) -> list[dict[str, Any]]:
    # a generic plan needs the simple protocol, which would run a second statement: _why_not refuses those
    if _has_parameters(query):
        return session.rows(f"explain (generic_plan, settings) {query}")
    return session.rows(f"explain (settings) {query}", one_statement=True)


def _has_parameters(query: str) -> bool:
    return re.search(r"\$\d", mask(query)) is not None


def _why_not(session: Session, row: dict[str, Any]) -> str | None:
    if not row["is_here"]:
        return "It runs in another database: give this page its name as the parameter database."
    if row["is_cut"]:
        return "Its text is cut: raise track_activity_query_size, which needs a restart."
    if session.lends_power and not row["by_superuser"]:
        return "Planning may call functions that it names, here with a superuser's rights: connect as a lesser role."
    if ";" in mask(row["query"]).rstrip("; "):
        return "Its text holds more than one statement."
    if session.server.major < 16 and _has_parameters(row["query"]):
        return "It has parameters, which EXPLAIN takes from PostgreSQL 16 on: auto_explain logs its plan."
    return None


def _refusal(error: psycopg.Error) -> str:
    if isinstance(error, pg.LockNotAvailable):
        return "A table of it is locked, so it cannot be planned now."
    if isinstance(error, pg.InsufficientPrivilege):
        return f"This role may not plan it: {error.diag.message_primary}."
    return f"The planner refuses: {error.diag.message_primary}."


def _masked(line: str) -> str:
    """Return a line of a plan without literals: they stand in conditions, never where the costs are."""
    name, _, condition = line.partition(": ")
    is_count = condition.isdigit() or name.strip() == "Settings"
    return line if is_count or "(cost=" in line or not condition else f"{name}: {mask(condition)}"
