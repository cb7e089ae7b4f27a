"""The doctor: can we connect, what may this role see, what is missing, and the statements that would give it.

``examine`` looks, one step after the other, and returns plain values; ``show`` prints them; ``script`` is the SQL of
a role that may see enough and change nothing. Nothing here changes the server, and no secret leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import psycopg

from pgrunbooks import connecting, privileges
from pgrunbooks.connecting import State, Step, names
from pgrunbooks.display import printable
from pgrunbooks.errors import ConnectError, RunbookError
from pgrunbooks.sandbox import default_sandbox
from pgrunbooks.session import Session
from pgrunbooks.targets import SANDBOX, Target

if TYPE_CHECKING:
    from rich.console import Console

SUPPORTED = range(15, 19)
ROLE = "pgrunbooks"  # that the script creates


@dataclass(frozen=True)
class Level:
    """One level of rights: whether the role has it, and the SQL that would give it.

    ``narrower`` is SQL that gives less, for those to whom ``sql`` gives too much.
    """

    level: privileges.Level
    there: bool
    sql: str
    note: str = ""
    narrower: str | None = None

    def step(self) -> Step:
        """Return it as a step, for the page."""
        if self.there:
            return Step(f"level {self.level.number}", "ok", self.level.title)
        says = f"{self.level.title}: {self.level.gives}{self.note}"
        enables = f"Enables {names(codes, 8)}." if (codes := self.level.checks()) else None
        narrower = f"\n-- or, narrower; tables made later need it again:\n{self.narrower}" if self.narrower else ""
        return Step(f"level {self.level.number}", "missing", says, enables, self.sql + narrower)


@dataclass(frozen=True)
class Examination:
    """What the doctor found: the steps of connecting, what the role sees, extensions, settings, levels of rights."""

    target: str
    connection: tuple[Step, ...]
    role: tuple[Step, ...] = ()
    extensions: tuple[Step, ...] = ()
    settings: tuple[Step, ...] = ()
    levels: tuple[Level, ...] = ()

    @property
    def connected(self) -> bool:
        """Tell whether a session could be opened."""
        return all(step.state == "ok" for step in self.connection)

    @property
    def missing(self) -> int:
        """Return how many things are missing or worth a warning."""
        steps = (*self.role, *self.extensions, *self.settings, *(level.step() for level in self.levels))
        return sum(step.state in ("missing", "warning") for step in steps)

    @property
    def exit_status(self) -> int:
        """Return 0 where all is well, 1 where something is missing, 3 where nobody could connect."""
        if not self.connected:
            return RunbookError.exit_status
        return 1 if self.missing else 0


def examine(target: Target, *, database: str | None = None) -> Examination:
    """Connect to a target step by step, look at what its role may see there, and return what was found.

    Raises ConfigurationError where the connection string names no place to go to, ConnectionLostError where the
    server goes away meanwhile, and ConnectError where a lock or somebody's cancel stops a question. A server that
    refuses is no error: the step that it refused is in the result.
    """
    sandbox = None
    if target.name == SANDBOX and not target.dsn:
        sandbox = default_sandbox().start()  # held: it runs for as long as somebody holds it
        target = target.model_copy(update={"dsn": sandbox.url()})
    try:
        with connecting.connection(target, database) as (steps, session):
            if session is None:
                return Examination(target.name, tuple(steps))
            return Examination(
                target.name,
                tuple(steps),
                role=tuple(_role(session, at_home=sandbox is not None)),
                extensions=tuple(_extensions(session)),
                settings=tuple(_settings(session)),
                levels=tuple(_levels(session)),
            )
    except psycopg.Error as error:
        raise ConnectError(f"cannot look at {target.name}: {error.diag.message_primary or error}") from None


# ---- the role ----------------------------------------------------------------------------------------------------

_MEMBER = """
select distinct r.rolname::text as name, pg_catalog.pg_has_role(r.oid, 'usage') as used
from pg_catalog.pg_auth_members as m
join pg_catalog.pg_roles as r on r.oid = m.roleid
join pg_catalog.pg_roles as own on own.oid = m.member
where own.rolname = current_user
order by name
"""

_RESERVED = """
select
    current_setting('reserved_connections')::int as slots,
    pg_catalog.pg_has_role('pg_use_reserved_connections', 'usage') as may_use
