"""The function that sorts part numbers was changed, and the index is still sorted as the old one did."""

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbooks.drills import Actors, Drill, Incident
from pgrunbooks.sandbox import Sandbox

_COMPARE = """
create or replace function shop.compare_part_numbers(text, text) returns integer
language sql immutable strict parallel safe as $$ select pg_catalog.bttextcmp({}) $$
"""


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Build an index with an operator class of one's own, then turn the order of that round, as an upgrade can."""
    with Actors(sandbox) as stage:
        heal = (
            "drop table if exists shop.parts",
            "drop operator family if exists shop.part_numbers using btree cascade",
            "drop function if exists shop.compare_part_numbers",
        )
        for statement in heal:
            stage.watcher.execute(statement)
        found = stage.watcher.execute("select from pg_extension where extname = 'amcheck'").fetchone()
        if found is None:
            stage.watcher.execute("create extension amcheck")
            stage.heal("drop extension if exists amcheck")
        stage.heal(*heal)
        stage.watcher.execute(_COMPARE.format("$1, $2"))
        stage.watcher.execute(
            "create operator class shop.part_numbers for type text using btree as"
            " operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >,"
            " function 1 shop.compare_part_numbers(text, text)"
        )
        stage.watcher.execute("create table shop.parts as select 'P' || i as number from generate_series(1, 2000) as i")
        stage.watcher.execute("create index parts_number_idx on shop.parts (number shop.part_numbers)")
        stage.watcher.execute(_COMPARE.format("$2, $1"))
        yield Incident("index", "shop.parts_number_idx", "critical")


drill = Drill(
    "index-corruption",
    symptom="A part cannot be found by its number. The list of all parts has it. Since the upgrade of last week.",
    fault=fault,
)
