"""A blueprint made into the lab's database: its objects, as far as they can be had here, and what the planner asks for.

Everything that comes from the source is run by a role that may do nothing outside of its own tables, since it may be
code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbooks import blueprint, index_size, planner_statistics, storage
from pgrunbooks.blueprint import Blueprint, Entry
from pgrunbooks.errors import LabError
from pgrunbooks.sandbox import Sandbox

DATABASE, ROLE = "lab", "lab"

_DEFAULT = re.compile(r" DEFAULT [^\n]*?((?: NOT NULL)?,?)$", re.MULTILINE)  # pg_dump has a column on each line
_COLLATED = re.compile(r"\bCOLLATE pg_catalog\.(\"(?:[^\"]|\"\")+\"|\w+)")
_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_EXTENSION = re.compile(rf"CREATE EXTENSION IF NOT EXISTS {_NAME} WITH SCHEMA {_NAME};")
_OF_A_PROVIDER = re.compile(r"\(provider = .*?\)(?=;)", re.DOTALL)
_PLAIN = "(provider = libc, locale = 'C.UTF-8')"
# Nothing that a plan depends on, and some of it would reach out of the lab.
_NOT_RESTORED = frozenset(
    (
        *("ACL", "COMMENT", "DATABASE", "DATABASE PROPERTIES", "DEFAULT ACL", "EVENT TRIGGER", "FOREIGN DATA WRAPPER"),
        *("POLICY", "PUBLICATION", "PUBLICATION TABLE", "ROW SECURITY", "SEQUENCE SET", "SERVER", "SUBSCRIPTION"),
        *("TRIGGER", "USER MAPPING"),
    )
)

_FILES = """
select
    c.oid::int8 as oid,
    pg_catalog.format('%I.%I', n.nspname, c.relname) as relation,
    pg_catalog.pg_relation_filepath(c.oid) as path
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid >= 16384 and c.relkind in ('r', 'm', 'i') and n.nspname not like 'pg\\_%%' and c.relpersistence <> 't'
"""

_THERE = """
select
    pg_catalog.format('%I.%I', n.nspname, c.relname) as relation,
    array(
        select pg_catalog.format('%I.%I', pn.nspname, p.relname)
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as p on p.oid = i.inhparent
        join pg_catalog.pg_namespace as pn on pn.oid = p.relnamespace
        where i.inhrelid = c.oid
    ) as parents
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid >= 16384
"""

# Widths of the keys of all btrees, as far as statistics tell.
_BTREES = """
select
    pg_catalog.format('%I.%I', n.nspname, x.relname) as relation,
    (
        select coalesce(sum(case when a.attlen > 0 then a.attlen else coalesce(s.stawidth, own.stawidth, 16) end), 8)
        from pg_catalog.pg_attribute as a
        left join pg_catalog.pg_statistic as s
            on s.starelid = i.indrelid and s.staattnum = i.indkey[a.attnum - 1] and s.staattnum > 0
        left join pg_catalog.pg_statistic as own on own.starelid = i.indexrelid and own.staattnum = a.attnum
        where a.attrelid = i.indexrelid and a.attnum <= i.indnkeyatts
    )::int4 as width
