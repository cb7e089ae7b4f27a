"""Which indexes a statement could use, from what it asks of each table.

Columns compared for equality come first, then what the order or one range wants; each candidate is tried by the planner
afterwards, so a rule here may be generous but never has to be right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pgrunbooks.advice.accesses import Access, Key, Order, Predicate
from pgrunbooks.advice.catalog import Catalog, Column, Existing, Table
from pgrunbooks.advice.expressions import quoted
from pgrunbooks.lab import Index

MOST_KEYS = 4
MOST_INCLUDED = 5
MOST_INCLUDED_WIDTH = 120  # bytes; a wider leaf costs more pages than the heap visits that it saves
PARTIAL_SHARE = 0.7  # a predicate that more rows fulfil makes no smaller index
BRIN_PAGES = 8192  # 64 MB: below that a btree is small too
BRIN_CORRELATION = 0.9
MOST_OF_ACCESS = 40

_TRIGRAM_TYPES = frozenset({"text", "varchar", "bpchar"})
_NETWORK_TYPES = frozenset({"inet", "cidr"})
_RANGE_CATEGORY = "R"


def candidates(access: Access, catalog: Catalog, *, covering: bool = True) -> list[Index]:
    """Return the indexes that this access to a table could use, the most promising first, none that is there.

    Without ``covering`` none has INCLUDE: where few rows are read there are few visits to the heap to be saved.
    """
    table = catalog.tables.get(access.table)
    if not table:
        return []
    access = access if covering else replace(access, columns=None)
    found = dict.fromkeys(itertools.chain(_btrees(access, table), _others(access, table, catalog)))
    new = (it for it in found if not any(covers(index, it) or _finds_one(index, it) for index in table.indexes))
    return list(itertools.islice(new, MOST_OF_ACCESS))


def covers(existing: Existing | Index, wanted: Index) -> bool:
    """Tell whether an index that is there does everything that another on the same table would do."""
    if existing.method != wanted.method or existing.where not in (None, wanted.where):
        return False
    if existing.where is None and wanted.where is not None:
        return False  # a smaller index may pay
    if existing.method != "btree":
        return existing.keys == wanted.keys
    leading = existing.keys[: len(wanted.keys)]
    same = leading == wanted.keys or leading == tuple(_reversed(key) for key in wanted.keys)
    return same and set(wanted.include) <= {*existing.include, *existing.keys}


def _finds_one(existing: Existing, wanted: Index) -> bool:
    """Tell whether the first keys of an index find one row at most: whatever follows them saves one visit to it."""
    known = existing.is_unique and existing.method == wanted.method == "btree" and existing.where is None
    return known and wanted.keys[: len(existing.keys)] == existing.keys


def _btrees(access: Access, table: Table) -> Iterator[Index]:
    """Yield plain btrees, each followed by its partial and covering forms."""
    tests = _partial_predicates(access, table)
    for keys in _key_lists(access, table):
        index = Index(table.name, keys)
        yield index
        yield from _covering(index, access, table)
        for predicate, columns in tests:
            # the column of the predicate says nothing within the index that it made
            rest = tuple(key for key in keys if key not in columns)
            if rest:
                partial = Index(table.name, rest, where=predicate)
                yield partial
                yield from _covering(partial, access, table)


def _key_lists(access: Access, table: Table) -> Iterable[tuple[str, ...]]:
    found: dict[tuple[str, ...], None] = {}
    for predicates in (access.predicates, *access.alternatives):
        for keys in _orders_of(predicates, access, table):
            if keys:
                found.setdefault(keys[:MOST_KEYS])
    return found


def _orders_of(predicates: Sequence[Predicate], access: Access, table: Table) -> Iterator[tuple[str, ...]]:
    equal = _most_selective_first((p for p in predicates if p.kind in ("equal", "among") and not p.joins), table)
    joined = list(
        dict.fromkeys(_key(p.key) for p in predicates if p.kind == "equal" and p.joins and _sortable(p.key, table))
    )
    joined = [key for key in joined if key not in equal]
    ranges = list(dict.fromkeys(_range_key(p, table) for p in predicates if _is_range(p) and _sortable(p.key, table)))
    tests = list(dict.fromkeys(_key(p.key) for p in predicates if p.kind == "test" and _selects(p, table)))
    fixed = set(equal)
    order = _order_keys(access.order, fixed, table)
    groups = [
        key for key in dict.fromkeys(_key(it) for it in access.groups if _sortable(it, table)) if key not in fixed
    ]
    # the whole of what is asked, in the order in which a btree can use it
    yield (*equal, *order)
    yield (*equal, *tests, *order)
    for one in ranges:
        yield (*equal, one)
        yield (*equal, *joined[:1], one)
    for one in joined:
        yield (one, *equal)
        yield (*equal, one)
        yield (one, *(key for key in order if key != one))
        for bound in ranges:
            yield (one, *equal, bound)
    if len(joined) > 1:
        yield tuple(joined)
        yield tuple(reversed(joined))
        yield (*joined, *equal)
    yield (*equal, *groups)
    yield (*groups,)
    for bound in ranges:
        yield (*groups, bound)
    yield (*order,)
    for bound in ranges:
        yield (*order, *(key for key in (bound,) if key not in order))
        yield (bound,)
    for one in equal:
        yield (one,)
        yield (one, *order)
        for bound in ranges:
            yield (one, bound)
    yield from itertools.permutations(equal[:3], 2)
    for test in tests:
        yield (*equal, test)
        yield (test,)


def _most_selective_first(predicates: Iterable[Predicate], table: Table) -> list[str]:
    """Return the keys compared for equality; those of an IN list last, which a btree reads once a value."""
    keys: dict[str, tuple[bool, float]] = {}
    for predicate in predicates:
        if _sortable(predicate.key, table):
            distinct = _distinct(predicate.key, table)
            keys.setdefault(_key(predicate.key), (predicate.kind == "among", -distinct))
    return sorted(keys, key=lambda key: (keys[key], key))


def _order_keys(order: Sequence[Order], fixed: set[str], table: Table) -> list[str]:
    """Return the keys of a sort as an index holds them; one that goes down throughout is read backwards."""
    wanted = [it for it in order if _key(it.key) not in fixed]
    if not all(_sortable(it.key, table) for it in wanted):
        return []
    wanted = list({it.key.text: it for it in reversed(wanted)}.values())[::-1]
    turned = bool(wanted) and wanted[0].descending
    keys = []
    for it in wanted:
        descending, nulls_first = it.descending != turned, it.nulls_first != turned
        nulls = "" if nulls_first == descending else " NULLS FIRST" if nulls_first else " NULLS LAST"
        keys.append(_key(it.key) + (" DESC" if descending else "") + nulls)
    return keys


def _reversed(key: str) -> str:
    """Return a key of an index as it is when the index is read backwards."""
    nulls_first = key.endswith("NULLS FIRST") or (" DESC" in key and not key.endswith("NULLS LAST"))
    descending = " DESC" in key
    bare = key.removesuffix(" NULLS FIRST").removesuffix(" NULLS LAST").removesuffix(" DESC")
    nulls = "" if nulls_first == descending else " NULLS LAST" if nulls_first else " NULLS FIRST"
    return bare + ("" if descending else " DESC") + nulls


def _is_range(predicate: Predicate) -> bool:
    return predicate.kind in ("range", "prefix", "like")


def _range_key(predicate: Predicate, table: Table) -> str:
    """Return the key of a range; a prefix needs an operator class of bytes where the column sorts by a language."""
    key = _key(predicate.key)
    if predicate.kind == "range" or all(table.columns[name].sorts_bytes for name in predicate.key.columns):
        return key
    types = {table.columns[name].type for name in predicate.key.columns}
    return f"{key} {'bpchar' if types == {'bpchar'} else 'text'}_pattern_ops"


def _key(key: Key) -> str:
    return key.text


def _sortable(key: Key, table: Table) -> bool:
    """Tell whether a btree can hold the key: it has an order, and fits on a page."""
    if not key.columns <= set(table.columns):
        return False
    if key.column is None:
        return True
    column = table.columns[key.column]
    return column.type not in ("json", "jsonb", "xml", "tsvector", "point", "polygon") and column.width < 600


def _distinct(key: Key, table: Table) -> float:
    return max(table.columns[name].distinct(table.rows) for name in key.columns)


def _covering(index: Index, access: Access, table: Table) -> Iterator[Index]:
    """Yield the index with everything else that the statement reads of this table, where that is little."""
    if access.columns is None or not index.keys:
        return
    keyed = {key.split(" ")[0] for key in index.keys}
    rest = sorted(name for name in access.columns if quoted(name) not in keyed)
    width = sum(table.columns[name].width for name in rest)
    if rest and len(rest) <= MOST_INCLUDED and width <= MOST_INCLUDED_WIDTH:
        yield replace(index, include=tuple(quoted(name) for name in rest))


def _partial_predicates(access: Access, table: Table) -> list[tuple[str, frozenset[str]]]:
    """Return the conditions that keep an index small, with the keys that they make needless."""
    found: dict[str, tuple[frozenset[str], float]] = {}
    for predicate in access.predicates:
        column = table.columns.get(predicate.key.column or "")
        if not predicate.text or not column:
            continue
        share = _share(predicate, column)
        if share is not None and share <= PARTIAL_SHARE:
            found[predicate.text] = (frozenset({predicate.key.text}), share)
    best = sorted(found, key=lambda text: (found[text][1], text))
    single = [(text, found[text][0]) for text in best]
    if len(best) > 1:  # all of them together
        single.append((" AND ".join(sorted(best)), frozenset().union(*(found[text][0] for text in best))))
    return single


def _selects(predicate: Predicate, table: Table) -> bool:
    """Tell whether a test such as IS NULL leaves out enough rows to be worth a key."""
    column = table.columns.get(predicate.key.column or "")
    share = _share(predicate, column) if column and predicate.text else None
    return _sortable(predicate.key, table) and (share is None or share <= PARTIAL_SHARE)


def _share(predicate: Predicate, column: Column) -> float | None:
    """Return the share of the rows that fulfil a condition without parameters; None where that is not known."""
    if predicate.kind == "test":
        text = (predicate.text or "").upper()
        if text.endswith("IS NULL"):
            return column.null_frac
        if text.endswith("IS NOT NULL"):
            return 1 - column.null_frac
        negative = text.startswith("NOT ") or text.endswith("IS FALSE") or text.endswith("IS NOT TRUE")
        return column.common.get("f" if negative else "t", 0.0 if column.common else None)
    if predicate.kind == "equal" and predicate.constant is not None:
        constant = predicate.constant if column.type != "bool" else predicate.constant[:1]
        if not column.common:
            return None
        rest = max(0.0, 1 - column.null_frac - sum(column.common.values()))
        return column.common.get(constant, rest)
    return None


def _others(access: Access, table: Table, catalog: Catalog) -> Iterator[Index]:
    """Yield what is no btree: GIN, GiST for ranges, trigrams, BRIN."""
    for predicate in itertools.chain(access.predicates, *access.alternatives):
        if not predicate.key.columns <= set(table.columns):
            continue
        column = table.columns.get(predicate.key.column or "")
        if predicate.kind == "contains":
            yield from _containing(predicate, column, table)
        elif (
            predicate.kind in ("pattern", "like") and "pg_trgm" in catalog.extensions and _is_text(predicate.key, table)
        ):
            yield Index(table.name, (f"{predicate.key.text} gin_trgm_ops",), method="gin")
        elif predicate.kind == "range" and column and not predicate.joins and _follows_the_heap(column, table):
            yield Index(table.name, (predicate.key.text,), method="brin")


def _follows_the_heap(column: Column, table: Table) -> bool:
    return table.pages >= BRIN_PAGES and abs(column.correlation or 0) >= BRIN_CORRELATION


def _containing(predicate: Predicate, column: Column | None, table: Table) -> Iterator[Index]:
    key = predicate.key.text
    if column is None:
        # an expression: what it returns is known by its operator alone
        if predicate.operator in ("@@", "@>", "&&"):
            yield Index(table.name, (key,), method="gin")
    elif column.type == "jsonb":
        if predicate.operator in ("@>", "@@", "@?"):
            yield Index(table.name, (f"{key} jsonb_path_ops",), method="gin")
        yield Index(table.name, (key,), method="gin")
    elif column.type == "tsvector" or column.category == "A":
        yield Index(table.name, (key,), method="gin")
    elif column.type in _NETWORK_TYPES:
        yield Index(table.name, (key,))
        yield Index(table.name, (f"{key} inet_ops",), method="gist")
    elif column.category == _RANGE_CATEGORY:
        yield Index(table.name, (key,), method="gist")
    else:  # a type of an extension: PostgreSQL knows which of them it has a default operator class for
        yield Index(table.name, (key,), method="gin")
        yield Index(table.name, (key,), method="gist")


def _is_text(key: Key, table: Table) -> bool:
    return all(table.columns[name].type in _TRIGRAM_TYPES for name in key.columns)