"""

_WRITABLE = """
select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) as name
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and (
        pg_catalog.pg_has_role(c.relowner, 'usage')
        or pg_catalog.has_schema_privilege(n.oid, 'usage') and (
            pg_catalog.has_table_privilege(c.oid, 'insert, update, delete, truncate')
            or pg_catalog.has_any_column_privilege(c.oid, 'insert, update')
        )
    )
order by 1
"""


def _role(session: Session, *, at_home: bool) -> Iterator[Step]:
    """Yield what this role is on this server; ``at_home``: in the sandbox, where it may do everything by design."""
    server = session.server
    version = f"PostgreSQL {server.version.split()[0]}, "
    version += "a standby: grants and extensions are made on its primary" if server.in_recovery else "primary"
    untested = Step("version", "optional", f"{version}: untested, for it is not {SUPPORTED[0]} to {SUPPORTED[-1]}")
    yield Step("version", "ok", version) if server.major in SUPPORTED else untested
    groups = session.rows(_MEMBER)
    words = ["superuser"] if server.superuser else []
    if of := [row["name"] for row in groups if row["used"]]:
        words.append(f"member of {names(of)}")
    if idle := [row["name"] for row in groups if not row["used"]]:
        words.append(f"member of {names(idle)} without inheriting it")
    yield Step("role", "ok", ", ".join([server.role, *(words or ["member of no other role"])]))
    yield _boundary(session, at_home)
    if server.major >= 16 and not server.superuser:
        yield _reserve(session)


def _boundary(session: Session, at_home: bool) -> Step:
    """Return whether the role itself could write: 'read only' is a setting, which a cell of a notebook could undo."""
    tables = [row["name"] for row in session.rows(_WRITABLE)]
    if not tables and not session.server.superuser:
        return Step("read only", "ok", "this role may write to no table of this database")
    says = "it is a superuser's" if session.server.superuser else f"this role may write to {names(tables)}"
    if at_home:
        return Step("read only", "ok", "our sessions are; the role may do everything, which is meant so in the sandbox")
    return Step(
        "read only",
        "warning",
        f"{says}. Our sessions are read only, but that is a guard rail; the role is the boundary.",
        f"Use a role of its own; its SQL:\n    pgrunbooks doctor --target {session.target.name} --script",
    )


def _reserve(session: Session) -> Step:
    """Return whether a slot is left for us when all others are taken; PostgreSQL 16 and later."""
    row = session.rows(_RESERVED)[0]
    grant = f"grant pg_use_reserved_connections to {session.server.quoted_role};"
    if row["slots"] and row["may_use"]:
        return Step("reserved slots", "ok", f"{row['slots']} are kept for roles like this one")
    if row["slots"]:
        return Step("reserved slots", "missing", f"{row['slots']} are kept, but not for this role", None, grant)
    says = "none are kept: when the slots run out we are locked out like everybody else"
    sql = f"alter system set reserved_connections = 2;  -- then restart the server\n{grant}"
    return Step("reserved slots", "optional", says, None, sql)


# ---- extensions and settings -------------------------------------------------------------------------------------

_AVAILABLE = """
select
    e.name::text as name, e.installed_version,
    pg_catalog.current_setting('pg_stat_statements.max', true) is not null as statements_loaded,
    (
        select pg_catalog.string_agg(pg_catalog.quote_literal(btrim(l.name, ' "')), ', ' order by l.place)
        from pg_catalog.pg_settings as s,
            pg_catalog.unnest(pg_catalog.string_to_array(s.setting, ',')) with ordinality as l (name, place)
        where s.name = 'shared_preload_libraries' and btrim(l.name, ' "') <> ''
    ) as preloaded,
    exists (select from pg_catalog.pg_settings as s where s.name = 'shared_preload_libraries') as sees_preloaded
