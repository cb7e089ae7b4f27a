"""Statistics of an expression that nobody analyzed, from those of the one column that it is made of.

The most common values of the column and the bounds of its histogram are a sample of its rows: the expression of each is
computed, as ANALYZE would of sampled rows. Without this the planner takes half a percent of the rows to be equal to
anything. An expression of several columns stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import psycopg
from pglast import ast, parse_sql
from pglast.visitors import Visitor
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbooks import planner_statistics

# Of the index with this oid: each key that is an expression, and the columns of its table.
_EXPRESSIONS = """
select
    n.nspname as schema,
    x.relname as index,
    a.attname as attribute,
    t.typlen as length,
    pg_catalog.pg_get_indexdef(i.indexrelid, a.attnum, false) as expression,
    h.reltuples::float8 as rows,
    h.relname as table,
    i.indrelid::int8 as table_oid
from pg_catalog.pg_index as i
join pg_catalog.pg_class as x on x.oid = i.indexrelid
join pg_catalog.pg_class as h on h.oid = i.indrelid
join pg_catalog.pg_namespace as n on n.oid = h.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = i.indexrelid and a.attnum <= i.indnkeyatts
join pg_catalog.pg_type as t on t.oid = a.atttypid
where i.indexrelid = %(oid)s and i.indkey[a.attnum - 1] = 0
order by a.attnum
"""

_COLUMN = """
select
    pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
    s.null_frac::float8,
    s.n_distinct::float8,
    s.correlation::float8,
    coalesce(pg_catalog.cardinality(s.most_common_freqs), 0) as common,
    coalesce((select sum(f) from unnest(s.most_common_freqs) as f), 0)::float8 as common_share
from pg_catalog.pg_attribute as a
join pg_catalog.pg_stats as s
    on s.schemaname = %(schema)s and s.tablename = %(table)s and s.attname = a.attname and not s.inherited
where a.attrelid = %(table_oid)s and a.attname = %(column)s
"""

# As a column of a row a short text has a short header, as on disk; the row itself has 24 bytes of header. In a FROM
# unnest() would take composite values apart. The likeness is that of the orders of the results and of the values.
_SAMPLE = """
select
    it.result::text as value,
    max(pg_catalog.pg_column_size(row(it.result))) - 24 as bytes,
    coalesce(sum(it.share), 0)::float8 as share,
    coalesce(sum(it.bounds), 0)::float8 as bounds,
    count(it.bounds) as drawn,
    bool_or(it.share is not null) as is_common,
    max(it.likeness) as likeness
from (
    select of_both.*, corr(of_both.place, of_both.rank) filter (where of_both.result is not null) over () as likeness
    from (
        select of_result.*, rank() over (order by of_result.result) as rank
        from (
            select
                {expression} as result,
                of_column.share,
                of_column.bounds,
                rank() over (order by of_column.{column}) as place
            from (
                select v.value as {column}, v.share, null::int8 as bounds
                from pg_catalog.pg_stats as s
                cross join lateral (
                    select unnest(s.most_common_vals::text::{type}[]) as value, unnest(s.most_common_freqs) as share
                ) as v
                where s.schemaname = {schema} and s.tablename = {table} and s.attname = {name} and not s.inherited
                union all
                select v.value, null, count(*)
                from pg_catalog.pg_stats as s
                cross join lateral (select unnest(s.histogram_bounds::text::{type}[]) as value) as v
                where s.schemaname = {schema} and s.tablename = {table} and s.attname = {name} and not s.inherited
                group by v.value
            ) as of_column
        ) as of_result
    ) as of_both
) as it
group by it.result
order by it.result
"""

_AS_TEXT = """
select
    nullif(%(values)s::text[], '{}')::text as most_common_vals,
    nullif(%(shares)s::real[], '{}')::text as most_common_freqs,
    nullif(%(bounds)s::text[], '{}')::text as histogram_bounds
"""

_SECONDS = {
    **{"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_629_746},
    **{"quarter": 7_889_238, "year": 31_556_952},
}
_TRUNCATED = re.compile(r"\(*date_trunc\('(\w+)'")

Row = Mapping[str, Any]


def give_statistics(owner: psycopg.Connection, planner: psycopg.Connection, index_oid: int) -> None:
    """Give the expressions of an index statistics; those stay unknown for which the column's do not say enough.

    Expressions are computed on the connection ``planner``, which should be allowed nothing; ``owner`` is a superuser's.
    """
    for key in _rows(owner, _EXPRESSIONS, {"oid": index_oid}):
        columns = _columns(key["expression"])
        found = [
            row for column in columns for row in _rows(owner, _COLUMN, {**key, "column": column}) if len(columns) == 1
        ]
        if not found:
            continue
        try:
            sample = _sample(planner, key, columns.pop(), found[0])
        except psycopg.Error:  # it fails for some values, or cannot be sorted
            continue
        if any(row["value"] is not None for row in sample):
            known = {**derived(sample, found[0], key), "correlation": _correlation(sample[0], found[0])}
            name = {"schemaname": key["schema"], "relname": key["index"], "attname": key["attribute"]}
            texts = _rows(planner, _AS_TEXT, known)[0]
            planner_statistics.give({**name, "inherited": False, **known, **texts}, planner)


def _correlation(result: Row, column: Row) -> float | None:
    """Return how much the results are in the order of the rows: as much as both are in that of the column's values."""
    if result["likeness"] is None or column["correlation"] is None:
        return None
    return float(result["likeness"] * column["correlation"])


