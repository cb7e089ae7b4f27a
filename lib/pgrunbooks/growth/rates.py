"""What the server writes: WAL and temporary files a day, from the counters of the snapshots."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pgrunbooks.growth._asking import read_known
from pgrunbooks.months import Snapshot

_RATE_S = 1800.0
_COUNTED = ("wal_bytes", "temp_bytes", "stats_reset")


def write_rates(taken: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return how much WAL the server wrote and how much went into temporary files of the database, a day.

    A row for each two snapshots that follow each other by half an hour at least: before, taken_at, wal_daily_bytes,
    temp_daily_bytes; None where the counter began anew in between, and it is not known how much it had counted.
    """
    known: dict[datetime.datetime, dict[str, Any]] = defaultdict(lambda: dict.fromkeys(_COUNTED))
    for kind, columns in (("cluster", _COUNTED[:1]), ("database", _COUNTED[1:])):
        for at, *values in read_known(taken, kind, *columns):
            known[at].update(zip(columns, values, strict=True))
    rows: list[dict[str, Any]] = []
    before = None
    for at in sorted(known):
        it = {**known[at], "at": at}
        if before is None or (it["at"] - before["at"]).total_seconds() >= _RATE_S:
            if before is not None:
                rows.append(_rates(before, it))
            before = it
    return rows


def _rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    days = (after["at"] - before["at"]).total_seconds() / 86400

    def daily(name: str) -> float | None:
        then, now = before[name], after[name]
        return (now - then) / days if then is not None and now is not None and now >= then else None

    is_same = before["stats_reset"] == after["stats_reset"]
    temp = daily("temp_bytes") if is_same else None
    return {
        "before": before["at"],
        "taken_at": after["at"],
        "wal_daily_bytes": daily("wal_bytes"),
        "temp_daily_bytes": temp,
    }
