"""The files of one database's history: which snapshot lies where, and how whole months become one file each.

A month's file names the snapshots in it, so its readers count none twice while their own files are still there. It is
complete before anything else is touched, outranks what it was made from, and replaces that an hour later at the
earliest, when it was read through once more: no reader loses a file that it has just listed, and a crash at any point
leaves at worst both. Writers need no lock. Two that make the same month make two files; the lower one goes.
"""

from __future__ import annotations

import datetime
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

import pyarrow

from pgrunbooks import snapshot_file, store
from pgrunbooks.filing import Ids
from pgrunbooks.snapshot_file import Facts, Member
from pgrunbooks.store import Location
from pgrunbooks.targets import LEVELS, Keep

STAMP = "%Y%m%dT%H%M%SZ"
_SETTLED = datetime.timedelta(hours=1)  # a snapshot takes less from its stamp to its name, a reader from list to read
_SINGLE = re.compile(r"(?P<month>\d{6})\d\dT\d{6}Z(-[0-9a-f]{8})?\.parquet")
_MONTH = re.compile(rf"(?P<month>\d{{6}})-(?P<turn>\d{{4}})-(?P<level>{'|'.join(LEVELS)})(-[0-9a-f]{{8}})?\.parquet")
_BUCKETS = {"all": None, "hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V"}
_ROWS = 131_072  # a part of a month's file; a reader holds one at a time
_MEMORY = "512MB"
# all that is needed is built in; an extension must never be looked for on the network
QUIET: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
_LOG = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """One snapshot of the history: when it was taken, the file it is in, and its number there if that is a month."""

    at: datetime.datetime
    path: Location
    member: int | None = None


def index(place: Location, whose: Ids, names: Sequence[str] | None = None) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots in a folder, oldest first, and a line for each file that was left aside."""
    names = store.names(place) if names is None else names
    found: list[Snapshot] = []
    left_aside: dict[str, str] = {}
    covered: set[str] = set()
    for group in ([it for it in names if _MONTH.fullmatch(it)], [it for it in names if not _MONTH.fullmatch(it)]):
        wanted = sorted((it for it in group if _stem(it) not in covered), key=_rank, reverse=True)
        for name, known in _facts(place, whose, wanted).items():
            path = store.below(place, name)
            if isinstance(known, str):
                left_aside[name] = f"{store.shown(path)}: left aside: {known}"
                continue
            numbered = [(number if known.is_month else None, it) for number, it in enumerate(known.members)]
            found += [Snapshot(it.at, path, number) for number, it in numbered if it.name not in covered]
            covered |= _names(known)
    return sorted(found, key=lambda it: (it.at, str(it.path), it.member)), [left_aside[it] for it in sorted(left_aside)]


def newest_first(place: Location, whose: Ids, *, before: datetime.datetime) -> Iterator[Snapshot]:
    """Yield the snapshots up to a time, newest first; opens no more files than are asked for.

    What is left aside is named in the log.
    """
    latest = before.strftime(STAMP)
    ours = [it for it in store.names(place) if _month(it) and it[: len(latest)] <= latest]
    for _, of_month in groupby(sorted(ours, key=lambda it: it[:6], reverse=True), key=lambda it: it[:6]):
        names = sorted(of_month, reverse=True)
        together = [names] if any(_MONTH.fullmatch(it) for it in names) else [[it] for it in names]
        for some in together:
            found, left_aside = index(place, whose, some)
            for line in left_aside:
                _LOG.warning("%s", line)
            yield from (it for it in reversed(found) if it.at <= before)


def tidy(place: Location, whose: Ids, at: datetime.datetime, keep: Keep | None = None) -> None:
    """Turn each month that is over at that time into one file, thinned as ``keep`` says, and remove what it replaces.

    Looks at names alone where there is nothing to do. Raises OSError, duckdb.Error and RunbookError; nothing is lost
    then, and the next call goes on.
    """
    names = sorted((it for it in store.names(place) if _month(it)), key=lambda it: it[:6])
    for month, of_month in groupby(names, key=lambda it: it[:6]):
        end = _end_of(month)
        if at - end < _SETTLED:
            continue
        files = list(of_month)
        level = keep.level((at - end).total_seconds()) if keep else LEVELS[0]
        if level is None:
            for name in sorted(files, key=_rank):  # the month's file last: what it covers must not come back
                store.remove(store.below(place, name))
        elif len(files) > 1 or not _MONTH.fullmatch(files[0]) or _level(files[0]) < LEVELS.index(level):
            _tidy_month(place, whose, month, files, level, at)


def _tidy_month(
    place: Location, whose: Ids, month: str, files: Sequence[str], level: str, at: datetime.datetime
) -> None:
    """Remove what a settled file replaces; make a new file of what is not in one yet, or not thinned enough."""
    said = _facts(place, whose, sorted(files, key=_rank, reverse=True))
    ranked = {name: it for name, it in said.items() if not isinstance(it, str)}
    _sweep(place, ranked, at)
    sources = _not_replaced(ranked)
    if not _is_done(sources, level):
        sources = {name: it for name, it in sources.items() if snapshot_file.is_whole(store.below(place, name))}
    if sources and not _is_done(sources, level):
        level = LEVELS[max(LEVELS.index(level), *(_level(it) for it in sources))]
        turn = 1 + max(_rank(it)[1] for it in files)
        _merge(place, whose, f"{month}-{turn:04}-{level}", sources, level, at)


def _sweep(place: Location, ranked: Mapping[str, Facts], at: datetime.datetime) -> None:
    """Remove the files whose snapshots are all in settled ones of a higher rank, which are read through before."""
    safe: set[str] = set()
    for name, known in ranked.items():
        path = store.below(place, name)
        if _names(known) <= safe:
            store.remove(path)
        elif known.is_month and at - known.written_at >= _SETTLED and snapshot_file.is_whole(path):
            safe |= _names(known)


def _not_replaced(ranked: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return the files, highest rank first, that hold a snapshot which none above them does."""
    seen: set[str] = set()
    left = {}
    for name, known in ranked.items():
        if not _names(known) <= seen:
            left[name] = known
        seen |= _names(known)
    return left


