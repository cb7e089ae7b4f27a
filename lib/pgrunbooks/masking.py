"""Query texts without their literals: what a statement does, not whose data it does it to."""

from __future__ import annotations

import re

# PostgreSQL's lexical rules, sections 4.1.2 and 4.1.5: https://www.postgresql.org/docs/18/sql-syntax-lexical.html
# Every alternative also takes a text that ends inside it: pg_stat_activity cuts at track_activity_query_size.
_TOKEN = re.compile(
    r"""
      (?P<comment>  --[^\n]*  |  /\*.*?(?:\*/|\Z) )
    | (?P<escape>   \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) )
    | (?P<string>   (?:\b(?:[nNbBxX]|[uU]&))?'(?:[^']|'')*(?:'|\Z) )
    | (?P<dollar>   (?<![\w$])\$(?P<tag>[^\W\d]\w*|)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<quoted>   "(?:[^"]|"")*(?:"|\Z) )
    | (?P<word>     [^\W\d][\w$]* | \$\d+ )
    | (?P<number>   0[xXoObB][\da-fA-F_]+ | (?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)? )
    """,
    re.VERBOSE | re.DOTALL,
)
_KEPT = {"quoted", "word"}
HIDDEN = "<insufficient privilege>"  # what pg_stat_activity shows in place of a text that the role may not see


def mask(query: str) -> str:
    """Return ``query`` with every string and number replaced by ``?`` and every comment removed.

    Identifiers, quoted ones too, and parameters (``$1``) stay. Works on text that was cut anywhere.
    """

    def replace(match: re.Match[str]) -> str:
        if match.lastgroup in _KEPT:
            return match[0]
        return " " if match.lastgroup == "comment" else "?"

    return " ".join(_TOKEN.sub(replace, query).split())


def command(query: str | None) -> str:
    """Return what a statement is, in capitals, for a sentence: ``'ALTER TABLE'``, ``'SELECT'``, ``'statement'``."""
    words = re.findall(r"[A-Za-z]+", mask(query or ""))[:2]
    if not words or query == HIDDEN:
        return "statement"
    verb = words[0].upper()
    two = {"ALTER", "CREATE", "DROP", "REINDEX"}
    return " ".join(word.upper() for word in words) if verb in two and len(words) == 2 else verb