from pg_catalog.pg_available_extensions as e
where e.name = any (array['pg_stat_statements', 'pgstattuple', 'amcheck'])
order by e.name
"""
_USES = (
    ("pg_stat_statements", "which statements take the time cannot be told"),
    ("pgstattuple", "bloat is estimated, not measured"),
    ("amcheck", "indexes cannot be checked for corruption"),
)


def _extensions(session: Session) -> Iterator[Step]:
    known = {row["name"]: row for row in session.rows(_AVAILABLE)}
    for name, use in _USES:
        needed = name == "pg_stat_statements"
        state: State = "missing" if needed else "optional"
        row = known.get(name)
        if row is None:
            yield Step(name, state, f"the server does not have it: {use}", "Install the server's package of contrib.")
            continue
        statements, why = [], []
        if needed and not row["statements_loaded"]:
            why.append("not preloaded")
            statements.append(_preload(row))
        if row["installed_version"] is None:
            why.append(f"not installed in {session.server.database}")
            statements.append(f"create extension {name};")
        missing = Step(name, state, f"{' and '.join(why)}: {use}", None, "\n".join(statements))
        yield missing if why else Step(name, "ok", row["installed_version"])


def _preload(row: Mapping[str, Any]) -> str:
    """Return how to preload pg_stat_statements; one literal each, or the server takes the list for one name."""
    if not row["sees_preloaded"]:
        return (
            "-- shared_preload_libraries is hidden from this role: add pg_stat_statements to it, restart the server:\n"
            "show shared_preload_libraries;"
        )
    libraries = ", ".join(filter(None, [row["preloaded"], "'pg_stat_statements'"]))
    return f"alter system set shared_preload_libraries = {libraries};  -- then restart the server"


@dataclass(frozen=True)
class _Setting:
    name: str
    wanted: str
    blind: str
    state: State = "missing"


_SETTINGS = (
    _Setting("track_activities", "on", "what sessions do cannot be seen"),
    _Setting("track_counts", "on", "tables have no statistics, and autovacuum does not run"),
    _Setting("compute_query_id", "auto", "statements have no queryid, and pg_stat_statements stays empty"),
    _Setting("pg_stat_statements.track", "top", "pg_stat_statements stays empty"),
    _Setting("track_io_timing", "on", "time spent waiting for the disk is not told apart", "optional"),
    _Setting("track_activity_query_size", "4kB", "longer queries are cut", "optional"),
)
_SHOWN = """
select
    s.name, s.setting, pg_catalog.current_setting(s.name) as shown, s.context, s.source,
    pg_catalog.quote_ident(pg_catalog.current_database()) as quoted_database
from pg_catalog.pg_settings as s
where s.name = any (%(names)s)
order by s.name
"""


def _settings(session: Session) -> Iterator[Step]:
    known = {row["name"]: row for row in session.rows(_SHOWN, {"names": [it.name for it in _SETTINGS]})}
    for it in _SETTINGS:
        if (row := known.get(it.name)) is None:
            continue
        is_blind = int(row["setting"]) < 4096 if it.wanted == "4kB" else row["setting"] in ("off", "none")
        if row["source"] == "database":
            sql = f"alter database {row['quoted_database']} reset {it.name};  -- for new sessions"
        else:
            after = "  -- then restart the server" if row["context"] == "postmaster" else "\nselect pg_reload_conf();"
            sql = f"alter system set {it.name} = '{it.wanted}';{after}"
        blind = Step(it.name, it.state, f"{row['shown']}: {it.blind}", None, sql)
        yield blind if is_blind else Step(it.name, "ok", row["shown"])


# ---- levels of rights --------------------------------------------------------------------------------------------

_FILES_READABLE = """
select pg_catalog.bool_and(
    pg_catalog.has_table_privilege('pg_catalog.' || f.view, 'select')
    and pg_catalog.has_function_privilege('pg_catalog.' || f.function || '()', 'execute')
) as there
from unnest(%(views)s::text[], %(functions)s::text[]) as f (view, function)
"""

_MEMBERSHIP = """
select pg_catalog.pg_has_role(%(group)s, 'usage') as there, pg_catalog.pg_has_role(%(group)s, 'member') as member
"""

_UNREAD = """
select
    count(*) as relations,
    count(*) filter (where not r.readable) as unread,
    pg_catalog.array_agg(distinct r.schema) filter (where not r.readable) as schemas