def _is_done(sources: Mapping[str, Facts], level: str) -> bool:
    return len(sources) == 1 and all(
        it.is_month and _level(name) >= LEVELS.index(level) for name, it in sources.items()
    )


def _merge(
    place: Location, whose: Ids, stem: str, sources: Mapping[str, Facts], level: str, at: datetime.datetime
) -> None:
    """Write one file of the snapshots in some others."""
    seen: set[str] = set()
    found: list[tuple[Member, str, int]] = []
    for name, known in sources.items():  # highest rank first
        found += [(it, name, number) for number, it in enumerate(known.members) if it.name not in seen]
        seen |= _names(known)
    found = _thinned(sorted(found), level)
    members = [member for member, _, _ in found]
    with store.on_this_machine(store.below(place, name) for name in sources) as paths:
        local = dict(zip(sources, map(str, paths), strict=True))
        where: dict[str, Sequence[Any]] = {
            "file": [local[name] for _, name, _ in found],
            "old": [number for _, _, number in found],
            "member": list(range(len(found))),
        }

        def write(file: BinaryIO) -> None:
            with snapshot_file.writer_of_month(file, whose, at, members, seen) as writer:
                for table in _sorted_rows(list(local.values()), where):
                    writer.write_table(table.cast(writer.schema))

        store.put(place, stem, write)


_SORTED = """
with measured as (
    select * from nothing
    union all by name
    select * from read_parquet($files, union_by_name = true, filename = 'file')
)
select measured.* exclude (file, member), members.member
from measured
join members on members.file = measured.file and members.old = coalesce(measured.member, 0)
order by kind, oid, name, queryid, members.member
"""


def _sorted_rows(files: Sequence[str], where: Mapping[str, Sequence[Any]]) -> Iterator[pyarrow.Table]:
    """Yield the rows of some files, each object's snapshots side by side, which packs well and reads fast.

    Rows of two kinds are never in one table. DuckDB sorts on disk what does not fit into its memory.
    """
    import duckdb  # a tenth of a second, once a month
    from pyarrow import compute

    schema = snapshot_file.MONTH.append(pyarrow.field("file", pyarrow.string()))
    with (
        tempfile.TemporaryDirectory(prefix="pgrunbooks-") as spilled,
        duckdb.connect(":memory:", config=QUIET) as engine,
    ):
        engine.execute("set memory_limit = $limit", {"limit": _MEMORY})
        engine.execute("set temp_directory = $folder", {"folder": spilled})
        engine.register("nothing", schema.empty_table())
        engine.register("members", pyarrow.table(dict(where)))
        engine.execute("set timezone = 'UTC'")
        reader = engine.sql(_SORTED, params={"files": list(files)}).to_arrow_reader(_ROWS)
        for batch in reader:
            table = pyarrow.Table.from_batches([batch])
            start = 0
            for end in compute.run_end_encode(table["kind"].combine_chunks()).run_ends.to_pylist():
                yield table.slice(start, end - start)
                start = end


def _thinned(found: Sequence[tuple[Member, str, int]], level: str) -> list[tuple[Member, str, int]]:
    """Return the first snapshot of each hour, day or week, as the level says; they come in order."""
    bucket = _BUCKETS[level]
    if bucket is None:
        return list(found)
    return [next(some) for _, some in groupby(found, key=lambda it: it[0].at.strftime(bucket))]


def _facts(place: Location, whose: Ids, names: Sequence[str]) -> dict[str, Facts | str]:
    """Return what each file says of itself, or why it is left aside."""

    def said(path: Location) -> Facts | str:
        try:
            return snapshot_file.facts(path, whose)
        except (OSError, ValueError) as problem:
            return snapshot_file.reason(problem)

    return dict(zip(names, store.each(said, [store.below(place, it) for it in names]), strict=True))


def _names(known: Facts) -> frozenset[str]:
    return known.replaces if known.is_month else frozenset(it.name for it in known.members)


def _stem(name: str) -> str:
    return name.removesuffix(".parquet")


def _month(name: str) -> str | None:
    """Return the month that a file belongs to by its name; None for a name that we never give."""
    match = _MONTH.fullmatch(name) or _SINGLE.fullmatch(name)
    return match["month"] if match else None


def _level(name: str) -> int:
    match = _MONTH.fullmatch(name)
    return LEVELS.index(match["level"]) if match else 0


def _rank(name: str) -> tuple[bool, int, str]:
    """Return what a file outranks others by: a month's file any snapshot's, and what was made from it any file."""
    match = _MONTH.fullmatch(name)
    return (True, int(match["turn"]), name) if match else (False, 0, name)


def _end_of(month: str) -> datetime.datetime:
    first = datetime.datetime.strptime(f"{month}01", "%Y%m%d").replace(tzinfo=datetime.UTC)
    return (first + datetime.timedelta(days=31)).replace(day=1)
