"""Filing: where the history of a database lies; kept apart so that asking costs no import of Parquet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from pgrunbooks.session import Session

Ids: TypeAlias = tuple[str, str]


def history_folder() -> Path:
    """Return the folder of the history: $PGRUNBOOKS_HISTORY, else below the user's data folder."""
    named = os.environ.get("PGRUNBOOKS_HISTORY")
    if named:
        return Path(named).expanduser().absolute()
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "pgrunbooks" / "history"


def ids(session: Session) -> Ids:
    """Return what a session's snapshots are filed under: its server's system identifier, and its database.

    A managed service may keep the identifier to itself; then the target's name stands for it.
    """
    server = session.server
    return server.system_identifier or f"target {session.target.name}", server.database


def place(folder: Path, whose: Ids) -> Path:
    """Return the folder of one database's snapshots below ``folder``; it need not exist."""

    def safe(name: str) -> str:
        return re.sub(r"^\.", "%2E", quote(name, safe=" "))

    return folder.joinpath(*map(safe, whose))
