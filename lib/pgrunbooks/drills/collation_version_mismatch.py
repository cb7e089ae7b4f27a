"""The operating system was upgraded, and the new library sorts names in another way than the old one did."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Index names by a collation and record another version of it, as the catalog looks after such an upgrade."""
    with Actors(sandbox) as stage:
        heal = ("drop index if exists shop.customers_sorted_idx", "drop collation if exists shop.names")
        for statement in heal:
            stage.watcher.execute(statement)
        stage.heal(*heal)
        versioned = stage.watcher.execute(
            "select collname from pg_collation where collversion is not null"
            " and pg_collation_actual_version(oid) is not null and collencoding in (-1, pg_char_to_encoding('UTF8'))"
            " order by collname like 'de-%' desc, collname limit 1"
        ).fetchone()
        assert versioned is not None
        stage.watcher.execute(sql.SQL("create collation shop.names from {}").format(sql.Identifier(versioned[0])))
        stage.watcher.execute("create index customers_sorted_idx on shop.customers (full_name collate shop.names)")
        stage.watcher.execute("update pg_collation set collversion = '0.1' where oid = 'shop.names'::regcollation")
        yield Incident("collation", "shop.names", "critical")


drill = Drill(
    "collation-version-mismatch",
    symptom="Since the servers were upgraded on Sunday some customers cannot be found by name. They are there.",
    fault=fault,
)
