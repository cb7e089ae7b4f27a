"""Which tables have no primary key?

Say here what the fault is and why it hurts: rows that are alike cannot be told apart, and logical replication can
neither update nor delete them. Say how it is decided: by the catalog, for tables of at least ``min_rows`` rows as
vacuum and analyze last estimated them.
"""

from collections.abc import Iterable

from pgrunbooks.check import Check, Context, Finding, Limits, Remedy, Rows, Rule

RULE = Rule(
    code="my.table-without-key",
    area="my",  # asked by 'pgrunbooks check my'; in an area that is shipped, such as 'locks', it is asked with the rest
    worst="warning",
    kind="table",
    asks="Which tables have no primary key?",
    rule="tables of at least 'min_rows' rows",
    defaults={"min_rows": "1"},  # the limits; 'thresholds' of a target overrides them by these names
    cheap=True,  # asked by health_check and by 'pgrunbooks check' without an area too
)

# The query measures: columns with their units, nothing decided, no lock on anybody's table. It holds from PostgreSQL 15
# on; a newer server that needs another one gets it under its own version.
SQL = {
    15: """
select
    pg_catalog.format('%I.%I', n.nspname, c.relname) as "table",
    c.reltuples::float8 as rows
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
    and n.nspname not in ('pg_catalog', 'information_schema')
    and not exists (select from pg_catalog.pg_index as i where i.indrelid = c.oid and i.indisprimary)
order by c.reltuples desc, "table"
"""
}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Decide, from the rows and the limits alone: one finding for each object that somebody has to see to."""
    for row in rows:
        if row["rows"] >= limits["min_rows"]:
            yield Finding(
                severity="warning",
                kind="table",
                name=row["table"],
                title=f"{row['table']} has no primary key and about {row['rows']:.0f} rows",
                impact="Rows that are alike cannot be told apart, and logical replication cannot update them.",
                evidence=[row],
                remedies=[
                    Remedy(
                        "Give it a key of its own; the table is rewritten",
                        sql=f"alter table {row['table']} add column id bigserial primary key;",
                        risk="high",
                        locks=f"ACCESS EXCLUSIVE on {row['table']}",
                        undo=f"alter table {row['table']} drop column id;",
                    )
                ],
            )


check = Check(
    RULE.code,
    own_rule=RULE,
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-PRIMARY-KEYS",),
)
