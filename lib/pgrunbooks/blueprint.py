"""The blueprint of some tables: what the planner knows of them on a server, read without reading one of their rows.

Schema and statistics come from pg_dump, sizes and settings from the catalog. Nothing but ACCESS SHARE is taken.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrunbooks import sizes, undumped_statistics
from pgrunbooks.errors import LabError
from pgrunbooks.relay import DumpError, dump
from pgrunbooks.session import Session, open_session

STATISTICS = "STATISTICS DATA"  # the kind of those entries
_ATTEMPTS = 3  # of a dump that a lock came in the way of
_QUIET = (
    *("--no-owner", "--no-privileges", "--no-comments", "--no-security-labels", "--no-tablespaces"),
    *("--no-table-access-method", "--no-policies", "--no-publications", "--no-subscriptions"),
    *("--no-large-objects", "--no-data", "--no-toast-compression", "--verbose"),
)
_KINDS = {"r": "table", "p": "table", "m": "materialized view", "v": "view", "S": "sequence", "f": "foreign table"}

# What they need comes along: parents and children, what a view reads, sequences of defaults.
_RELATIONS = """
with recursive wanted (oid) as (
    select c.oid
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where pg_catalog.format('%%I.%%I', n.nspname, c.relname) = any(%(tables)s::text[])
    union
    select other.oid
    from wanted as w
    cross join lateral (
        select i.inhparent as oid from pg_catalog.pg_inherits as i where i.inhrelid = w.oid
        union all
        select i.inhrelid from pg_catalog.pg_inherits as i where i.inhparent = w.oid
        union all
        select d.refobjid
        from pg_catalog.pg_rewrite as r
        join pg_catalog.pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        where r.ev_class = w.oid and d.refclassid = 'pg_class'::regclass
        union all
        select d.refobjid
        from pg_catalog.pg_attrdef as a
        join pg_catalog.pg_depend as d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid
        where a.adrelid = w.oid and d.refclassid = 'pg_class'::regclass
    ) as other
)
select
    c.oid::int8 as oid,
    n.nspname as schema,
    c.relname as name,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as relation,
    c.relkind as kind,
    c.relpersistence = 't' as temporary,
    c.oid < 16384 or n.nspname like 'pg\\_temp\\_%%' or n.nspname like 'pg\\_toast%%' as is_system,
    array(select i.inhparent::int8 from pg_catalog.pg_inherits as i where i.inhrelid = c.oid) as parents,
    pg_catalog.has_table_privilege(c.oid, 'select') as may_read,
    pg_catalog.has_schema_privilege(n.oid, 'usage') as may_use,
    c.relrowsecurity and pg_catalog.row_security_active(c.oid) as is_filtered,
    c.relpages::int8 as pages,
    s.spcoptions as costs
from wanted as w
join pg_catalog.pg_class as c on c.oid = w.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_tablespace as s on s.oid = c.reltablespace
order by c.oid
"""

_INDEXES = """
select
    i.indexrelid::int8 as oid,
    i.indrelid::int8 as table_oid,
    n.nspname as schema,
    c.relname as name,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) as relation,
    i.indisvalid as is_valid,
    c.relkind = 'I' as is_partitioned,
    c.relpages::int8 as pages,
    s.spcoptions as costs,
    (
        select k.oid::int8
        from pg_catalog.pg_constraint as k
        where k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
        order by k.oid
        limit 1
    ) as constraint_oid
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_tablespace as s on s.oid = c.reltablespace
where i.indrelid = any(%(oids)s::oid[]) and i.indislive
order by i.indexrelid
"""

_LOCKED = """
select distinct l.relation::int8 as oid
from pg_catalog.pg_locks as l
join pg_catalog.pg_database as d on d.oid = l.database
where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and d.datname = pg_catalog.current_database()
    and l.relation = any(%(oids)s::oid[]) and l.pid is distinct from pg_catalog.pg_backend_pid()
order by oid
"""

_PAGES = """
select
    o.oid::int8 as oid,
    pg_catalog.pg_relation_size(o.oid, 'main') / current_setting('block_size')::int8 as pages
from unnest(%(oids)s::oid[]) as o (oid)
order by o.oid
"""

# Those that a plan depends on. search_path makes the names of a statement mean the same tables.
_SETTINGS = """
select s.name, s.setting
from pg_catalog.pg_settings as s
where s.category like 'Query Tuning%%' and s.name not like 'jit%%' and s.name <> 'plan_cache_mode'
    or s.name in (
        'search_path', 'work_mem', 'hash_mem_multiplier', 'max_parallel_workers_per_gather',
        'parallel_leader_participation', 'TimeZone', 'default_text_search_config', 'transform_null_equals',
        'max_parallel_workers', 'array_nulls', 'bytea_output', 'standard_conforming_strings'
    )
