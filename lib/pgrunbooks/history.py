"""History: what was measured over time, as immutable Parquet files, one a snapshot and one a month that is over.

A file appears whole, so no reader ever sees half of one and no writer waits for another. It lies in
``<history>/<system identifier>/<database>/``: what a snapshot belongs to is the server and the database, whatever
target they were reached by. DuckDB, in memory, answers questions over many snapshots.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias

import psycopg
import pyarrow

from pgrunbooks import measures, months, snapshot_file
from pgrunbooks.check import Since, Skip
from pgrunbooks.errors import ConfigurationError, RunbookError
from pgrunbooks.filing import Ids, history_folder, ids
from pgrunbooks.filing import place as filed
from pgrunbooks.months import STAMP, Snapshot
from pgrunbooks.session import Session, refused
from pgrunbooks.snapshot_file import (
    CHECKPOINTS,
    COLUMNS,
    DAMAGE,
    DATABASE_COUNTERS,
    ERRORS,
    SCHEMA,
    SERVER_KINDS,
    TIMES,
)
from pgrunbooks.store import Location, put, shown
from pgrunbooks.targets import load_history
from pgrunbooks.verdict import utc_now
from pgrunbooks.workload import Statement, Workload, read_workload

MIN_AGE_S = 3600.0  # a rate over less than an hour says more about the hour than about the database
_LOG = logging.getLogger(__name__)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_Rows: TypeAlias = Sequence[dict[str, Any]]


# ---- writing ---------------------------------------------------------------------------------------------------


def record_snapshot(
    session: Session, *, at: datetime.datetime | None = None, folder: Location | None = None
) -> Location:
    """Measure the session's database, write one file of the history and return where it is; then tidy the months up.

    ``at`` is the time that the snapshot is filed under, by default now. Raises ConfigurationError where the history
    cannot be written to, and RunbookError where the catalog cannot be read or the store cannot be reached.
    """
    at = (at or utc_now()).astimezone(datetime.UTC)
    whose = ids(session)
    folder = folder or history_folder()
    place = filed(folder, whose)

    def write(file: BinaryIO) -> None:
        with snapshot_file.writer_of(file, whose, at) as writer:
            for rows in filter(None, measures.by_kind(session, _since_when(session, at, folder))):
                writer.write_table(pyarrow.Table.from_pylist([{"taken_at": at, **row} for row in rows], schema=SCHEMA))

    keep = load_history().keep
    try:
        path = put(place, at.strftime(STAMP), write)
    except psycopg.Error as error:
        refusal = refused(error, session.server)
        raise RunbookError(f"no snapshot: {refusal.reason if isinstance(refusal, Skip) else refusal}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{place}: no history can be written: {reason}; set PGRUNBOOKS_HISTORY") from None
    try:
        months.tidy(place, whose, at, keep)
    except (*DAMAGE, RunbookError, MemoryError) as error:  # the snapshot is safe; the next one tries again
        _LOG.warning("%s: the months were not tidied up: %s", shown(place), snapshot_file.reason(error))
    return path


def _since_when(session: Session, at: datetime.datetime, folder: Location) -> Iterator[dict[str, Any]]:
    """Yield each inactive slot with when it became so: what the server says, else the first snapshot that saw it so.

    Each snapshot hands this time on to the next while nobody read the slot in between, so one file tells it all.
    """
    slots, before = measures.slots(session), {}
    if any(slot["inactive_since"] is None for slot in slots):
        last = next(_newest_first(session, folder, before=at), None)
        before = {slot["name"]: slot for slot in last[1]["slot"]} if last else {}
    for slot in slots:
        then = before.get(slot["name"])
        unread_since = then["inactive_since"] if then and then["lsn_bytes"] == slot["lsn_bytes"] else at
        yield {**slot, "inactive_since": slot["inactive_since"] or unread_since}


# ---- reading ---------------------------------------------------------------------------------------------------


def snapshots(whose: Session | Ids, *, folder: Location | None = None) -> tuple[list[Snapshot], list[str]]:
    """Return the snapshots of a session's database (or of ``ids``), oldest first, and what was left aside and why.

    A file that is damaged, foreign or newer than this program is one line of the second list, never a failure. Raises
    RunbookError where the store cannot be reached.
    """
    whose = ids(whose) if isinstance(whose, Session) else whose
    return months.index(filed(folder or history_folder(), whose), whose)


def spread(session: Session, *, most: int, days: float, folder: Location | None = None) -> list[Snapshot]:
    """Return at most so many snapshots of the last ``days`` before the newest, evenly spread over them, oldest first.

    One that is damaged or foreign is left aside, and named in the log.
    """
    taken, left_aside = snapshots(session, folder=folder)
    for line in left_aside:
        _LOG.warning("%s", line)
    if not taken:
        return []
    end = taken[-1].at
    return evenly([it for it in taken if (end - it.at).total_seconds() <= days * 86400], most)


def evenly(taken: Sequence[Snapshot], most: int) -> list[Snapshot]:
    """Return at most so many of some snapshots, evenly spread over their time, the newest among them."""
    if len(taken) <= most:
        return list(taken)
    end = taken[-1].at
    wide_s = (end - taken[0].at).total_seconds() / most
    # the last of each bucket; the newest is the last of its own
    return list({int((end - it.at).total_seconds() / wide_s): it for it in taken}.values())[-most:]


def read_rows(snapshot: Snapshot | Location, kind: str) -> list[dict[str, Any]]:
    """Return the rows of one kind in a snapshot (or its own file), such as 'relation', 'sequence' or 'key'.

    Relations come back as ``size_inventory`` returns them, but with times as datetimes. What an older file did not
    measure yet is None in its rows, or no row at all. Raises pyarrow's ArrowException or OSError where the file is
    damaged.
    """
    path, member = (snapshot.path, snapshot.member) if isinstance(snapshot, Snapshot) else (snapshot, None)
    columns = COLUMNS[kind]
    measured = snapshot_file.read(path, kind, list(columns), None if member is None else [member])
    rows = [{name: _read(name, row.get(name)) for name in columns} for row in measured]
    if kind == "relation":
        for row in rows:
            row["kind"] = row.pop("relation_kind")
    return rows


def _read(name: str, value: Any) -> Any:
    """Return a value with the time that was read as microseconds."""
    return _time(value) if name in TIMES and value is not None else value


def _time(microseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def since(session: Session, *, now: datetime.datetime | None = None, folder: Location | None = None) -> Since | None:
    """Return what the newest snapshot that is at least an hour old had measured; None without one.

    Counters that were reset since are left out. A crash empties all of them, and those of a database that was made
    anew begin at nothing: a counter that is lower than it was counts as reset too.
    """
    now = (now or utc_now()).astimezone(datetime.UTC)
    latest = now - datetime.timedelta(seconds=MIN_AGE_S)
    for snapshot, then in _newest_first(session, folder or history_folder(), before=latest):
        age_s = (now - snapshot.at).total_seconds()
        slots = _unread(then["slot"], measures.slots(session), now)
        (cluster_then,), cluster = then["cluster"], measures.cluster(session)
        if cluster_then["counting_since"] not in (None, cluster["counting_since"]):
            return Since(age_s, slots=slots)
        subscriptions = {row["oid"]: row for row in then["subscription"]}
        return Since(
            age_s,
            databases=_databases_then(then, measures.databases(session)),
            checkpoints=cluster_then if _counted_on(cluster_then, cluster, CHECKPOINTS) else None,
            subscriptions={
                row["oid"]: subscriptions[row["oid"]]
                for row in measures.subscriptions(session)
                if _counted_on(subscriptions.get(row["oid"]), row, ERRORS)
            },
            slots=slots,
        )
    return None


def workload_since(
    session: Session, *, now: datetime.datetime | None = None, folder: Location | None = None
) -> Workload | Skip:
    """Return the session's workload since the newest snapshot that is at least an hour old, else since its reset.

    ``window_s`` says which; a snapshot from before the reset of pg_stat_statements is not compared.
    """
    current = read_workload(session)
    if isinstance(current, Skip):
        return current
    now = (now or utc_now()).astimezone(datetime.UTC)
    latest = now - datetime.timedelta(seconds=MIN_AGE_S)
    for snapshot, _ in _newest_first(session, folder or history_folder(), before=latest):
        age_s = (now - snapshot.at).total_seconds()
        then = [Statement("", **row) for row in read_rows(snapshot, "statement")]
        if then and (current.window_s or 0.0) > age_s:
            return replace(current.since(Workload(tuple(then))), window_s=age_s)
        break
    return current


def _databases_then(then: Mapping[str, _Rows], now: _Rows) -> dict[str, dict[str, Any]]:
    """Return what was counted in each database that was not reset since, by name; nothing at all in a newer one."""
    (here,), others = then["database"], then["other_database"]
    known = {now[0]["oid"] if here["oid"] is None else here["oid"]: here, **{row["oid"]: row for row in others}}
    # every server has other databases, but files of version 1 have not
    newer = {**dict.fromkeys(DATABASE_COUNTERS, 0), "stats_reset": None} if others else None
    pairs = [(row, known.get(row["oid"], newer)) for row in now]
    return {row["database"]: old for row, old in pairs if old and _counted_on(old, row, DATABASE_COUNTERS)}


def _counted_on(then: Mapping[str, Any] | None, now: Mapping[str, Any], counters: Sequence[str]) -> bool:
    """Tell whether an object was there at the time of a snapshot and has not been reset since."""
    if then is None or then["stats_reset"] != now["stats_reset"]:
        return False
    return all((now[name] or 0) >= (then[name] or 0) for name in counters)


def _unread(then: _Rows, now: _Rows, at: datetime.datetime) -> dict[str, float]:
    """Return for how many seconds each slot that was and is inactive has not been read."""
    lsn_bytes = {row["name"]: row["lsn_bytes"] for row in now}
    return {
        row["name"]: (at - row["inactive_since"]).total_seconds()
        for row in then
        if row["name"] in lsn_bytes and lsn_bytes[row["name"]] == row["lsn_bytes"]
    }


def _newest_first(
    session: Session, folder: Location, *, before: datetime.datetime
) -> Iterator[tuple[Snapshot, dict[str, _Rows]]]:
    """Yield the snapshots up to a time with what they say of the server, by kind; opens no more than is asked for.

    Those of a standby are none of its primary's, which has the same identifier, and the other way round.
    """
    whose = ids(session)
    for snapshot in months.newest_first(filed(folder, whose), whose, before=before):
        try:
            rows: dict[str, _Rows] = {kind: read_rows(snapshot, kind) for kind in SERVER_KINDS}
        except DAMAGE as problem:
            _LOG.warning("%s: left aside: %s", shown(snapshot.path), snapshot_file.reason(problem))
            continue
        if rows["cluster"][0]["in_recovery"] == session.server.in_recovery:
            yield snapshot, rows
