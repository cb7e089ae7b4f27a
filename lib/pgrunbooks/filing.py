"""Filing: where the history of a database lies; kept apart so that asking costs no import of Parquet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from pgrunbooks import store
from pgrunbooks.session import Session
from pgrunbooks.store import Location
from pgrunbooks.targets import load_history

Ids: TypeAlias = tuple[str, str]


def history_folder() -> Location:
    """Return where the history is: $PGRUNBOOKS_HISTORY, else what the targets file says, else the user's own folder."""
    named = os.environ.get("PGRUNBOOKS_HISTORY") or load_history().url
    if named:
        return store.location(named)
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "pgrunbooks" / "history"


def ids(session: Session) -> Ids:
    """Return what a session's snapshots are filed under: its server's system identifier, and its database.

    A managed service may keep the identifier to itself; then the target's name stands for it.
    """
    server = session.server
    return server.system_identifier or f"target {session.target.name}", server.database


def has_history(session: Session) -> bool:
    """Tell whether there may be a history of a session's database; a store elsewhere is not asked yet."""
    folder = place(history_folder(), ids(session))
    return not isinstance(folder, Path) or folder.exists()


def place(folder: Location, whose: Ids) -> Location:
    """Return the folder of one database's snapshots below ``folder``; it need not exist."""

    def safe(name: str) -> str:
        return re.sub(r"^\.", "%2E", quote(name, safe=" "))

    return store.below(folder, *map(safe, whose))
