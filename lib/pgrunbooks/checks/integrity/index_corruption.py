"""Do the btrees pass amcheck?

An index that is not in order finds some rows and misses others, without an error. The usual causes are storage that
lost a write and a library that sorts text otherwise since an upgrade. Decided by the extension amcheck for all that is
in a user's schema, TOAST included: verify_heapam returns a row for a table, or bt_index_check raises for a btree, each
entry of its table looked for in it; both take ACCESS SHARE only. A table that does not pass is a finding of kind
``table``, since no index heals it; its indexes are then compared with themselves alone. The smallest table comes first,
before its indexes. What is locked, takes too long or is not reached is named, with the pg_amcheck that takes its time
(and reads the server's own catalogs too). All is read: so it is asked by name only.
"""

import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip
from pgrunbooks.checks._sessions import Row, count, literal
from pgrunbooks.checks._vacuum import named
from pgrunbooks.display import duration
from pgrunbooks.session import Session

BUDGET_S = 600.0  # for the whole check; each statement has the target's statement_timeout as well
MOST = 10  # relations that one command names

# The functions are those of the extension, wherever it was installed: the two-argument bt_index_check() is there
# since amcheck 1.1, verify_heapam() since 1.3. An unlogged relation has no contents on a standby.
_RELATIONS = """
with functions as materialized (
    select
        p.proname, n.nspname as schema, pg_catalog.quote_ident(n.nspname) as quoted_schema,
        pg_catalog.format('%I.%I', n.nspname, p.proname) as function,
        pg_catalog.oidvectortypes(p.proargtypes) as arguments,
        pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_function_privilege(p.oid, 'execute')
            as may_execute
    from pg_catalog.pg_extension as e
    join pg_catalog.pg_depend as d on d.refclassid = 'pg_catalog.pg_extension'::regclass and d.refobjid = e.oid
    join pg_catalog.pg_proc as p on d.classid = 'pg_catalog.pg_proc'::regclass and p.oid = d.objid
    join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    where e.extname = 'amcheck' and d.deptype = 'e'
        and (p.proname = 'verify_heapam' or (p.proname = 'bt_index_check' and p.pronargs = 2))
),
locked as materialized (
    select distinct l.relation
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_database as d on d.oid = l.database
    where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and d.datname = pg_catalog.current_database()
),
heaps as materialized (
    select
        c.oid, c.relname, c.relnamespace, c.relpages, a.amname, c.relkind = 't' as is_toast,
        pg_catalog.format('%I.%I', n.nspname, coalesce(m.relname, c.relname)) as "table"
    from pg_catalog.pg_class as c
    join pg_catalog.pg_am as a on a.oid = c.relam
    left join pg_catalog.pg_class as m on c.relkind = 't' and m.reltoastrelid = c.oid
    join pg_catalog.pg_namespace as n on n.oid = coalesce(m.relnamespace, c.relnamespace)
    where c.relkind in ('r', 'm', 't') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and c.relpersistence <> 't' and (c.relpersistence = 'p' or not pg_catalog.pg_is_in_recovery())
),
relations as materialized (
    select 'table' as kind, h.oid, h.oid as heap_oid, h.relname, h.relnamespace, h.relpages, false as is_exclusion
    from heaps as h
    where h.amname = 'heap'
    union all
    select 'index', c.oid, h.oid, c.relname, c.relnamespace, c.relpages, i.indisexclusion
    from heaps as h
    join pg_catalog.pg_index as i on i.indrelid = h.oid
    join pg_catalog.pg_class as c on c.oid = i.indexrelid
    join pg_catalog.pg_am as a on a.oid = c.relam
    where c.relkind = 'i' and a.amname = 'btree' and i.indisvalid and i.indisready and i.indislive
)
select
    r.kind,
    r.oid::int8 as oid,
    r.heap_oid::int8 as heap_oid,
    pg_catalog.format('%I.%I', n.nspname, r.relname) as name,
    h."table",
    h.is_toast,
    greatest(r.relpages, 0) * current_setting('block_size')::int8 as estimated_bytes,
    r.is_exclusion,
    exists (select from locked as l where l.relation in (r.oid, r.heap_oid)) as is_locked,
    f.schema::text as schema,
    f.quoted_schema,
    f.function,
    f.arguments,
    coalesce(f.may_execute, false) as may_execute
from relations as r
join heaps as h on h.oid = r.heap_oid
join pg_catalog.pg_namespace as n on n.oid = r.relnamespace
left join functions as f on f.proname = case r.kind when 'table' then 'verify_heapam' else 'bt_index_check' end
order by h.relpages, h.oid, r.kind desc, r.relpages, r.oid
"""
SQL = {15: _RELATIONS}

