"""Planner statistics that pg_dump leaves out: of ranges before PostgreSQL 17, and extended ones of chosen tables.

Only a superuser or a member of pg_read_all_data may read them; for others the lab does without. The common values of
extended statistics stay behind: nothing but memory of a trusted server may be read as they are stored.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgrunbooks.session import Session

_DUMPS_RANGES = 17  # the first major version whose pg_stats has them

_MAY_READ = """
select
    pg_catalog.has_table_privilege('pg_catalog.pg_statistic', 'select') as columns,
    pg_catalog.has_table_privilege('pg_catalog.pg_statistic_ext_data', 'select') as extended
"""

# As pg_dump would write them. ANALYZE finds nothing else of a column that holds ranges.
_RANGES = """
select
    c.relname as name,
    pg_catalog.format(
        'select * from pg_catalog.pg_restore_attribute_stats(''schemaname'', %%L, ''relname'', %%L, ''attname'', %%L,'
        ' ''inherited'', %%L::boolean, ''null_frac'', %%L::real, ''avg_width'', %%L::int4, ''n_distinct'', %%L::real,'
        ' ''range_length_histogram'', %%L::text, ''range_empty_frac'', %%L::real,'
        ' ''range_bounds_histogram'', %%L::text);',
        n.nspname, c.relname, a.attname, s.stainherit, s.stanullfrac, s.stawidth, s.stadistinct,
        max(slot.vals) filter (where slot.kind = 6),
        max(slot.numbers[1]) filter (where slot.kind = 6),
        max(slot.vals) filter (where slot.kind = 7)
    ) as sql
from pg_catalog.pg_statistic as s
join pg_catalog.pg_class as c on c.oid = s.starelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = s.starelid and a.attnum = s.staattnum
cross join lateral (
    values
        (s.stakind1, s.stanumbers1, s.stavalues1::text),
        (s.stakind2, s.stanumbers2, s.stavalues2::text),
        (s.stakind3, s.stanumbers3, s.stavalues3::text),
        (s.stakind4, s.stanumbers4, s.stavalues4::text),
        (s.stakind5, s.stanumbers5, s.stavalues5::text)
) as slot (kind, numbers, vals)
where s.starelid = any(%(oids)s::oid[]) and slot.kind in (6, 7)
group by n.nspname, c.relname, a.attname, s.stainherit, s.stanullfrac, s.stawidth, s.stadistinct
order by n.nspname, c.relname, a.attname, s.stainherit
"""

_EXTENDED = """
select
    pg_catalog.format('%%I.%%I', n.nspname, e.stxname) as name,
    pg_catalog.format(
        'create statistics if not exists %%I.%%I on %%s from %%I.%%I',
        n.nspname, e.stxname, pg_catalog.pg_get_statisticsobjdef_columns(e.oid), h.nspname, c.relname
    ) as statement,
    e.stxkeys::int2[] as keys,
    d.stxdinherit as inherited,
    d.stxdndistinct::text as distinct_values,
    d.stxddependencies::text as dependencies
from pg_catalog.pg_statistic_ext as e
join pg_catalog.pg_namespace as n on n.oid = e.stxnamespace
join pg_catalog.pg_class as c on c.oid = e.stxrelid
join pg_catalog.pg_namespace as h on h.oid = c.relnamespace
join pg_catalog.pg_statistic_ext_data as d on d.stxoid = e.oid
where e.stxrelid = any(%(oids)s::oid[]) and pg_catalog.num_nonnulls(d.stxdndistinct, d.stxddependencies) > 0
order by name, inherited
"""

_THERE = """
select
    pg_catalog.format('%I.%I', n.nspname, e.stxname) as name,
    e.oid::int8 as oid,
    e.stxkeys::int2[] as keys
from pg_catalog.pg_statistic_ext as e
join pg_catalog.pg_namespace as n on n.oid = e.stxnamespace
order by name
"""

# These types refuse every text.
_CASTS = """
create cast (bytea as pg_catalog.pg_ndistinct) without function;
create cast (bytea as pg_catalog.pg_dependencies) without function
"""

_INSERT = """
insert into pg_catalog.pg_statistic_ext_data (stxoid, stxdinherit, stxdndistinct, stxddependencies)
values (
    %(oid)s, %(inherited)s, %(distinct_values)s::bytea::pg_catalog.pg_ndistinct,
    %(dependencies)s::bytea::pg_catalog.pg_dependencies
)
"""


def read(session: Session, oids: Collection[int]) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Return (relation, SQL that restores statistics of a range) of relations, and what ``give`` wants."""
    may_read = session.rows(_MAY_READ)[0]
    ranges, extended = [], []
    if may_read["columns"] and session.server.major < _DUMPS_RANGES:
        ranges = [(row["name"], row["sql"]) for row in session.rows(_RANGES, {"oids": sorted(oids)})]
    if may_read["extended"]:
        extended = session.rows(_EXTENDED, {"oids": sorted(oids)})
    return ranges, extended


def give(extended: Sequence[Mapping[str, Any]], owner: psycopg.Connection, planner: psycopg.Connection) -> None:
    """Make extended statistics on the connection of the tables' owner, and fill them on a superuser's."""
    if not extended:
        return
    for row in extended:
        with contextlib.suppress(psycopg.Error), planner.transaction():  # of a table that is left out
            planner.execute("set transaction read write")
            planner.execute(row["statement"].encode())
    owner.execute(_CASTS)
    there = {row["name"]: row for row in owner.cursor(row_factory=dict_row).execute(_THERE).fetchall()}
    for row in extended:
        own = there.get(row["name"])
        if own and len(own["keys"]) == len(row["keys"]):
            numbers = dict(zip(row["keys"], own["keys"], strict=True))  # a column dropped before it is not there
            owner.execute(
                _INSERT,
                {
                    "oid": own["oid"],
                    "inherited": row["inherited"],
                    "distinct_values": _packed(0xA352BFA4, "i", row["distinct_values"], numbers),
                    "dependencies": _packed(0xB4549A2C, "h", row["dependencies"], numbers),
                },
            )


def _packed(magic: int, count: str, told: str | None, numbers: Mapping[int, int]) -> bytes | None:
    """Return how PostgreSQL stores what it tells as {"1, 2": 77} or {"1 => 2": 0.5}, columns renumbered.

    See src/backend/statistics/mvdistinct.c and dependencies.c; expressions have numbers below zero.
    """
    if told is None:
        return None
    items = list(_items(json.loads(told), numbers))
    packed = (struct.pack(f"=d{count}{len(columns)}h", value, len(columns), *columns) for value, columns in items)
    return struct.pack("=III", magic, 1, len(items)) + b"".join(packed)


def _items(told: Mapping[str, float], numbers: Mapping[int, int]) -> Iterator[tuple[float, list[int]]]:
    for columns, value in told.items():
        yield value, [numbers.get(int(it), int(it)) for it in re.findall(r"-?\d+", columns)]