from pg_catalog.pg_index as i
join pg_catalog.pg_class as x on x.oid = i.indexrelid
join pg_catalog.pg_am as m on m.oid = x.relam and m.amname = 'btree'
join pg_catalog.pg_namespace as n on n.oid = x.relnamespace
where i.indexrelid >= 16384 and x.relkind = 'i'
"""


def create_database(sandbox: Sandbox, wanted: Mapping[str, Any]) -> None:
    """Create the lab's database with the encoding and, where this machine has it, the collation of the source.

    A planner asks of a collation whether it is C: only then can a plain index serve LIKE. So any other will do.
    """
    is_c = wanted["provider"] == "b" or (wanted["provider"] == "c" and wanted["collate"] in ("C", "POSIX"))
    own = [(wanted["collate"], wanted["ctype"])] if wanted["provider"] == "c" else []
    locales = [("C", "C")] if is_c else [*own, ("C.UTF-8", "C.UTF-8"), ("C", "C")]
    create = "create database {} owner {} template template0 encoding {} lc_collate {} lc_ctype {} strategy file_copy"
    with sandbox.connect("postgres") as connection:
        connection.execute(sql.SQL("create role {} login").format(sql.Identifier(ROLE)))
        for collate, ctype in locales:
            literals = (sql.Literal(text) for text in (wanted["encoding"], collate, ctype))
            names = (sql.Identifier(DATABASE), sql.Identifier(ROLE))
            try:
                connection.execute(sql.SQL(create).format(*names, *literals))
                return
            except (psycopg.errors.WrongObjectType, psycopg.errors.InvalidParameterValue):
                continue
    raise LabError(f"the lab cannot have a database with the encoding {wanted['encoding']}")


def restore(plan: Blueprint, owner: psycopg.Connection, planner: psycopg.Connection) -> dict[str, str]:
    """Run the dump object by object; return table -> why for those that could not be made, which are dropped again."""
    planner.execute(
        "set check_function_bodies = off; set search_path = ''; set client_min_messages = error;"
        "set statement_timeout = '15s'"
    )
    wanted = [entry for entry in plan.entries if entry.kind not in _NOT_RESTORED]
    failed = _made([entry for entry in wanted if entry.kind != blueprint.STATISTICS], owner, planner)
    if failed:
        _stand_in(failed, owner)
        failed = _made([_easier(entry) for entry in failed], owner, planner)
    reasons = _missing(plan, failed, owner)
    for relation in reasons:
        with contextlib.suppress(psycopg.Error):
            planner.execute(f"drop table if exists {relation} cascade".encode())
    if reasons:
        reasons = {**_missing(plan, {}, owner), **reasons}  # the views of a table went with it
    # After the indexes, since a new index sets the counts of its table.
    for entry in wanted:
        if entry.kind == blueprint.STATISTICS:
            with contextlib.suppress(psycopg.Error):  # of a table that is left out
                planner_statistics.restore(entry.sql, owner, planner)
    return reasons


def _made(structure: Sequence[Entry], owner: psycopg.Connection, planner: psycopg.Connection) -> dict[Entry, str]:
    """Run entries until none that fails can be run; return those with their reasons."""
    failed: dict[Entry, str] = {}
    while structure:  # what needed something later in the dump gets another try
        failed = {}
        for entry in structure:
            try:
                # an extension may need a superuser; everything else is made without, since it may run code, as may what
                # stands in the text of an object and looks as if it were the next one
                is_extension = entry.kind == "EXTENSION" and _EXTENSION.fullmatch(entry.sql)
                (owner if is_extension else planner).execute(_unchecked(entry).encode())
            except psycopg.Error as error:
                failed[entry] = primary(error)
        if len(failed) == len(structure):
            break
        structure = list(failed)
    return failed


def _stand_in(failed: Iterable[Entry], owner: psycopg.Connection) -> None:
    """Make the collations of the source's system that this one lacks, so that they are not C and no more than that."""
    names = {name for entry in failed for name in _COLLATED.findall(entry.sql)}
    with contextlib.suppress(psycopg.Error):
        owner.execute("set allow_system_table_mods = on")
        for name in sorted(names):
            owner.execute(f"create collation if not exists pg_catalog.{name} {_PLAIN}".encode())
    owner.execute("reset allow_system_table_mods")


def _easier(entry: Entry) -> Entry:
    """Return what is as good for a plan: a table without defaults, whose functions may be of a missing extension, and a
    collation that is not C in the place of one.
    """
    if entry.kind == "TABLE":
        return replace(entry, sql=_DEFAULT.sub(r"\1", entry.sql))
    if entry.kind == "COLLATION":
        return replace(entry, sql=_OF_A_PROVIDER.sub(_PLAIN, entry.sql))
    return entry


def _unchecked(entry: Entry) -> str:
    """Return the SQL of an entry; a foreign key is not validated, which would look into files that are not ready."""
    text = entry.sql
    if entry.kind == "FK CONSTRAINT" and not text.endswith("NOT VALID;"):
        text = text.removesuffix(";") + " NOT VALID;"
    return text


