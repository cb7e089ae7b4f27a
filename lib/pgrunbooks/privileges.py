"""Privileges come in three levels: what each lets a role see, the statements that give it, the checks that ask for it.

https://www.postgresql.org/docs/18/predefined-roles.html tells what the groups stand for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pgrunbooks.check import registry

# Views for superusers alone, and the function behind each: PostgreSQL asks the reader of the view for the right to
# execute it. https://www.postgresql.org/docs/18/view-pg-hba-file-rules.html and its neighbours
FILES: Mapping[str, str] = MappingProxyType(
    {
        "pg_hba_file_rules": "pg_hba_file_rules",
        "pg_ident_file_mappings": "pg_ident_file_mappings",
        "pg_file_settings": "pg_show_all_file_settings",
    }
)


def files_grant(quoted_role: str, views: Iterable[str] = FILES) -> str:
    """Return the statements that let a role read these views of the server's files."""
    views = list(views)
    return (
        f"grant select on {', '.join(f'pg_catalog.{view}' for view in views)} to {quoted_role};\n"
        f"grant execute on function {', '.join(f'pg_catalog.{FILES[view]}()' for view in views)} to {quoted_role};"
    )


@dataclass(frozen=True)
class Level:
    """One level; ``group`` is the role whose members have it, ``asked_by`` what SQL that needs it has in it."""

    number: int
    title: str
    gives: str
    group: str | None
    asked_by: str

    def grant(self, quoted_role: str) -> str:
        """Return the statements that give this level to a role."""
        return f"grant {self.group} to {quoted_role};" if self.group else files_grant(quoted_role)

    def checks(self) -> tuple[str, ...]:
        """Return the codes of the checks that this level enables, in full or in part, as they say themselves."""
        return tuple(
            code
            for code, check in registry().items()
            if (self.number == 1 and check.sees_sessions)
            or any(re.search(self.asked_by, sql) for sql in check.sql.values())
        )


LEVELS = (
    Level(
        1,
        "sessions and statistics",
        "what other roles' sessions and statements do, replication, sizes, every setting",
        group="pg_monitor",
        asked_by=r"\bpg_ls_\w+|\bpg_stat_replication\b|\bpg_stat_wal_receiver\b",
    ),
    Level(
        2,
        "the server's files",
        "the rules of pg_hba.conf and errors in postgresql.conf, secrets written there too; in this database",
        group=None,
        asked_by="|".join(rf"\b{view}\b" for view in FILES),
    ),
    Level(
        3,
        "user data",
        "sequences, key ranges, bloat and the what-if lab; pg_read_all_data reads every table, password hashes too",
        group="pg_read_all_data",
        asked_by=r"\bhas_(table|column|sequence)_privilege\b|\bpg_stats\b|\bpg_authid\b",
    ),
)
