"""Orders are replicated to the warehouse's database, where somebody has typed in one of them by hand."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgrunbooks.drills import Drill, Incident
from pgrunbooks.sandbox import Sandbox, wait_until

NAME = "drill_orders"  # of the subscription, the publication and the slot
SHOP, WAREHOUSE = "drill_shop", "drill_warehouse_copy"


@contextmanager
def fault(sandbox: Sandbox) -> Iterator[Incident]:
    """Replicate one table between two databases of this server; its first change hits a row that is there already."""
    _heal(sandbox)
    try:
        with sandbox.connect() as dba:
            for database in (SHOP, WAREHOUSE):
                dba.execute(f"create database {database}")
            _subscribe(sandbox)
            wait_until(
                dba,
                "select apply_error_count > 0 from pg_stat_subscription_stats where subname = %s",
                [NAME],
                seconds=60,
            )
        yield Incident("subscription", NAME, "critical")
    finally:
        _heal(sandbox)


def _subscribe(sandbox: Sandbox) -> None:
    with sandbox.connect(SHOP) as shop, sandbox.connect(WAREHOUSE) as warehouse:
        for database in (shop, warehouse):
            database.execute("create table orders (id integer primary key, total integer not null)")
        shop.execute(f"create publication {NAME} for table orders")
        # a server that subscribes to itself would wait for itself to make the slot
        shop.execute(f"select pg_create_logical_replication_slot('{NAME}', 'pgoutput')")
        warehouse.execute("insert into orders values (4711, 10)")
        warehouse.execute(
            sql.SQL(
                f"create subscription {NAME} connection {{}} publication {NAME}"
                " with (create_slot = false, copy_data = false)"
            ).format(sandbox.url(SHOP))
        )
        shop.execute("insert into orders values (4711, 20)")


def _heal(sandbox: Sandbox) -> None:
    """Take away whatever there is of it, the subscription before its slot and both before their databases."""
    with sandbox.connect() as dba:
        if dba.execute("select from pg_subscription where subname = %s", [NAME]).fetchone() is not None:
            with sandbox.connect(WAREHOUSE) as warehouse:
                warehouse.execute(f"alter subscription {NAME} disable")
                warehouse.execute(f"alter subscription {NAME} set (slot_name = none)")
                warehouse.execute(f"drop subscription {NAME}")
        _drop_slot(dba)
        for database in (WAREHOUSE, SHOP):
            dba.execute(f"drop database if exists {database} with (force)")


def _drop_slot(dba: psycopg.Connection) -> None:
    wait_until(
        dba, "select not exists (select from pg_replication_slots where slot_name = %s and active)", [NAME]
    )  # its worker may be just ending
    dba.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", [NAME])


drill = Drill(
    "subscription-failing",
    symptom="The warehouse packs nothing since this morning: no new order reaches its database. The shop sells.",
    fault=fault,
)
