"""The second opinion: production's own planner on the proposed indexes, where HypoPG is installed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgrunbooks.advice.values import Variant
from pgrunbooks.session import Session

if TYPE_CHECKING:
    from pgrunbooks.advice.advisor import Helped, Proposal

_SCHEMA = """
select n.nspname::text as schema
from pg_catalog.pg_extension as e
join pg_catalog.pg_namespace as n on n.oid = e.extnamespace
where e.extname = 'hypopg'
"""


def checked(session: Session, proposals: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """Return the proposals with production's own costs beside the lab's; unchanged where HypoPG is not installed.

    Hypothetical indexes live in the memory of this one connection; nothing is written. HypoPG knows no GIN and no
    GiST: a proposal with one of them stays without a second opinion. Planning may call functions that a statement
    names, so a superuser's session asks for none, except on the sandbox.
    """
    where = session.rows(_SCHEMA)
    if not where or not proposals or session.lends_power:
        return tuple(proposals)
    schema = where[0]["schema"]
    variants = {it.variant for proposal in proposals for it in proposal.helped}
    before = {it: _cost(session, it) for it in variants}
    made = [_create(session, schema, proposal) for proposal in proposals]
    try:
        after = {it: _cost(session, it) for it in before}
    finally:
        session.rows(sql.SQL("select {}()").format(sql.Identifier(schema, "hypopg_reset")).as_string())
    return tuple(
        replace(proposal, helped=tuple(_with(it, before[it.variant], after[it.variant]) for it in proposal.helped))
        if is_made
        else proposal
        for proposal, is_made in zip(proposals, made, strict=True)
    )


def _create(session: Session, schema: str, proposal: Proposal) -> bool:
    call = sql.SQL("select * from {}({})").format(
        sql.Identifier(schema, "hypopg_create_index"), sql.Literal(proposal.index.statement(concurrently=False))
    )
    try:
        return bool(session.rows(call.as_string()))
    except psycopg.Error:
        return False


def _cost(session: Session, variant: Variant) -> float | None:
    """Return production's cost of a statement with the values that the lab used; None where it has no answer."""
    options = "format json, generic_plan" if variant.generic else "format json"
    try:
        rows = session.rows(f"explain ({options}) {variant.text}", one_statement=not variant.generic)
    except psycopg.Error:  # before 16 there is no generic plan to be had
        return None
    cost: float = rows[0]["QUERY PLAN"][0]["Plan"]["Total Cost"]
    return cost


def _with(helped: Helped, before: float | None, after: float | None) -> Helped:
    return helped if before is None or after is None else replace(helped, on_production=(before, after))