def _missing(plan: Blueprint, failed: Mapping[Entry, str], owner: psycopg.Connection) -> dict[str, str]:
    rows = owner.cursor(row_factory=dict_row).execute(_THERE.encode()).fetchall()
    there = {row["relation"]: set(row["parents"]) for row in rows}
    why = {entry.oid: reason for entry, reason in failed.items() if entry.oid}
    guilty: dict[int, str] = {}
    for oid, row in plan.relations.items():
        parents = {plan.relations[it]["relation"] for it in row["parents"] if it in plan.relations}
        if row["kind"] == "S" or row["is_system"]:
            continue
        if row["relation"] not in there:
            guilty[oid] = f"{row['relation']}: {why.get(oid, 'what it needs is missing')}"
        elif parents - there[row["relation"]]:
            guilty[oid] = f"{row['relation']}: cannot be attached to {min(parents)}"
    for oid, index in plan.indexes.items():
        if index["is_valid"] and index["relation"] not in there and index["table_oid"] not in guilty:
            reason = why.get(oid) or why.get(index["constraint_oid"]) or "what it needs is missing"
            guilty[index["table_oid"]] = f"its index {index['relation']}: {reason}"
    return {
        plan.relations[member]["relation"]: guilty.get(member, reason)
        for oid, reason in guilty.items()
        for member in blueprint.members(plan.relations, oid)
    }


def give_costs(plan: Blueprint, owner: psycopg.Connection) -> None:
    """Put relations into tablespaces with the cost settings that those of the source have."""
    if plan.database["costs"]:
        owner.execute(sql.SQL("alter tablespace pg_default set ({})").format(_options(plan.database["costs"])))
    rows = [row for row in (*plan.relations.values(), *plan.indexes.values()) if row["costs"]]
    if not rows:
        return
    there = {row[0] for row in owner.execute(_THERE.encode()).fetchall()}
    different = sorted({tuple(row["costs"]) for row in rows})
    names = {costs: f"costs_{number}" for number, costs in enumerate(different)}
    owner.execute("set allow_in_place_tablespaces = on")
    for costs, name in names.items():
        create = sql.SQL("create tablespace {} location '' with ({})")
        owner.execute(create.format(sql.Identifier(name), _options(costs)))
    for row in rows:
        if row["relation"] in there:
            owner.execute(f"alter table {row['relation']} set tablespace {names[tuple(row['costs'])]}".encode())


def _options(costs: Sequence[str]) -> sql.Composable:
    pairs = (each.partition("=") for each in costs)
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, _, value in pairs)


def give_sizes(plan: Blueprint, sandbox: Sandbox, owner: psycopg.Connection) -> dict[str, int]:
    """Extend the files to what they are on the source, btrees as high as there, and return relation -> pages."""
    cursor = owner.cursor(row_factory=dict_row)
    widths = {row["relation"]: row["width"] for row in cursor.execute(_BTREES.encode()).fetchall()}
    pages = {row["relation"]: row["pages"] for row in (*plan.relations.values(), *plan.indexes.values())}
    for row in cursor.execute(_FILES.encode()).fetchall():
        path, relation = sandbox.data / row["path"], row["relation"]
        if pages.get(relation):
            storage.resize(path, pages[relation])
            if relation in widths and pages[relation] > 1:
                storage.write_height(path, index_size.height(pages[relation], widths[relation]))
    return pages


def apply_settings(plan: Blueprint, tables: Collection[str], planner: psycopg.Connection) -> None:
    """Let the planner decide as on the source, and find the tables without their schema; from then on it only reads."""
    known = {row[0] for row in planner.execute("select name from pg_catalog.pg_settings").fetchall()}
    # An older planner that lacks such a setting does without what it switches.
    newer = {name: "off" for name in known if name.startswith("enable_") and name not in plan.settings}
    for name, value in {**newer, **plan.settings}.items():
        if name in known and name != "search_path":
            with contextlib.suppress(psycopg.Error):
                planner.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])
    path = [plan.settings["search_path"]] if plan.settings.get("search_path") else []
    schemas = {row["schema"] for row in plan.relations.values() if row["relation"] in tables}
    path += [sql.Identifier(schema).as_string() for schema in sorted(schemas)]
    planner.execute("select pg_catalog.set_config('search_path', %s, false)", [", ".join(path)])
    planner.execute("set plan_cache_mode = force_custom_plan; set jit = off;set default_transaction_read_only = on")


def primary(error: psycopg.Error) -> str:
    """Return what PostgreSQL says, in one line."""
    return error.diag.message_primary or str(error).strip().splitlines()[0]
