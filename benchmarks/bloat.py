"""How far from the truth are estimates of index bloat? 48 indexes on real servers, each rebuilt for the truth.

Run it with ``python benchmarks/bloat.py``; it takes some minutes and writes benchmarks/results/bloat.md. The truth is
1 - size after REINDEX / size before. Error is the distance from it in percentage points.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping
from math import ceil, floor
from pathlib import Path
from statistics import mean
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgrunbooks.bloat import index_share
from pgrunbooks.check import registry
from pgrunbooks.checks._btree import needed_bytes
from pgrunbooks.sandbox import server_programs, temporary_sandbox

ROWS = 100_000
OLDEST = Path("/usr/lib/postgresql/15/bin")
RESULTS = Path(__file__).parent / "results" / "bloat.md"

# Values that are drawn from the number of the row, so that every run has the same.
COLUMNS = """
select
    i as id,
    (hashint8extended(i, 1) & 1023)::int as few,
    (1000000 * power((hashint8extended(i, 2) & 65535) / 65536.0, 8))::int as skewed,
    case when hashint8extended(i, 3) & 1 = 0 then hashint8extended(i, 4) end as half_null,
    md5(i::text) as digest,
    'user' || repeat('x', (hashint8extended(i, 5) & 63)::int) || (hashint8extended(i, 5) & 32767) as label,
    md5(i::text || 'u')::uuid as token,
    ((hashint8extended(i, 6) & 4095) / 100.0)::numeric(10, 2) as price,
    now() - make_interval(secs => (hashint8extended(i, 7) & 16777215)::int) as at,
    (array['new', 'paid', 'sent', 'done', 'returned'])[1 + (hashint8extended(i, 8) & 3)] as status,
    0 as version
