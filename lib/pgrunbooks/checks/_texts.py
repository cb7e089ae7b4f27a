"""The text of another session's statement, which may be in the encoding of another database."""

# A server hands out the text of every session as the bytes that it came in. Where those are no text in the encoding of
# our database, left(), a regular expression or the driver refuses them, and with them the rows of everybody else. So
# whatever is not surely in our encoding is written out: 'caf\351', and a backslash twice.
_QUERY = r"""case
        when (select d.encoding from pg_catalog.pg_database as d where d.oid = a.datid)
            = pg_catalog.pg_char_to_encoding(pg_catalog.getdatabaseencoding())
        then pg_catalog.left(a.query, 10000)
        else pg_catalog.encode(pg_catalog.substr(pg_catalog.textsend(a.query), 1, 10000), 'escape')
    end"""


def with_query(sql: str) -> str:
    """Return ``sql`` with every ``{query}`` replaced by the readable start of the text of ``a``, a row of
    pg_stat_activity.
    """
    return sql.replace("{query}", _QUERY)
