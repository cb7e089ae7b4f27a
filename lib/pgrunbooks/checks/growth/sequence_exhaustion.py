"""Which sequences run out?

A sequence that has reached its end refuses to go on, and so does an integer column: from that second on every insert
fails, and the repair of a large table takes hours. Decided by the share of the numbers between START and the end that
are gone (from MINVALUE where a sequence was set below its START); the end is that of the sequence or of the column that
owns it, whichever comes first. CYCLE is exempt, and so is a sequence that never gave out a number, RESTART included.

Reading a value takes ROW EXCLUSIVE on the sequence until the query ends. One that somebody alters just now is left out
and named. A quarter of the server's lock table is the most that is taken, for the smallest types and the largest tables
first; sequences beyond that are counted as not read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Skip, grade
from pgrunbooks.checks._sessions import Row, count, literal

# The largest value of a type: https://www.postgresql.org/docs/18/datatype-numeric.html#DATATYPE-INT
LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_SCHEMAS = 5  # beyond, one grant of pg_read_all_data reads better than a list

# pg_sequence_last_value() is NULL where no number was given out; without the privilege 15 raises and 18 says NULL too.
_SEQUENCES = """
with locked as materialized (
    select distinct l.relation
    from pg_catalog.pg_locks as l
    join pg_catalog.pg_database as d on d.oid = l.database
    where l.locktype = 'relation' and d.datname = pg_catalog.current_database()
        and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
),
room as (
    select
        current_setting('max_locks_per_transaction')::int8 * (
            current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8
        ) / 4 as readable
),
sequences as materialized (
    select
        s.seqrelid, s.seqtypid, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, n.nspname, c.relname,
        a.attrelid, a.attname, b.oid as column_type, least(st.typlen, b.typlen) as width,
        case
            when o.relkind = 'r' then greatest(o.reltuples, pg_catalog.pg_stat_get_tuples_inserted(o.oid))
        end as table_rows,
        case
            when not pg_catalog.has_sequence_privilege(c.oid, 'select, usage') then 'privilege'
            when l.relation is not null then 'locked'
        end as closed
    from pg_catalog.pg_sequence as s
    join pg_catalog.pg_class as c on c.oid = s.seqrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    join pg_catalog.pg_type as st on st.oid = s.seqtypid
    left join pg_catalog.pg_depend as d
        on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.objsubid = 0
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
    left join pg_catalog.pg_class as o on o.oid = d.refobjid
    left join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    left join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_type as b
        on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid) and b.typname in ('int2', 'int4', 'int8')
    left join locked as l on l.relation = c.oid
    where not s.seqcycle and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and (c.relpersistence = 'p' or not pg_catalog.pg_is_in_recovery())
),
placed as (
    select
        s.seqrelid, s.seqtypid, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.nspname, s.relname, s.attrelid,
        s.attname, s.column_type, s.closed,
        pg_catalog.row_number() over (
            partition by s.closed order by s.width, s.table_rows desc nulls first, s.seqrelid
        ) as place
    from sequences as s
),
numbers as materialized (
    select
        p.seqtypid, p.seqstart, p.seqincrement, p.seqmin, p.seqmax, p.nspname, p.relname, p.attrelid, p.attname,
        p.column_type,
        coalesce(p.closed, case when p.place > r.readable then 'room' end) as unread,
        case
            when p.closed is null and p.place <= r.readable then pg_catalog.pg_sequence_last_value(p.seqrelid)
        end as last_value
    from placed as p
    cross join room as r
)
select
    pg_catalog.format('%I.%I', v.nspname, v.relname) as sequence,
    pg_catalog.quote_ident(v.nspname) as schema,
    pg_catalog.format_type(v.seqtypid, null) as sequence_type,
    v.last_value,
    v.seqstart as start_value,
    v.seqincrement as increment,
    v.seqmin as min_value,
    v.seqmax as max_value,
    case when o.oid is not null then pg_catalog.format('%I.%I', n.nspname, o.relname) end as table,
    pg_catalog.quote_ident(v.attname) as column,
    pg_catalog.format_type(v.column_type, null) as column_type,
    v.unread
