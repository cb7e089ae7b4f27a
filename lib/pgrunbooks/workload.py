"""The workload: what pg_stat_statements counted, as statements with their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgrunbooks.check import Skip
from pgrunbooks.session import Session

HIDDEN = "<insufficient privilege>"
# One text in the bytes of a SQL_ASCII database, or with characters that our database's encoding lacks, is enough.
UNREADABLE = (pg.CharacterNotInRepertoire, pg.UntranslatableCharacter)
_UTILITY = re.compile(  # an assignment of PL/pgSQL, or a condition, may stand before the query
    r"(?:\s*[\w.$\"\[\]]+\s*:?=)?(?:\s|\(|not\b|exists\b|/\*.*?\*/|--[^\n]*\n)*"
    r"(select|insert|update|delete|merge|with|values|table|declare|prepare(?!\s+transaction))\b",
    re.I | re.S,
)
_SCHEMA = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
_EXPLAIN = re.compile(r"\A\s*explain\b\s*(\([^)]*\)\s*|((analyze|verbose)\b\s*)*)", re.I)

# Where the extension lives and what it can tell: the library may be newer than the extension's SQL.
WHERE = """
select
    pg_catalog.quote_ident(n.nspname) as schema,
    n.nspname::text as namespace,
    array(
        select a.attname::text
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_class as c on c.oid = a.attrelid
        where c.relnamespace = n.oid and c.relname = 'pg_stat_statements' and a.attnum > 0 and not a.attisdropped
    ) as columns,
    exists (
        select 1 from pg_catalog.pg_class as c where c.relnamespace = n.oid and c.relname = 'pg_stat_statements_info'
    ) as has_info
from pg_catalog.pg_extension as e
join pg_catalog.pg_namespace as n on n.oid = e.extnamespace
where e.extname = 'pg_stat_statements'
"""

_STATEMENTS = sql.SQL("""
select
    s.queryid::int8 as queryid,
    min(s.query) as query,
    sum(s.calls)::int8 as calls,
    sum(s.{time})::float8 as total_ms,
    sum(s.rows)::int8 as rows,
    (s.dbid <> d.oid) as elsewhere,
    (pg_catalog.array_agg(pg_catalog.pg_get_userbyid(s.userid)::text order by s.{time} desc))[1] as role,
    (pg_catalog.array_agg(coalesce(p.search_path, o.reset_val) order by s.{time} desc))[1] as search_path
