"""How large a btree would be if it were built now: a model of PostgreSQL's own build, deduplication included.

Since PostgreSQL 13 a build stores equal keys once, with a list of the rows that have them, where two equal keys can
never differ in their bytes. https://www.postgresql.org/docs/current/btree.html#BTREE-DEDUPLICATION
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, exp, expm1, prod, sqrt
from typing import Any

from pgrunbooks.checks._layout import ITEM, aligned, laid_out

Row = Mapping[str, Any]

_COLUMNS = """k.widths,
    k.null_shares,
    k.alignments,
    k.lengths,
    k.narrowest,
    k.widest,
    k.distinct_values,
    k.common_shares"""

# What statistics know of the keys of an index ``i``, one value a column: the second half of a query.
# OFFSET 0 has the rows of pg_stats looked up one by one; joined, they are compared each with each.
_KEYS = """
cross join lateral (
    select
        pg_catalog.array_agg(s.avg_width order by p.position) as widths,
        pg_catalog.array_agg(s.null_frac::float8 order by p.position) as null_shares,
        pg_catalog.array_agg(a.attalign::text order by p.position) as alignments,
        pg_catalog.array_agg(a.attlen::int order by p.position) as lengths,
        pg_catalog.array_agg(w.narrowest order by p.position) as narrowest,
        pg_catalog.array_agg(w.widest order by p.position) as widest,
        pg_catalog.array_agg(s.n_distinct::float8 order by p.position)
            filter (where p.position <= i.indnkeyatts) as distinct_values,
        case when i.indnatts = 1 then pg_catalog.max(s.most_common_freqs::float8[]) end as common_shares,
        pg_catalog.bool_or(s.attname is null) as is_unknown,
        pg_catalog.bool_or(p.attnum = 0) as has_expression,
        pg_catalog.bool_or(a.attlen = -2) as is_of_unknown_width,
        pg_catalog.bool_and(pg_catalog.has_column_privilege(f.relation, f.attnum, 'select')) as is_readable,
        pg_catalog.bool_and(p.opclass is null or exists (
            select
            from pg_catalog.pg_opclass as o
            join pg_catalog.pg_amproc as e
                on e.amprocfamily = o.opcfamily and e.amproclefttype = o.opcintype
                and e.amprocrighttype = o.opcintype and e.amprocnum = 4
            join pg_catalog.pg_proc as q on q.oid = e.amproc
            left join pg_catalog.pg_collation as l on l.oid = p.collation_oid
            where o.oid = p.opclass{not_listed}
                and (q.proname = 'btequalimage' or (q.proname = 'btvarstrequalimage' and l.collisdeterministic))
        )) as is_equal_image
    from rows from (
        pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]),
        pg_catalog.unnest(i.indcollation::oid[])
    ) with ordinality as p (attnum, opclass, collation_oid, position)
    join pg_catalog.pg_attribute as a on a.attrelid = i.indexrelid and a.attnum = p.position
    cross join lateral (
        select
            case when p.attnum = 0 then i.indexrelid else i.indrelid end as relation,
            case when p.attnum = 0 then a.attnum else p.attnum end as attnum,
            case when p.attnum = 0 then i.relname else i.table_name end as relname
    ) as f
    join pg_catalog.pg_attribute as v on v.attrelid = f.relation and v.attnum = f.attnum
    left join lateral (
        select x.attname, x.avg_width, x.null_frac, x.n_distinct, x.most_common_freqs, x.most_common_vals,
            x.histogram_bounds
        from pg_catalog.pg_stats as x
        where x.schemaname = i.nspname and x.tablename = f.relname and x.attname = v.attname and not x.inherited
        offset 0
    ) as s on true
    left join pg_catalog.pg_type as t on t.oid = a.atttypid
    cross join lateral (
        select pg_catalog.min(b.bytes) as narrowest, pg_catalog.max(b.bytes) as widest
        from (
            select case
                when t.typcategory = 'S' then pg_catalog.octet_length(u.value) + 1
                else pg_catalog.pg_column_size(u.value::numeric) - 3
            end as bytes
            from pg_catalog.unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[]) as u (value)
            where a.attlen = -1 and (t.typcategory = 'S' or a.atttypid = 'pg_catalog.numeric'::regtype)
        ) as b
    ) as w
) as k
"""

# PostgreSQL 15 builds no lists for char(n), 18 does; those between are taken to be like 15.
_NOT_LISTED = {15: " and o.opcintype <> 'pg_catalog.bpchar'::regtype", 18: ""}

# itup.h, nbtree.h, nbtsort.c and nbtdedup.c, alike from 13 to 18
HEADER, HEADER_WITH_NULLS, ROW = 8, 16, 6
OVERHEAD = 24 + 16 + ITEM  # a page's header, the btree's own part of it, and the place of its high key
INNER_FILLFACTOR = 0.7
LIST = 808  # bytes of an entry with the longest list of rows: a tenth of a page of 8 kB, aligned
SAMPLES = 16  # of widths
NORMAL = (-1.53, -0.89, -0.49, -0.16, 0.16, 0.49, 0.89, 1.53)  # the middle of each eighth of the normal distribution


def with_keys(sql: str, order: str = "") -> dict[int, str]:
    """Return ``sql``, which ends with ``from indexes as i``, by lowest version and with what is known of their keys.

    ``{keys}`` in it becomes the columns that ``needed_bytes`` reads of them; more of ``k`` can be read in its place.
    """
    begun = sql.replace("{keys}", _COLUMNS)
    return {lowest: begun + _KEYS.format(not_listed=listed) + order for lowest, listed in _NOT_LISTED.items()}


def needed_bytes(row: Row) -> float:
    """Return the bytes that a new build of a btree would take, from a row that has what is known of its keys."""
    page, leaves = row["page_bytes"], max(ceil(_leaf_pages(row)), 1)
    pages = 1 + leaves  # the first is the metapage
    keys = {name: row[name][: row["key_columns"]] for name in ("widths", "null_shares", "alignments", "lengths")}
    pivot = ITEM + HEADER + aligned(laid_out(keys, nulls=False)[0])
    fitting = max((page * INNER_FILLFACTOR - OVERHEAD) // pivot, 2)
    while leaves > 1:
        leaves = ceil(leaves / fitting)
        pages += leaves
    return float(pages * page)


def _leaf_pages(row: Row) -> float:
    """Return how many leaf pages the entries fill.

    A build closes a page at the entry that takes it past the fillfactor; that one opens the next page. Of an entry with
    a list of rows only the key counts for that, so that such entries fill a page further.
    """
    entries = [entry for entry in _entries(row) if entry[0] > 0]
    total = sum(number * width for number, width, _ in entries)
    if not total:
        return 0.0
    room: int = row["page_bytes"] - OVERHEAD - ITEM
    full = room - int(row["page_bytes"] * (1 - row["fillfactor"]))
    number, width, key = max(entries, key=lambda entry: entry[0] * entry[1])
    if number * width > 0.9 * total:  # pages of one kind of entry: so many of them fit
        return float(total / (max(min((full + width - key) // width, room // width - 1), 1) * width))
    number = sum(number for number, _, _ in entries)
    key = sum(number * key for number, _, key in entries) / number
    half = sum(number * width**2 for number, width, _ in entries) / total / 2  # of the entry that closes a page
    return float(total / max(min(full - key + half, room - 3 * half), total / number))


def _entries(row: Row) -> Iterator[tuple[float, float, float]]:
    """Yield (how many, bytes, bytes without the list of rows) for each kind of entry on the leaf pages."""
    width = _width(row)
    value = HEADER + width
    present = prod(1 - share for share in row["null_shares"])
    null = float(HEADER_WITH_NULLS)
    if len(row["widths"]) > 1 and present < 1:
        null += (laid_out(row)[0] - present * laid_out(row, nulls=False)[0]) / (1 - present) + 3.5
    if not row["deduplicates"]:
        for share, key in ((present, value), (1 - present, null)):
            yield row["rows"] * share, ITEM + key, ITEM + key
        return
    if len(row["widths"]) > 1:
        key = present * value + (1 - present) * null
        yield from _lists(row["rows"], _combinations(row), key)
        return
    yield from _lists(row["rows"] * (1 - present), 1, null)
    common = () if row["is_partial"] else row["common_shares"] or ()
    for share in common:
        yield from _lists(row["rows"] * share, 1, value)
    rest = row["rows"] * max(present - sum(common), 0)
    yield from _lists(rest, max(_distinct(row, 0) - len(common), 1), value)


def _width(row: Row) -> float:
    """Return the mean width of a key without nulls, aligned: exact where one knows how much its columns vary."""
    widths = [
        laid_out(row, nulls=False, widths=[_sample(row, column, number) for column in range(len(row["widths"]))])
        for number in range(SAMPLES)
    ]
    return sum(width + 3.5 if varies else aligned(width) for width, varies in widths) / SAMPLES


def _sample(row: Row, column: int, number: int) -> int | None:
    """Return one of the widths of a column between its narrowest and its widest, spread so that their mean is right."""
    narrowest, widest = row["narrowest"][column], row["widest"][column]
    mean: float = row["widths"][column]
    if row["lengths"][column] >= 0:
        return int(mean)
    if narrowest is None or narrowest == widest:
        return narrowest  # type: ignore[no-any-return]
    mean = min(max(mean + 0.5, narrowest + 0.5), widest - 0.5)  # PostgreSQL cuts the mean off
    share = ((number * (2 * column + 1)) % SAMPLES + 0.5) / SAMPLES  # another order for each column
    return int(narrowest + (widest - narrowest) * share ** ((widest - narrowest) / (mean - narrowest) - 1) + 0.5)


def _lists(rows: float, groups: float, key: float) -> Iterator[tuple[float, float, float]]:
    """Yield the entries of that many groups of equal keys: full lists of rows, and what is left of each group."""
    if rows <= 0:
        return
    most = max((LIST - key) // 8 * 8 // ROW, 1)
    groups = min(groups, rows)
    for number, share in _spread(rows / groups) if groups > 1 else [(rows, 1.0)]:
        full, rest = divmod(round(number), most)
        yield groups * share * full, _listed(most, key), ITEM + key
        yield groups * share * (rest > 0), _listed(rest, key), ITEM + key


def _listed(rows: float, key: float) -> float:
    return ITEM + key + (aligned(ROW * rows) if rows > 1 else 0)


def _spread(mean: float) -> list[tuple[float, float]]:
    """Return (rows, share of the groups) where rows fell into groups by chance, none of them empty: Poisson's law."""
    if mean > 30:
        return [(mean + deviation * sqrt(mean), 1 / len(NORMAL)) for deviation in NORMAL]
    chance = min(mean, 2 * (mean - 1))
    for _ in range(50):  # the mean of the groups that are not empty is more than that of all
        chance = mean * (1 - exp(-chance))
    if chance < 1e-6:
        return [(1.0, 1.0)]
    shares, share = [], chance / expm1(chance)
    for rows in range(1, 60):
        shares.append((float(rows), share))
        share *= chance / (rows + 1)
    return shares


def _distinct(row: Row, column: int) -> float:
    """Return how many values a column of the index has, null apart."""
    distinct: float = row["distinct_values"][column]
    rows: float = row["rows"]
    return max(min(-distinct * rows if distinct < 0 else distinct, rows), 1.0)


def _combinations(row: Row) -> float:
    """Return how many different keys there are if the columns have nothing to do with each other."""
    each = [_distinct(row, column) + (row["null_shares"][column] > 0) for column in range(len(row["distinct_values"]))]
    possible = prod(each)
    return float(max(possible * (1 - exp(-row["rows"] / possible)), *each, 1.0))