# The relation is looked up, so that one that was dropped in the meantime gives no row instead of an error.
_INDEX = sql.SQL(
    "select {function}(c.oid::regclass, {heap_too})::text as passed from pg_catalog.pg_class as c where c.oid = {oid}"
)
_TABLE = sql.SQL("""
select
    pg_catalog.count(*) as problems,
    pg_catalog.count(distinct v.blkno) as pages,
    (pg_catalog.array_agg(
        pg_catalog.concat_ws(' ', 'block', v.blkno, 'item ' || v.offnum, 'column ' || v.attnum) || ': ' || v.msg
        order by v.blkno, v.offnum, v.attnum, v.msg
    ))[1:10] as details
from pg_catalog.pg_class as c
cross join lateral {function}(c.oid::regclass) as v
where c.oid = {oid}
""")


def deepen(session: Session, rows: Rows, limits: Limits, left_s: float) -> Rows:
    """Ask amcheck about each relation within ``left_s`` seconds, and return the rows with what it said.

    New columns: ``error`` says what is wrong and ``details`` (texts) where, ``unchecked`` says why there is no answer,
    ``is_late`` that time was what lacked.
    """
    deadline, budget = time.monotonic() + left_s, f"not reached within {duration(left_s)}"
    damaged: set[int] = set()
    answers: list[Row] = []
    halt = None
    for row in rows:
        left_s = deadline - time.monotonic()
        answer: Row
        if halt or (reason := _out_of_reach(row, session)):
            answer = {"unchecked": halt or reason}
        elif left_s <= 0:
            answer = {"unchecked": budget, "is_late": True}
        else:
            start, limit = time.monotonic(), min(left_s, session.target.statement_timeout)
            try:
                answer = _asked(session, row, row["heap_oid"] not in damaged, limit)
            except pg.QueryCanceled:
                if time.monotonic() - start < limit - 0.1:
                    halt = "cancelled by somebody else, and given up"  # who stops one means all of it
                    answer = {"unchecked": halt}
                else:
                    late = f"took longer than the target's statement_timeout of {duration(limit)}"
                    answer = {"unchecked": budget if limit == left_s else late, "is_late": True}
        if row["kind"] == "table" and answer.get("error"):
            damaged.add(row["oid"])
        answers.append({**row, "error": None, "details": [], "unchecked": None, "is_late": False, **answer})
    return answers


def _out_of_reach(row: Row, session: Session) -> str | None:
    function = "verify_heapam" if row["kind"] == "table" else "bt_index_check"
    if not row["function"]:
        return f"amcheck {session.server.extensions.get('amcheck')} is too old, it has no {function}"
    if not row["may_execute"]:
        return f"role {session.server.role} may not execute {function}"
    return "locked, or about to be, in ACCESS EXCLUSIVE mode" if row["is_locked"] else None