order by s.name
"""

_DATABASE = """
select
    pg_catalog.pg_encoding_to_char(d.encoding) as encoding,
    d.datlocprovider as provider,
    d.datcollate as collate,
    d.datctype as ctype,
    coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') as locale,
    s.spcoptions as costs
from pg_catalog.pg_database as d
join pg_catalog.pg_tablespace as s on s.oid = d.dattablespace
where d.datname = pg_catalog.current_database()
"""


@dataclass(frozen=True)
class Entry:
    """One object of a dump: its class and oid on the source, pg_dump's word for its kind, and its SQL."""

    class_oid: int
    oid: int
    name: str
    kind: str
    sql: str


@dataclass(frozen=True)
class Blueprint:
    """Everything that a lab is built from; ``relations`` and ``indexes`` are by oid of the source.

    ``left_out`` is table -> why it is not among them, ``asked`` the tables that are, without what came along;
    ``extended`` is what there is of extended statistics, ``major`` the version of the source.
    """

    asked: frozenset[str]
    relations: Mapping[int, Mapping[str, Any]]
    indexes: Mapping[int, Mapping[str, Any]]
    entries: tuple[Entry, ...]
    extended: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, str]
    database: Mapping[str, Any]
    left_out: Mapping[str, str]
    major: int


def read_blueprint(session: Session, tables: Collection[str], pg_dump: Path) -> Blueprint:
    """Read the blueprint of tables ('schema.table', quoted as quote_ident does) and of what they need.

    Raises LabError where none of them can be had, and ConnectionLostError.
    """
    relations = {row["oid"]: row for row in session.rows(_RELATIONS, {"tables": sorted(tables)})}
    asked = {oid for oid, row in relations.items() if row["relation"] in tables}
    reasons = {oid: reason for oid, row in relations.items() if (reason := _refusal(row, session.server.quoted_role))}
    text = ""
    for attempt in range(_ATTEMPTS):
        reasons.update(_locked(session, set(relations) - set(reasons)))
        kept = _kept(relations, reasons)
        if not kept & asked:
            break
        try:
            text = _dumped(session, pg_dump, [relations[oid] for oid in sorted(kept)])
            break
        except DumpError as error:
            if attempt == _ATTEMPTS - 1 or not _locked(session, kept):
                raise LabError(f"pg_dump cannot read the schema: {error}") from None
    found = {relations[oid]["relation"] for oid in asked}
    left_out = dict.fromkeys(sorted(set(tables) - found), f"no such table in the database {session.server.database}")
    role = session.server.quoted_role
    left_out |= {relations[oid]["relation"]: _why(oid, relations, reasons, role) for oid in sorted(asked - kept)}
    if not kept & asked:
        raise LabError("; ".join(dict.fromkeys(left_out.values())) or "no table was named")
    indexes = {row["oid"]: row for row in session.rows(_INDEXES, {"oids": sorted(kept)})}
    rows = [*(relations[oid] for oid in kept), *indexes.values()]
    pages = _pages(session, rows)
    ranges, extended = undumped_statistics.read(session, {row["oid"] for row in rows})
    return Blueprint(
        asked=frozenset(relations[oid]["relation"] for oid in asked & kept),
        relations={oid: {**relations[oid], "pages": pages[oid]} for oid in sorted(kept)},
        indexes={oid: {**row, "pages": pages[oid]} for oid, row in indexes.items()},
        # what is given first stays
        entries=(*(Entry(0, 0, name, STATISTICS, sql) for name, sql in ranges), *_entries(text)),
        extended=tuple(extended),
        settings={row["name"]: row["setting"] for row in session.rows(_SETTINGS)},
        database=session.rows(_DATABASE)[0],
        left_out=left_out,
        major=session.server.major,
    )


def members(relations: Mapping[int, Mapping[str, Any]], oid: int) -> set[int]:
    """Return a relation with all that it is tied to by inheritance or partitioning, up and down."""
    children = defaultdict(set)
    for other, row in relations.items():
        for parent in row["parents"]:
            children[parent].add(other)
    found: set[int] = {oid}
    seen: set[int] = set()
    while todo := found - seen:
        seen |= todo
        for one in todo:
            found |= children[one] | (set(relations[one]["parents"]) & set(relations))
    return found


