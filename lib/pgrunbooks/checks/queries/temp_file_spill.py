"""Do queries spill to disk?

A sort, a hash or a materialised result that does not fit into ``work_mem`` goes through temporary files: slower by an
order of magnitude, and it takes room and throughput from everybody else. Decided by the bytes of temporary files of a
database a day since the last snapshot of the history, else over the age of its counters, which is taken as one day at
least. Where pg_stat_statements is installed in this database the five statements that spilled most are named, for
every database of the server; they may write one page several times, and their counters may be older or younger than
those of the database.
"""

from collections.abc import Iterable
from itertools import groupby

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, grade
from pgrunbooks.checks._counters import DAY_S, a_day, evidence, since_database, window
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.display import size
from pgrunbooks.session import Session
from pgrunbooks.workload import read_texts

# The extension may be missing, be installed in any schema, or not be loaded, and a query that names its view would
# fail then. ts_stat() is the one function of every server that runs a query it is given as text, and it returns
# words: each word is the numbers of one statement here. Texts are read apart, since one that is no text in the encoding
# of this database has the extension refuse them all.
_TEMPORARY_FILES = """
with statements as (
    select
        pg_catalog.split_part(w.word, ' ', 1)::oid as database_oid,
        pg_catalog.split_part(w.word, ' ', 2) as queryid,
        pg_catalog.split_part(w.word, ' ', 3)::int8 as calls,
        pg_catalog.split_part(w.word, ' ', 4)::int8 as written_bytes
    from pg_catalog.pg_extension as e
    join pg_catalog.pg_namespace as n on n.oid = e.extnamespace
    cross join lateral pg_catalog.ts_stat(pg_catalog.format(
        $$
        select pg_catalog.array_to_tsvector(array[pg_catalog.concat_ws(
            ' ', t.dbid, t.queryid, t.calls, t.bytes::int8
        )])
        from (
            select
                s.dbid, s.queryid, sum(s.calls) as calls,
                sum(s.temp_blks_written) * current_setting('block_size')::int8 as bytes,
                pg_catalog.row_number() over (
                    partition by s.dbid order by sum(s.temp_blks_written) desc, s.queryid
                ) as place
            from %I.pg_stat_statements(false) as s
            where s.temp_blks_written > 0 and s.queryid is not null
            group by s.dbid, s.queryid
        ) as t
        where t.place <= 5
        $$,
        n.nspname
    )) as w
    where e.extname = 'pg_stat_statements' and current_setting('pg_stat_statements.max', true) is not null
)
select
    d.datname::text as database,
    d.temp_bytes,
    d.temp_files,
    current_setting('work_mem') as work_mem,
    extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset))::float8 as counters_age_s,
    s.queryid,
    s.calls,
    s.written_bytes
from pg_catalog.pg_stat_database as d
cross join pg_catalog.pg_stat_bgwriter as b
left join statements as s on s.database_oid = d.datid
where d.datname is not null
order by d.temp_bytes desc, d.datname, s.written_bytes desc nulls last, s.queryid
"""
SQL = {15: _TEMPORARY_FILES}


def name_statements(session: Session, rows: Rows, limits: Limits, seconds: float) -> Rows:
    """Add to each row the text of its statement in a column ``query``; None where it cannot be read here."""
    ids = {row["queryid"] for row in rows if row["queryid"]}
    texts = read_texts(session, ids, timeout_s=seconds) if ids else {}
    return [{**row, "query": texts.get(row["queryid"])} for row in rows]


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Grade each database by the bytes of its temporary files a day; name the statements that wrote most."""
    for _, group in groupby(rows, key=lambda row: row["database"]):
        statements = list(group)
        row = since_database(statements[0], context, temp_bytes="temp_bytes", temp_files="temp_files") or statements[0]
        severity = grade(a_day(row["temp_bytes"], row), limits)
        if severity and row["temp_bytes"]:
            rate = a_day(row["temp_bytes"], row)
            more = f" ({size(rate)} a day)" if (row["counters_age_s"] or 0) > DAY_S else ""
            known = [it for it in statements if it["queryid"]]
            worst = f", most of it by statement {known[0]['queryid']}" if known else ""
            yield Finding(
                severity=severity,
                kind="database",
                name=row["database"],
                title=f"Queries of database {row['database']} wrote {size(row['temp_bytes'])} of temporary files "
                f"{window(row)}{more}{worst}",
                impact=f"{count(row['temp_files'] or 0, 'file')} took the way over the disk, since what they sort or"
                f" hash does not fit into work_mem ({row['work_mem']}).",
                evidence=[
                    *evidence([{**row, "bytes_a_day": rate}], "database", "temp_bytes", "temp_files", "bytes_a_day"),
                    *evidence(known, "queryid", "calls", "written_bytes", "query"),
                ],
                remedies=_remedies(row, bool(known), "pg_stat_statements" in context.server.extensions),
            )


def _remedies(row: Row, known: bool, installed: bool) -> tuple[Remedy, ...]:
    log = Remedy(
        "Have the log name each statement that spills more than 10 MB, with its size",
        sql="alter system set log_temp_files = '10MB';\nselect pg_reload_conf();",
        risk="low",
        locks="none",
        undo="alter system reset log_temp_files;\nselect pg_reload_conf();",
    )
    extension = Remedy(
        "Have statements counted, so that this check names them; it must stand in shared_preload_libraries too",
        sql="create extension pg_stat_statements;",
        risk="low",
        locks="none",
        undo="drop extension pg_stat_statements;",
    )
    memory = Remedy(
        "Give the role or the statement that needs it more work_mem, and not everybody: each sort and hash of each"
        " session may take that much. An index in the order of the sort, or fewer rows, saves it",
        risk="low",
    )
    return (*([] if known else [log] if installed else [log, extension]), memory)


check = Check(
    "temp-file-spill",
    sql=SQL,
    judge=judge,
    deepen=name_statements,
    docs=("https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-WORK-MEM",),
    runbook="query_performance",
    uses_counters=True,
    since_snapshot=True,
)