from {view}(true) as s
join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
join pg_catalog.pg_settings as o on o.name = 'search_path'
left join lateral (
    select pg_catalog.substr(c.setting, 13) as search_path
    from pg_catalog.pg_db_role_setting as g
    cross join pg_catalog.unnest(g.setconfig) as c (setting)
    where
        g.setrole in (0, s.userid) and g.setdatabase in (0, d.oid)
        and pg_catalog.starts_with(c.setting, 'search_path=')
    order by g.setrole = 0, g.setdatabase = 0
    limit 1
) as p on true
group by s.queryid, s.dbid, d.oid, s.query is null or s.query = {hidden}
order by total_ms desc, queryid
""")


@dataclass(frozen=True)
class Statement:
    """One normalised statement with what it cost in the window; times in milliseconds.

    ``role`` is the one that spent most time on it, and ``search_path`` has the schemas in which that one looks for a
    bare name, as far as its settings tell: a session may have set another.
    """

    text: str
    queryid: int
    calls: int
    total_ms: float
    rows: int = 0
    search_path: tuple[str, ...] = ()
    role: str = ""

    @property
    def mean_ms(self) -> float:
        """Return the mean time of one call."""
        return self.total_ms / self.calls if self.calls else 0.0

    @property
    def mean_rows(self) -> float:
        """Return the mean rows of one call."""
        return self.rows / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Workload:
    """The statements of one database, most time first.

    ``left_out`` counts, by reason, the entries that are no part of it; ``window_s`` is the time in which all this was
    counted, None where the extension does not say.
    """

    statements: tuple[Statement, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    window_s: float | None = None
    total_ms: float = 0.0

    def since(self, earlier: Workload) -> Workload:
        """Return what was counted after an earlier reading; an entry that was evicted meanwhile counts whole."""
        before = {it.queryid: it for it in earlier.statements}
        later = []
        for it in self.statements:
            was = before.get(it.queryid)
            if was and was.calls <= it.calls and was.total_ms <= it.total_ms:
                it = replace(
                    it, calls=it.calls - was.calls, total_ms=it.total_ms - was.total_ms, rows=it.rows - was.rows
                )
            if it.calls:
                later.append(it)
        window = None
        if self.window_s is not None and earlier.window_s is not None:
            window = self.window_s - earlier.window_s if self.window_s > earlier.window_s else self.window_s
        later.sort(key=lambda it: (-it.total_ms, it.queryid))
        return replace(self, statements=tuple(later), window_s=window, total_ms=sum(it.total_ms for it in later))


def read_workload(session: Session, *, min_calls: int = 1) -> Workload | Skip:
    """Return the workload of the session's database, or why there is none to be had.

    Entries of one query id that differ by role are one statement. The extension may live in any schema, and the
    library may be newer than the extension's SQL, so the columns decide which query is asked. Its functions are asked,
    since a view may be locked.
    """
    where = session.rows(WHERE)
    if not where:
        return Skip("needs the extension pg_stat_statements", "create extension pg_stat_statements;")
    schema, columns = where[0]["namespace"], set(where[0]["columns"])
    time = "total_exec_time" if "total_exec_time" in columns else "total_time"  # before 1.8
    query = _STATEMENTS.format(
        time=sql.Identifier(time), view=sql.Identifier(schema, "pg_stat_statements"), hidden=sql.Literal(HIDDEN)
    )
    try:
        rows = session.rows(query.as_string())
    except pg.ObjectNotInPrerequisiteState:
        return Skip("pg_stat_statements must stand in shared_preload_libraries, which takes a restart")
    except UNREADABLE:
        return Skip(
            "pg_stat_statements keeps a statement, perhaps of another database, whose text cannot be shown in the"
            " encoding of this one, and shows none then; pg_stat_statements_reset() forgets it, and all counters"
        )
    left_out: dict[str, int] = {}
    statements = []
    for row in rows:
        reason = _reason(row, min_calls)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            path = _schemas(row["search_path"], row["role"])
            counts = (row["queryid"], row["calls"], row["total_ms"], row["rows"])
            statements.append(Statement(row["query"], *counts, path, row["role"]))
    return Workload(
        tuple(statements),
        left_out,
        _window(session, schema) if where[0]["has_info"] else None,
        sum(it.total_ms for it in statements),
    )


def read_texts(session: Session, queryids: Iterable[str], *, timeout_s: float | None = None) -> dict[str, str]:
    """Return the start of the text of these statements of any database, by query id; {} where none can be shown.

    The extension must be installed and loaded.
    """
    schema = session.rows(WHERE)[0]["namespace"]
    query = sql.SQL(
        "select s.queryid::text as queryid, pg_catalog.left(max(s.query), 400) as query from {}(true) as s"
        " where s.queryid::text = any(%(queryids)s) group by s.queryid order by s.queryid"
    ).format(sql.Identifier(schema, "pg_stat_statements"))
    try:
        rows = session.rows(query.as_string(), {"queryids": sorted(queryids)}, timeout_s=timeout_s)
    except UNREADABLE:
        return {}
    return {row["queryid"]: row["query"] for row in rows if row["query"]}


def read_examples(session: Session) -> dict[int, str]:
    """Return query id -> one call of the statement with its real constants, as pg_qualstats kept it; {} without it.

    Where somebody explained the statement before anybody called it, what was explained is the call.
    """
    where = session.rows(
        "select n.nspname::text as schema from pg_catalog.pg_extension as e"
        " join pg_catalog.pg_namespace as n on n.oid = e.extnamespace where e.extname = 'pg_qualstats'"
    )
    if not where:
        return {}
    query = sql.SQL("select q.queryid, q.query from {}() as q where q.query is not null order by q.queryid").format(
        sql.Identifier(where[0]["schema"], "pg_qualstats_example_queries")
    )
    try:
        rows = session.rows(query.as_string())
    except psycopg.errors.ObjectNotInPrerequisiteState:  # installed, but not in shared_preload_libraries
        return {}
    return {row["queryid"]: _EXPLAIN.sub("", row["query"]) for row in rows}


def _schemas(setting: str, role: str) -> tuple[str, ...]:
    """Return the schemas of a search path as PostgreSQL reads it; '"$user"' is the role's own."""
    names = [within.replace('""', '"') or bare.lower() for within, bare in _SCHEMA.findall(setting)]
    return tuple(role if name == "$user" else name for name in names)


def _reason(row: Mapping[str, object], min_calls: int) -> str | None:
    text = row["query"]
    if row["elsewhere"]:
        return "of another database"
    if text is None:
        return "text lost: pg_stat_statements could not keep it"
    if text == HIDDEN:
        return "text hidden: needs pg_read_all_stats"
    if not _UTILITY.match(str(text)):
        return "utility statement"
    if int(str(row["calls"])) < min_calls:
        return f"fewer than {min_calls} calls"
    return None


def _window(session: Session, schema: str) -> float | None:
    query = sql.SQL("select extract(epoch from now() - i.stats_reset)::float8 as window_s from {}() as i").format(
        sql.Identifier(schema, "pg_stat_statements_info")
    )
    rows = session.rows(query.as_string())
    window: float | None = rows[0]["window_s"] if rows else None
    return window
