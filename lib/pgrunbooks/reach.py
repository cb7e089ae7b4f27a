"""Reach: who of those that belong to a target answers: its server, its standbys, its pooler."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from pgrunbooks.display import duration
from pgrunbooks.errors import RunbookError
from pgrunbooks.session import Session, open_session, pooler_rows

_STARTED = """
select extract(epoch from clock_timestamp() - pg_catalog.pg_postmaster_start_time())::float8 as up_s
"""


def answers(session: Session) -> list[dict[str, Any]]:
    """Return a row for the session's server, each standby that its target names, and its pooler.

    Columns: who, name, answers (True or False), took_s (to connect and ask, for the server to ask alone), says: the
    version and since when it runs, or why there is no answer.
    """
    target = session.target
    rows = [_asked("server", target.name, partial(_described, session))]
    rows += [_asked("standby", name, partial(_standby, name, session)) for name in target.standbys]
    if target.pooler:
        rows.append(_asked("pooler", target.name, lambda: str(pooler_rows(target, "show version")[0]["version"])))
    return rows


def _asked(who: str, name: str, ask: Callable[[], str]) -> dict[str, Any]:
    start = time.monotonic()
    try:
        is_there, says = True, ask()
    except (RunbookError, psycopg.Error) as error:
        is_there, says = False, str(error)
    return {"who": who, "name": name, "answers": is_there, "took_s": time.monotonic() - start, "says": says}


def _standby(name: str, session: Session) -> str:
    with open_session(name, database=session.server.database) as standby:
        return _described(standby)


def _described(session: Session) -> str:
    (row,) = session.rows(_STARTED)
    role = "standby" if session.server.in_recovery else "primary"
    return f"PostgreSQL {session.server.version}, {role}, up for {duration(row['up_s'])}"