from numbers as v
left join pg_catalog.pg_class as o on o.oid = coalesce(pg_catalog.pg_partition_root(v.attrelid), v.attrelid)
left join pg_catalog.pg_namespace as n on n.oid = o.relnamespace
where v.last_value is not null or v.unread is not null
order by v.nspname, v.relname
"""
SQL = {15: _SEQUENCES}


@dataclass(frozen=True)
class Use:
    """How far a sequence has come: the share of its numbers that is gone, how many are left, and what ends it."""

    used_share: float
    left: int
    by_column: bool


def use(row: Row) -> Use:
    """Return how far a sequence has come on the way it goes, up or down, in steps of its increment."""
    largest = LARGEST.get(row["column_type"], LARGEST["bigint"])
    last, step = row["last_value"], row["increment"]
    if step > 0:
        end, floor = min(row["max_value"], largest), max(row["min_value"], -largest - 1)
        begin = row["start_value"] if last >= row["start_value"] else floor
        by_column = largest <= row["max_value"]
    else:
        end, ceiling = max(row["min_value"], -largest - 1), min(row["max_value"], largest)
        begin = row["start_value"] if last <= row["start_value"] else ceiling
        by_column = -largest - 1 >= row["min_value"]
    left = max(0, (end - last) // step)
    used = max(0, (last - begin) // step) + 1
    return Use(used / (used + left), left, by_column and row["column_type"] in LARGEST)


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding | Skip]:
    """Grade each sequence by the share of its numbers that is gone; skip where some could not be read."""
    for row in rows:
        if row["last_value"] is None:
            continue
        used = use(row)
        severity = grade(used.used_share, limits)
        if severity:
            yield _finding(row, used, severity)
    yield from _unread(rows, context)


def _finding(row: Row, used: Use, severity: str) -> Finding:
    column = f"{row['table']} ({row['column']})" if row["column"] else None
    holder = f"{row['column_type']} column {column}" if used.by_column else f"its own range ({row['sequence_type']})"
    left = f"{used.left:,} {'is' if used.left == 1 else 'are'} left" if used.left else "none is left"
    into = f" into {row['table']}" if column else ""
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        kind="sequence",
        name=row["sequence"],
        title=f"Sequence {row['sequence']} has used {int(used.used_share * 100)}% of {holder}: {left}",
        impact=f"{'When they are gone' if used.left else 'Now'}, every insert{into} that takes a number from it fails.",
        evidence=[
            {
                "sequence": row["sequence"],
                "sequence_type": row["sequence_type"],
                "owned_by": column,
                "column_type": row["column_type"],
                **{key: row[key] for key in ("last_value", "start_value", "increment", "min_value", "max_value")},
                "numbers_left": used.left,
                "used_share": used.used_share,
            }
        ],
        remedies=tuple(_remedies(row, used, severity)),
    )


def _remedies(row: Row, used: Use, severity: str) -> Iterable[Remedy]:
    sequence, kind = row["sequence"], row["sequence_type"]
    bound = "maxvalue" if row["increment"] > 0 else "minvalue"
    was = row["max_value"] if row["increment"] > 0 else row["min_value"]
    wanted = row["column_type"] or "bigint"
    if used.by_column and wanted != "bigint":
        yield from widen(row["table"], row["column"], wanted, f"alter sequence {sequence} as bigint no {bound};")
        if severity == "critical" and row["increment"] > 0 and row["min_value"] > 0:
            yield Remedy(
                "To win time, if the application bears negative numbers and the column holds none: go on from below",
                sql=f"alter sequence {sequence} minvalue {-LARGEST[wanted] - 1} restart with {-LARGEST[wanted] - 1};",
                risk="high",
                locks="SHARE ROW EXCLUSIVE on the sequence, for a moment: who takes a number waits",
                undo=f"alter sequence {sequence} restart with {row['last_value']} minvalue {row['min_value']};\n"
                f"select pg_catalog.setval({literal(sequence)}, {row['last_value']});",
            )
    elif was not in (LARGEST["bigint"], -LARGEST["bigint"] - 1):
        yield Remedy(
            f"Let it go on to the end of {wanted}, unless a range was meant to be reserved",
            sql=f"alter sequence {sequence} as {wanted} no {bound};",
            risk="low",
            locks="SHARE ROW EXCLUSIVE on the sequence, for a moment: who takes a number waits",
            undo=f"alter sequence {sequence} as {kind} {bound} {was};",
        )
    else:
        yield Remedy(
            "No type is wider than bigint: find out who set it that far, and set it back to a free range", risk="high"
        )


def widen(table: str, column: str, type_name: str, *then: str) -> Iterable[Remedy]:
    """Return the two ways to make a column bigint: at once while everybody waits, or in steps while all goes on."""
    yield Remedy(
        f"Make the column bigint, where the application may wait: all of {table} and its indexes are written anew,"
        " which needs as much free disk again",
        sql="\n".join(
            (
                "begin;",
                "set local lock_timeout = '2s';",
                f"alter table {table} alter column {column} type bigint;",
                *then,
                "commit;",
            )
        ),
        risk="high",
        locks="ACCESS EXCLUSIVE on the table until all is written: reads and writes wait; gives up after 2 s of"
        " waiting for it",
        undo=f"alter table {table} alter column {column} type {type_name};",
    )
    yield Remedy(
        "Or in steps while the application works: add a bigint column; let a trigger fill it for new rows; fill the"
        " old ones in batches; build its unique index concurrently; swap the two columns in one short transaction."
        " Columns that reference it come first, in the same way",
        risk="low",
        locks="ACCESS EXCLUSIVE on the table, for a moment at the first and at the last step",
    )


def _unread(rows: Rows, context: Context) -> Iterable[Skip]:
    unread = {why: [row for row in rows if row["unread"] == why] for why in ("privilege", "locked", "room")}
    words = {
        "privilege": f"role {context.server.role} may not read",
        "locked": "being altered or locked just now:",
        "room": "left out, since reading each takes a lock and the server's lock table has no room for all:",
    }
    reasons = [
        f"{words[why]} {examples([row['sequence'] for row in some], 'sequence')}"
        for why, some in unread.items()
        if some
    ]
    if not reasons:
        return
    schemas = list(dict.fromkeys(row["schema"] for row in unread["privilege"]))
    remedy = None
    if schemas:
        what = f"select on all sequences in schema {', '.join(schemas)}"
        what = what if len(schemas) <= _SCHEMAS else "pg_read_all_data"
        remedy = f"grant {what} to {context.server.quoted_role};"
    yield Skip("; ".join(reasons), remedy)


def examples(names: Sequence[str], noun: str) -> str:
    """Return how many there are, and the first three by name: ``2 sequences (a.b, a.c)``."""
    more = ", ..." if len(names) > 3 else ""
    return f"{count(len(names), noun)} ({', '.join(names[:3])}{more})"


check = Check(
    "sequence-exhaustion",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/sql-createsequence.html",),
    runbook="growth_report",
)
