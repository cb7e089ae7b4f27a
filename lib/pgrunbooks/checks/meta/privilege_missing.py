"""What could this role not see?

A check that may not read what it asks for is skipped, and a skipped check is not a good one: its fault may be there.
One finding names the checks of this run that a grant would have answered, in full or in part, and at most one grant
for each of three levels: pg_monitor, which shows what other sessions do; execute and select on the functions and views
of the server's files, which pg_monitor leaves out; and select on user data, for sequences, key ranges, bloat and the
what-if lab. Where checks ask for different rights on user data, pg_read_all_data stands for all of them. Where no
check was skipped for want of a right this one says nothing, whatever the role may lack.
"""

import re
from collections.abc import Iterable, Sequence

from pgrunbooks.check import Check, Context, Finding, Limits, Outcome, Remedy, Rows
from pgrunbooks.checks._sessions import Row, count
from pgrunbooks.privileges import FILES, LEVELS, files_grant

_ROLE = """
select
    current_user::text as role,
    pg_catalog.quote_ident(current_user) as quoted_role,
    pg_catalog.pg_has_role(current_user, 'pg_monitor', 'usage') as has_monitor,
    pg_catalog.pg_has_role(current_user, 'pg_read_all_data', 'usage') as has_read_all_data
order by 1
"""
SQL = {15: _ROLE}

_LEVELS = {level.number: level for level in LEVELS}


def judge(rows: Rows, limits: Limits, context: Context) -> Iterable[Finding]:
    """Report once which checks lack a right, and the grant for each level that would give it."""
    lacking = [it for it in context.outcomes if it.remedy and it.remedy.lower().startswith("grant ")]
    for row in rows if lacking else ():
        levels = {level: [it for it in lacking if _level(it, row) == level] for level in _LEVELS}
        names = list(dict.fromkeys(it.code for it in lacking))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield Finding(
            severity="info",
            kind="role",
            name=row["role"],
            title=f"Role {row['role']} could not see enough for {count(len(names), 'check')}:"
            f" {', '.join(names[:4])}{more}",
            impact="What these checks look for may be there: nobody has looked.",
            evidence=[
                {
                    "check": it.code,
                    "level": level,
                    "about": _LEVELS[level].title,
                    "outcome": it.outcome,
                    "reason": it.reason,
                }
                for level, some in levels.items()
                for it in some
            ],
            remedies=[_grant(level, some, row) for level, some in levels.items() if some],
        )


def _level(outcome: Outcome, row: Row) -> int:
    remedy = (outcome.remedy or "").lower()
    if any(name in f"{remedy} {outcome.reason}" for name in FILES):
        return 2
    if re.match(r"grant (pg_monitor|pg_read_all_stats|pg_read_all_settings|pg_stat_scan_tables)\b", remedy):
        return 3 if row["has_monitor"] else 1  # it has that already: what it lacks is no statistic
    return 2 if re.match(r"grant (execute|select) on (function )?(pg_catalog\.)?pg_", remedy) else 3


def _grant(level: int, outcomes: Sequence[Outcome], row: Row) -> Remedy:
    """Return the statement that answers all these checks."""
    wanted = list(dict.fromkeys(part for it in outcomes for part in re.split(r"(?<=;)\s+(?=grant )", it.remedy or "")))
    to = f" to {row['quoted_role']};"
    if level == 1:
        wanted = [_LEVELS[1].grant(row["quoted_role"])]
    elif level == 2:
        text = " ".join(f"{it.remedy} {it.reason}" for it in outcomes)
        if views := [view for view, function in FILES.items() if view in text or function in text]:
            wanted = files_grant(row["quoted_role"], views).splitlines()
    elif len(wanted) > 1 or not wanted[0].endswith(to) or "pg_monitor" in wanted[0]:
        wanted = [_LEVELS[3].grant(row["quoted_role"])]
    codes = ", ".join(dict.fromkeys(it.code for it in outcomes))
    undo = [f"revoke {it.removeprefix('grant ').removesuffix(to)} from {row['quoted_role']};" for it in wanted]
    return Remedy(
        f"Level {level}, {_LEVELS[level].title}, for {codes}"
        + (": it lets the role read every table" if "pg_read_all_data" in wanted[0] else ""),
        sql="\n".join(wanted),
        risk="low",
        locks="none",
        undo="\n".join(undo),
    )


check = Check(
    "privilege-missing",
    sql=SQL,
    judge=judge,
    docs=("https://www.postgresql.org/docs/current/predefined-roles.html",),
    runbook="health_check",
)