def derived(sample: Sequence[Row], column: Row, key: Row) -> dict[str, Any]:
    """Return the statistics of an expression: its fractions, common ``values`` with their ``shares``, and ``bounds``.

    ``sample`` has a row for each result, in order: ``value``, ``bytes``, ``share`` (that of the common values behind
    it), ``bounds`` of the histogram behind it, ``drawn`` (different ones among them) and ``is_common``. ``column`` are
    the statistics of the column, ``key`` the expression, the ``length`` of its type, and the ``rows`` of the table.
    """
    bounds = sum(row["bounds"] for row in sample)
    each = max(1 - column["null_frac"] - column["common_share"], 0.0) / bounds if bounds else 0.0
    shares = {row["value"]: row["share"] + each * row["bounds"] for row in sample}
    present = [row for row in sample if row["value"] is not None]
    common = [row["value"] for row in present if row["is_common"] or row["drawn"] > 1]
    common.sort(key=lambda value: -shares[value])
    others = [row["value"] for row in present if row["value"] not in set(common)]
    total = sum(shares[row["value"]] for row in present) or 1.0
    width = sum(row["bytes"] * shares[row["value"]] for row in present) / total
    distinct = _distinct(present, column, key)
    return {
        "null_frac": min(column["null_frac"] + shares.get(None, 0.0), 1.0),
        "avg_width": max(int(width), 1),
        "n_distinct": -distinct / key["rows"] if distinct > key["rows"] / 10 else distinct,
        "values": common,
        "shares": [shares[value] for value in common],
        "bounds": others if len(others) > 1 else [],
    }


def _distinct(present: Sequence[Row], column: Row, key: Row) -> float:
    """Return how many results there are, by ANALYZE's estimator (Haas and Stokes) over the column's values."""
    of_column = -column["n_distinct"] * key["rows"] if column["n_distinct"] < 0 else column["n_distinct"]
    drawn = sum(row["drawn"] for row in present)
    results = sum(row["drawn"] > 0 for row in present)
    once = sum(row["drawn"] == 1 and not row["is_common"] for row in present)
    rest = max(of_column - column["common"], results, 1.0)
    unseen = drawn * results / (drawn - once + once * drawn / rest) if drawn else 0.0
    only_common = sum(row["drawn"] == 0 for row in present)
    most = _most(key, present[0]["value"], present[-1]["value"])
    return float(max(min(only_common + unseen, of_column, most, max(key["rows"], 1.0)), 1.0))


def _most(key: Row, first: str, last: str) -> float:
    """Return how many results there can be between the least and the greatest: days, whole numbers, what is cut off."""
    if key["length"] < 0:
        return float("inf")
    try:
        unit = _TRUNCATED.match(key["expression"])
        if unit:
            span = datetime.fromisoformat(last) - datetime.fromisoformat(first)
            return span.total_seconds() / _SECONDS.get(unit[1], 1e-6) + 1
        if re.fullmatch(r"-?\d+", first) and re.fullmatch(r"-?\d+", last):
            return float(int(last) - int(first) + 1)
        return float((date.fromisoformat(last) - date.fromisoformat(first)).days + 1)
    except ValueError:
        return float("inf")


def _columns(expression: str) -> set[str]:
    found: set[str] = set()

    class Columns(Visitor):  # type: ignore[misc]
        def visit_ColumnRef(self, _: object, node: ast.ColumnRef) -> None:
            found.add(node.fields[-1].sval)

    Columns()(parse_sql(f"select {expression}"))
    return found


def _sample(planner: psycopg.Connection, key: Row, column: str, statistics: Row) -> list[dict[str, Any]]:
    query = sql.SQL(_SAMPLE).format(
        expression=sql.SQL(key["expression"]),
        column=sql.Identifier(column),
        type=sql.SQL(statistics["type"]),
        schema=sql.Literal(key["schema"]),
        table=sql.Literal(key["table"]),
        name=sql.Literal(column),
    )
    return planner.cursor(row_factory=dict_row).execute(query).fetchall()


def _rows(connection: psycopg.Connection, query: str, parameters: Row) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query.encode(), parameters).fetchall()