def _asked(session: Session, row: Row, heap_too: bool, limit_s: float) -> Row:
    """Return what amcheck says of one relation; raises QueryCanceled."""
    function = sql.Identifier(row["schema"], "verify_heapam" if row["kind"] == "table" else "bt_index_check")
    question = _TABLE if row["kind"] == "table" else _INDEX
    statement = question.format(function=function, oid=sql.Literal(row["oid"]), heap_too=sql.Literal(heap_too))
    try:
        found = session.rows(statement.as_string(), timeout_s=limit_s)
    except pg.QueryCanceled:
        raise
    except (pg.IndexCorrupted, pg.DataCorrupted) as error:
        return {"error": error.diag.message_primary, "details": [it for it in [error.diag.message_detail] if it]}
    except pg.LockNotAvailable:
        return {"unchecked": "locked by somebody else"}
    except psycopg.Error as error:  # of a function in the index, or of a disk
        return {"unchecked": f"{type(error).__name__}, {error.diag.message_primary}"}
    if row["kind"] == "table" and found[0]["problems"]:
        problems = f"{count(found[0]['problems'], 'problem')} in {count(found[0]['pages'], 'page')}"
        return {"error": problems, "details": found[0]["details"]}
    return {}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Report what did not pass, and what could not be asked."""
    for row in rows:
        if row["error"]:
            yield _finding(row, context)
    unchecked = [row for row in rows if row["unchecked"]]
    if unchecked:
        reasons: dict[str, list[str]] = defaultdict(list)
        for row in unchecked:
            reasons[row["unchecked"]].append(row["name"])
        words = [f"{len(rows) - len(unchecked)} of {len(rows)} indexes and tables were checked"]
        words += [f"{reason}: {named(names, 'relation')}" for reason, names in reasons.items()]
        if any(row["is_late"] for row in unchecked):
            words.append("pg_amcheck asks the same without a limit of time, and locks no more")
        yield Skip("; ".join(words), _enabling(unchecked, context))


def _enabling(unchecked: Sequence[Row], context: Context) -> str | None:
    """Return what would let the most of it be checked."""
    if any(not row["function"] for row in unchecked):
        return "alter extension amcheck update;"
    refused = [row for row in unchecked if not row["may_execute"]]
    if refused:
        schema, role = refused[0]["quoted_schema"], context.server.quoted_role
        functions = dict.fromkeys(f"{row['function']}({row['arguments']})" for row in refused)
        usage, execute = f"grant usage on schema {schema}", f"grant execute on function {', '.join(functions)}"
        return f"{usage} to {role};\n{execute} to {role};"
    late = [row["name"] for row in unchecked if row["is_late"]]
    if late:
        which = [f"--relation={shlex.quote(name)}" for name in late] if len(late) <= MOST else []
        return " ".join(["pg_amcheck", "--heapallindexed", *which, shlex.quote(context.server.database)])
    return None


def _finding(row: Row, context: Context) -> Finding:
    is_table = row["kind"] == "table"
    what = f"{'TOAST ' if row['is_toast'] else ''}{row['kind']}"
    of = "" if row["name"] == row["table"] else f" of {row['table']}"
    lost = "Rows may be lost or unreadable; queries, vacuum and pg_dump may end with errors"
    wrong = "A query that uses it may miss rows or return wrong ones, without an error; a unique one lets duplicates in"
    return Finding(
        severity="critical",
        kind=row["kind"],
        name=row["name"],
        title=f"{what[0].upper()}{what[1:]} {row['name']}{of} does not pass amcheck: {row['error']}",
        impact=f"{lost if is_table else wrong}.",
        evidence=[
            {"error": row["error"], "table": row["table"], "estimated_bytes": row["estimated_bytes"]},
            *({"detail": detail} for detail in row["details"]),
        ],
        remedies=tuple(_restore(row) if is_table else _rebuild(row, context)),
    )


_CAUSE = Remedy(
    "Look for the cause, or it comes back: did the operating system or ICU change (collation-version-mismatch), did a"
    " page fail (checksum-failure), what do the kernel's log and the disks say, is fsync off",
    risk="none",
)


def _rebuild(row: Row, context: Context) -> Iterable[Remedy]:
    if context.server.in_recovery:
        yield Remedy(
            "Ask the primary the same: where the index passes there, only this standby is damaged, and a new base"
            " backup replaces it; else the index is built again on the primary",
            risk="none",
        )
    elif row["is_exclusion"]:  # cannot be built concurrently
        yield Remedy(
            "Take a backup, then build it again from the table; it fails where rows exclude each other: merge them",
            sql=f"reindex index {row['name']};",
            risk="high",
            locks=f"SHARE on {row['table']}, ACCESS EXCLUSIVE on the index: writes and most reads wait",
        )
    else:
        yield Remedy(
            "Take a backup, then build it again from the table; a unique one that fails has duplicates to be merged,"
            " and leaves an invalid index to be dropped",
            sql=f"reindex index concurrently {row['name']};",
            risk="low",
            locks=f"SHARE UPDATE EXCLUSIVE on {'the TOAST table of ' * row['is_toast']}{row['table']}; it waits for"
            " the transactions that are open",
        )
    yield _CAUSE


def _restore(row: Row) -> Iterable[Remedy]:
    yield Remedy(
        "See all that is wrong with it",
        sql=f"select * from {row['function']}({literal(row['name'])});",
        risk="none",
        locks=f"ACCESS SHARE on {row['name']}",
    )
    yield Remedy(
        "Keep every base backup and all WAL from before, and a copy of the data directory as it is now; then restore"
        " the table from a backup or a standby in which it passes. No reindex and no vacuum full heals a table",
        risk="none",
    )
    yield _CAUSE


def causes(finding: Finding, others: Sequence[Finding]) -> Iterable[Finding]:
    """Return the collation whose change put the index out of order."""
    for other in others:
        if other.code == "collation-version-mismatch" and {"index": finding.name} in other.evidence:
            yield other


check = Check(
    "index-corruption",
    sql=SQL,
    judge=judge,
    causes=causes,
    docs=(
        "https://www.postgresql.org/docs/current/amcheck.html",
        "https://www.postgresql.org/docs/current/app-pgamcheck.html",
    ),
    runbook="maintenance",
    extension="amcheck",
    deepen=deepen,
    budget_s=BUDGET_S,
    opt_in=True,
)