def _refusal(row: Mapping[str, Any], role: str) -> str | None:
    relation, kind = row["relation"], row["kind"]
    if row["is_system"] and kind != "v":
        return f"{relation}: a system catalog"
    if row["temporary"]:
        return f"{relation}: a temporary table of another session"
    if kind not in _KINDS or kind == "f":
        return f"{relation}: a foreign table, which its own server plans" if kind == "f" else f"{relation}: no table"
    if kind == "S":
        return None
    if not row["may_use"] or not row["may_read"]:
        what = "USAGE on its schema" if not row["may_use"] else "SELECT"
        grant = f"grant select on {relation} to {role};" if row["may_use"] else f"grant pg_read_all_data to {role};"
        return f"{relation}: {role} lacks {what}, without which its statistics are hidden: {grant}"
    if row["is_filtered"]:
        return f"{relation}: row level security hides its statistics from {role}: alter role {role} bypassrls;"
    return None


def _locked(session: Session, oids: Collection[int]) -> dict[int, str]:
    rows = session.rows(_LOCKED, {"oids": sorted(oids)})
    return {row["oid"]: "locked in ACCESS EXCLUSIVE mode by another session; ask again once it is done" for row in rows}


def _kept(relations: Mapping[int, Mapping[str, Any]], reasons: Mapping[int, str]) -> set[int]:
    gone = {other for oid in reasons for other in members(relations, oid)}
    return set(relations) - gone


def _why(oid: int, relations: Mapping[int, Mapping[str, Any]], reasons: Mapping[int, str], role: str) -> str:
    family = sorted(other for other in members(relations, oid) if other in reasons)
    closed = [relations[other]["relation"] for other in family if not relations[other]["may_read"]]
    if len(closed) > 1:  # a grant on the parent lets the application read its partitions and hides their statistics
        return (
            f"{relations[oid]['relation']}: {role} lacks SELECT on {len(closed)} tables of its family, such as"
            f" {closed[-1]}, without which their statistics are hidden: grant pg_read_all_data to {role};"
        )
    guilty = oid if oid in reasons else family[0]
    relation = relations[guilty]["relation"]
    return reasons[guilty] if reasons[guilty].startswith(relation) else f"{relation}: {reasons[guilty]}"


def _dumped(session: Session, pg_dump: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the SQL of everything but relations, then that of the relations; each from a connection of its own."""
    patterns = [f"include table {_pattern(row['schema'])}.{_pattern(row['name'])}" for row in rows if _is_dumped(row)]

    def run(*arguments: str, filter_lines: Collection[str] = ()) -> str:
        with open_session(session.target, database=session.server.database) as own:
            return dump(own, pg_dump, [*_QUIET, *arguments], filter_lines=list(filter_lines))

    return run("--exclude-table=*.*") + run("--statistics", "--strict-names", filter_lines=patterns)


def _is_dumped(row: Mapping[str, Any]) -> bool:
    return not row["is_system"]


def _pattern(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_HEADER = re.compile(
    r"^--\n-- TOC entry \d+ \(class (\d+) OID (\d+)\)\n(?:-- Dependencies: .*\n)?"
    r"-- (?:Statistics for |Data for )?Name: (.*); Type: ([A-Z ]+); Schema: .*\n--\n",
    re.MULTILINE,
)
_END = re.compile(r"^--\n-- PostgreSQL database dump complete\n--\n(?:.|\n)*?\\unrestrict .*\n", re.MULTILINE)
# Options of a column steer ANALYZE alone, and a patched server keeps private ones there.
_COLUMN_OPTIONS = re.compile(r"^ALTER TABLE .* ALTER COLUMN .* SET \(.*\);\n", re.MULTILINE)
_COMPLETED = re.compile(r"^-- Completed on .*\n", re.MULTILINE)


def _entries(text: str) -> Iterator[Entry]:
    """Cut the text of pg_dump --verbose at the comments that stand before each object."""
    for part in _END.split(text):
        heads = list(_HEADER.finditer(part))
        ends = [*(head.start() for head in heads), len(part)][1:]
        for head, end in zip(heads, ends, strict=True):
            sql = _COMPLETED.sub("", part[head.end() : end])
            sql = _COLUMN_OPTIONS.sub("", sql) if head[4] in ("TABLE", "MATERIALIZED VIEW") else sql
            yield Entry(int(head[1]), int(head[2]), head[3], head[4], sql.strip())


def _pages(session: Session, rows: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return the pages of each relation's file; the last VACUUM's count where a lock is in the way."""
    estimates = {row["oid"]: row["pages"] for row in rows}
    wanted = {row["oid"]: {row["oid"], row.get("table_oid", row["oid"])} for row in rows}
    exact = sizes.unblocked(session, wanted, _PAGES)
    return {oid: exact.get(oid, {}).get("pages") or estimate for oid, estimate in estimates.items()} | {
        oid: 0 for oid, row in exact.items() if row["pages"] == 0
    }