from (
    select
        pg_catalog.quote_ident(n.nspname) as schema,
        pg_catalog.has_schema_privilege(n.oid, 'usage') and case c.relkind
            when 'S' then pg_catalog.has_sequence_privilege(c.oid, 'select')
            else pg_catalog.has_table_privilege(c.oid, 'select')
        end as readable
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm', 'S') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
) as r
"""


def _levels(session: Session) -> Iterator[Level]:
    role, major = session.server.quoted_role, session.server.major
    for level in privileges.LEVELS:
        sql = level.grant(role)
        if not level.group:
            files = {"views": list(privileges.FILES), "functions": list(privileges.FILES.values())}
            yield Level(level, session.rows(_FILES_READABLE, files)[0]["there"], sql)
            continue
        group = session.rows(_MEMBERSHIP, {"group": level.group})[0]
        if group["member"] and not group["there"]:  # does not inherit, which a plain grant leaves so
            sql = f"grant {level.group} to {role} with inherit true;" if major >= 16 else f"alter role {role} inherit;"
        yield (
            _user_data(session, level, group["there"], sql) if level.number == 3 else Level(level, group["there"], sql)
        )


def _user_data(session: Session, level: privileges.Level, there: bool, sql: str) -> Level:
    """Return the level of reading tables, which grants for each table give as well."""
    row = session.rows(_UNREAD)[0]
    role, unread, schemas = session.server.quoted_role, row["unread"], row["schemas"] or []
    narrower = "\n".join(
        f"grant usage on schema {schema} to {role};\n"
        f"grant select on all tables in schema {schema} to {role};\n"
        f"grant select on all sequences in schema {schema} to {role};"
        for schema in (schemas if len(schemas) <= 5 else ())
    )
    note = f"; now {unread} of {row['relations']} tables and sequences cannot be read" if unread else ""
    return Level(level, there or (row["relations"] > 0 and not unread), sql, note, narrower or None)


# ---- on paper ----------------------------------------------------------------------------------------------------


def script(target: Target) -> str:
    """Return the SQL, for psql, of a role that may see what every check needs and change nothing; no password."""
    text = resources.files("pgrunbooks").joinpath("least_privilege.sql").read_text(encoding="utf-8")
    return text.format(
        role=ROLE,
        target=" ".join(printable(target.name).split()),
        version=metadata.version("pgrunbooks"),
        statement_timeout=f"{target.statement_timeout:g}s",
        lock_timeout=f"{target.lock_timeout:g}s",
        **{f"level_{level.number}": level.grant(ROLE) for level in privileges.LEVELS},
    )


_STYLES = {"failed": "bold red", "missing": "bold yellow", "warning": "bold yellow", "ok": "green"}


def show(found: Examination, console: Console) -> None:
    """Print an examination; SQL stands on lines of its own, unbroken, so that it can be copied."""
    from rich.text import Text

    def put(text: Text) -> None:
        text.rstrip()
        console.print(text, soft_wrap=True, highlight=False)

    def tell(words: str, style: str, margin: Text) -> None:
        for line in printable(words).splitlines():
            is_code = line.startswith(" ")  # to copy
            pieces = (
                [Text(line, style)]
                if is_code
                else Text(line, style).wrap(console, max(console.width - len(margin), 30))
            )
            for piece in pieces:
                put(margin + piece)
                margin = Text(" " * len(margin))

    sections = {
        "Connection": found.connection,
        "Role": found.role,
        "Extensions": found.extensions,
        "Settings": found.settings,
        "Rights": [level.step() for level in found.levels],
    }
    put(Text(_headline(found), "bold"))
    for title, steps in sections.items():
        if steps:
            put(Text(f"\n{title}"))
        width = max((len(step.name) for step in steps), default=0)
        for step in steps:
            head = Text.assemble("  ", (f"{step.state:<11}", _STYLES.get(step.state, "dim")), f"{step.name:<{width}}  ")
            tell(step.says or " ", "", head)
            tell(step.remedy or "", "dim", Text(" " * len(head)))
            for line in printable(step.sql or "").splitlines():
                put(Text(" " * len(head) + line, "bold"))


def _headline(found: Examination) -> str:
    name = printable(found.target)
    if not found.connected:
        failed = next(step for step in found.connection if step.state == "failed")
        return f"{name}: cannot connect ({failed.name})"
    count = found.missing
    return f"{name}: connected, {count or 'nothing'} {'is' if count < 2 else 'are'} missing or risky"