from generate_series(%(first)s::int8, %(last)s::int8) as i
"""
INDEXES: Mapping[str, str] = {
    "unique bigint": "unique index {name} on {table} (id)",
    "1,024 integers": "index {name} on {table} (few)",
    "skewed integers": "index {name} on {table} (skewed)",
    "half null": "index {name} on {table} (half_null)",
    "text of 32": "index {name} on {table} (digest)",
    "text of 5 to 73, duplicates": "index {name} on {table} (label)",
    "unique uuid, fillfactor 70": "unique index {name} on {table} (token) with (fillfactor = 70)",
    "numeric, duplicates": "index {name} on {table} (price)",
    "status and time": "index {name} on {table} (status, at desc)",
    "two columns, duplicates": "index {name} on {table} (status, few)",
    "expression, fillfactor 100": "index {name} on {table} (upper(label)) with (fillfactor = 100)",
    "partial, with INCLUDE": "index {name} on {table} (few) include (price) where status in ('new', 'paid')",
}


def made_at_the_end(connection: psycopg.Connection, table: str) -> None:
    """Leave a table whose indexes were built after its rows."""
    fill(connection, table, 1, ROWS)
    index(connection, table)


def grown(connection: psycopg.Connection, table: str) -> None:
    """Leave a table whose indexes grew with its rows, in small batches."""
    index(connection, table)
    for first in range(1, ROWS, ROWS // 20):
        fill(connection, table, first, first + ROWS // 20 - 1)


def deleted(connection: psycopg.Connection, table: str) -> None:
    """Leave a table that lost three rows of four, here and there."""
    made_at_the_end(connection, table)
    connection.execute(f"delete from {table} where hashint8extended(id, 9) & 3 <> 0")
    connection.execute(f"vacuum {table}")


def churned(connection: psycopg.Connection, table: str) -> None:
    """Leave a table of which every third row was replaced, four times."""
    made_at_the_end(connection, table)
    for turn in range(4):
        connection.execute(f"delete from {table} where id % 3 = 0")
        connection.execute(f"vacuum {table}")
        step = ROWS // 3
        fill(connection, table, 3 * ROWS * (turn + 1), 3 * ROWS * (turn + 1) + step)


WAYS = (made_at_the_end, grown, deleted, churned)


def fill(connection: psycopg.Connection, table: str, first: int, last: int) -> None:
    """Insert the rows of these numbers."""
    connection.execute(f"insert into {table} {COLUMNS}", {"first": first, "last": last})  # type: ignore[arg-type]


def index(connection: psycopg.Connection, table: str) -> None:
    """Build all twelve indexes."""
    for number, text in enumerate(INDEXES.values()):
        connection.execute("create " + text.format(name=f"{table}_{number}", table=table))  # type: ignore[arg-type]


def common_share(row: Mapping[str, Any]) -> float:
    """Return the waste by the formula that most tools use.

    As published at https://github.com/ioguix/pgsql-bloat-estimation: header and mean data of an entry aligned to 8
    bytes each, one entry a row, so many of them on a page filled to its fillfactor, and the metapage.
    """
    header = 12 if max(row["null_shares"]) > 0 else 8
    data = sum((1 - nulls) * width for nulls, width in zip(row["null_shares"], row["widths"], strict=True))
    entry = 4 + ceil(header / 8) * 8 + ceil(data / 8) * 8
    a_page = floor((row["page_bytes"] - 24 - 16) * row["fillfactor"] / entry)
    return 1 - (1 + ceil(row["rows"] / a_page)) * row["page_bytes"] / row["bytes"]


def measured(programs: Path | None) -> tuple[str, list[tuple[str, str, float, dict[str, float]]]]:
    """Return the server's version and (index, way, truth, method -> share) for each index."""
    rows = []
    with (
        temporary_sandbox({"autovacuum": "off"}, sample=False, programs=programs) as sandbox,
        sandbox.connect("postgres") as connection,
    ):
        version = connection.execute("show server_version").fetchone()[0].split()[0]  # type: ignore[index]
        connection.execute("create extension pgstattuple")
        for way in WAYS:
            table = way.__name__
            connection.execute(f"create table {table} as {COLUMNS}", {"first": 1, "last": 0})  # type: ignore[arg-type]
            way(connection, table)
            connection.execute(f"analyze {table}")
        sql = registry()["index-bloat"].sql_for(18)
        cursor = connection.cursor(row_factory=dict_row)
        for row in cursor.execute(sql).fetchall():  # type: ignore[arg-type]
            _, _, name = row["index"].partition(".")
            table, _, number = name.rpartition("_")
            stat = cursor.execute(f"select * from pgstatindex('{name}')").fetchone()
            connection.execute(f"reindex index {name}")
            after = cursor.execute(f"select pg_relation_size('{name}') as bytes").fetchone()["bytes"]
            assert row["unread"] is None, row
            rows.append(
                (
                    list(INDEXES)[int(number)],
                    table.replace("_", " "),
                    1 - after / row["bytes"],
                    {
                        "this project's model": 1 - needed_bytes(row) / row["bytes"],
                        "the common formula": common_share(row),
                        "pgstatindex": index_share(stat, row["fillfactor"]),
                    },
                )
            )
    return version, sorted(rows, key=lambda row: list(INDEXES).index(row[0]))


def report(results: list[tuple[str, list[tuple[str, str, float, dict[str, float]]]]]) -> str:
    """Return the page of results: what the errors come to, and each index."""
    lines = [
        "# Estimates of index bloat against the truth",
        "",
        "The truth is 1 - size after REINDEX / size before; an error is the distance from it in percentage points.",
        f"`python benchmarks/bloat.py`, {ROWS:,} rows a table, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}.",
    ]
    for version, rows in results:
        lines += [
            "",
            f"## PostgreSQL {version}, {len(rows)} indexes",
            "",
            "| method | mean error | worst error | where |",
        ]
        lines += ["| --- | ---: | ---: | --- |"]
        for method in rows[0][3]:
            errors = {(name, way): abs(max(shares[method], 0) - truth) * 100 for name, way, truth, shares in rows}
            worst = max(errors, key=lambda key: errors[key])
            lines.append(f"| {method} | {mean(errors.values()):.1f} | {errors[worst]:.1f} | {worst[0]}, {worst[1]} |")
        lines += ["", f"| index | table | truth | {' | '.join(rows[0][3])} |", "| --- | --- |" + " ---: |" * 4]
        for name, way, truth, shares in rows:
            figures = " | ".join(f"{max(share, 0):.1%}" for share in shares.values())
            lines.append(f"| {name} | {way} | {truth:.1%} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure on the oldest and on the newest supported server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oldest", type=Path, default=OLDEST, help="folder of PostgreSQL 15's programs")
    programs = (parser.parse_args().oldest, server_programs())
    page = report([measured(each) for each in programs])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
