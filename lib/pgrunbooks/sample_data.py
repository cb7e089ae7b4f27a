"""The sample data: a small healthy shop of about a million rows, and the application that works on it.

Nothing is drawn at random. Each value is a hash of its row's number, and times count back from the start of
the current month (UTC): two databases filled in the same month hold the same rows, on every supported server.
The current month is empty until the application works.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import LiteralString

import psycopg
from psycopg.types.numeric import Int8

ROWS: Mapping[str, int] = {
    "customers": 50_000,
    "products": 5_000,
    "orders": 200_000,
    "events": 140_000,
    "audit_log": 10_000,
}  # about 400,000 order_items and 198,000 payments follow from the orders
_EVENTS_PER_VISIT = 5
_PAUSE_S = 0.01  # between two statements of a client in the background
_RETRY_S = 0.2
_STOP_S = 5.0  # only a server that no longer answers takes that long

_SCHEMA: LiteralString = """
create extension if not exists pg_stat_statements;
create schema shop;

create table shop.customers (
    id bigint generated always as identity primary key,
    email text not null,
    full_name text not null,
    country text not null,
    created_at timestamptz not null default now(),
    deleted_at timestamptz check (deleted_at >= created_at)
);
create table shop.products (
    id bigint generated always as identity primary key,
    sku text not null unique,
    title text not null,
    price numeric(10, 2) not null check (price > 0),
    stock integer not null check (stock >= 0)
);
create table shop.orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null,
    status text not null check (status in ('open', 'paid', 'cancelled', 'refunded')),
    total numeric(12, 2) not null check (total >= 0),
    placed_at timestamptz not null default now()
);
create table shop.order_items (
    order_id bigint not null,
    line_number integer not null check (line_number > 0),
    product_id bigint not null,
    quantity integer not null check (quantity > 0),
    unit_price numeric(10, 2) not null check (unit_price > 0),
    primary key (order_id, line_number)
);
create table shop.payments (
    id bigint generated always as identity primary key,
    order_id bigint not null,
    payment_method text not null check (payment_method in ('card', 'invoice', 'voucher')),
    amount numeric(12, 2) not null check (amount <> 0),
    paid_at timestamptz not null default now()
);
create table shop.events (
    id bigint generated always as identity,
    session_id uuid not null,
    customer_id bigint,
    kind text not null check (kind in ('page_view', 'search', 'cart', 'checkout')),
    url_path text not null,
    occurred_at timestamptz not null default now(),
    primary key (id, occurred_at)
) partition by range (occurred_at);
create table shop.events_default partition of shop.events default;
create table shop.audit_log (
    id bigint generated always as identity primary key,
    actor text not null,
    action text not null,
    table_name text not null,
    row_key bigint not null,
    change jsonb not null,
    recorded_at timestamptz not null default now()
);
create table public.alembic_version (
    version_num varchar(32) not null,
    constraint alembic_version_pkc primary key (version_num)
);
insert into public.alembic_version (version_num) values ('8f3c2d1a9b47');

do $$
declare
    first_day timestamptz;
begin
    for ahead in -6..3 loop
        first_day := date_trunc('month', now()) + make_interval(months => ahead);
        execute format('create table shop.%I partition of shop.events for values from (%L) to (%L)',
            to_char(first_day, '"events_"YYYY_MM'), first_day, first_day + interval '1 month');
    end loop;
end $$;

-- pick: a number from 0 to choices - 1, each as likely; one_of: one of some words.
-- skewed: a number from 1 to choices, the small ones much likelier.
-- moment: when a share (0 to 1) of two years' business is done, growing by the same amount each day.
create function pg_temp.pick(item bigint, salt bigint, choices integer) returns integer language sql immutable
    return ((hashint8extended(item, salt) & 9007199254740991) % choices)::integer;
create function pg_temp.one_of(item bigint, salt bigint, words text) returns text language sql immutable
    return (string_to_array(words, ' '))[
        1 + pg_temp.pick(item, salt, cardinality(string_to_array(words, ' ')))];
create function pg_temp.skewed(item bigint, salt bigint, choices float8) returns bigint language sql immutable
    return 1 + floor(choices * (pg_temp.pick(item, salt, 1 << 30) / (1 << 30)::float8) ^ 2)::bigint;
create function pg_temp.moment(share float8) returns timestamptz language sql stable
    return date_trunc('month', now()) - interval '730 days' * (1 - sqrt(share));
"""

# One tenth of the customers is there before the first order; each has signed up before they order.
_FILL: tuple[LiteralString, ...] = (
    """
    insert into shop.customers (email, full_name, country, created_at, deleted_at)
    select 'Customer' || i || '@example.com',
        pg_temp.one_of(i, 1, 'Ada Ben Chloe Dana Emil Farah Goran Hana Igor Jun Kofi Lena Mira Noor')
            || ' ' || pg_temp.one_of(i, 2, 'Bauer Costa Diaz Evans Garcia Haddad Ito Jones Novak Silva'),
        pg_temp.one_of(i, 3, 'DE DE DE DE DE DE FR FR FR AT AT PL PT NO JP NZ'),
        pg_temp.moment(greatest(0, (i / %(customers)s::float8 - 0.1) / 0.9)) - interval '1 hour',
        case when pg_temp.pick(i, 4, 25) = 0 then date_trunc('month', now()) end
    from generate_series(1, %(customers)s) i
    """,
    """
    insert into shop.products (sku, title, price, stock)
    select 'SKU-' || lpad(i::text, 5, '0'),
        pg_temp.one_of(i, 5, 'Oak Steel Linen Glass Wool Copper Bamboo Paper Marble Cork')
            || ' ' || pg_temp.one_of(i, 6, 'Desk Floor Wall Kitchen Garden Travel Office Bath')
            || ' ' || pg_temp.one_of(i, 7, 'Lamp Chair Shelf Bowl Rug Clock Box Tray Vase Hook Mirror Stool')
            || ' ' || i,
        pg_temp.skewed(i, 8, 400) - pg_temp.one_of(i, 9, '0.01 0.05 0.51')::numeric,
        1000 + pg_temp.pick(i, 10, 9000)
    from generate_series(1, %(products)s) i
    """,
    """
    insert into shop.order_items (order_id, line_number, product_id, quantity, unit_price)
    select order_id, line_number, products.id,
        pg_temp.one_of(order_id * 10 + line_number, 11, '1 1 1 1 1 1 2 2 3 6')::integer, price
    from (
        select order_id, generate_series(1, pg_temp.one_of(order_id, 12, '1 1 1 1 2 2 2 3 3 4')::integer)
        from generate_series(1, %(orders)s) order_id
    ) as lines (order_id, line_number)
    join shop.products on products.id = pg_temp.skewed(order_id * 10 + line_number, 13, %(products)s)
    """,
    """
    insert into shop.orders (customer_id, status, total, placed_at)
    select pg_temp.skewed(order_id, 14, %(customers)s * (0.1 + 0.9 * order_id / %(orders)s::float8)),
        case when order_id > 0.97 * %(orders)s then pg_temp.one_of(order_id, 15, 'open paid paid')
            when pg_temp.pick(order_id, 16, 10) > 0 then 'paid'
            else pg_temp.one_of(order_id, 17, 'cancelled refunded') end,
        sum(quantity * unit_price), pg_temp.moment((order_id - 1) / %(orders)s::float8)
    from shop.order_items group by order_id order by order_id
    """,
    """
    insert into shop.payments (order_id, payment_method, amount, paid_at)
    select id, pg_temp.one_of(id, 18, 'card card card card card card card invoice invoice voucher'),
        total * direction, placed_at + interval '1 day' * days_later
    from shop.orders cross join (values (1, 0), (-1, 3)) as flow (direction, days_later)
    where status = 'refunded' or (status = 'paid' and direction = 1)
    order by 4, id
    """,
    """
    insert into shop.events (session_id, customer_id, kind, url_path, occurred_at)
    select md5('session ' || visit)::uuid,
        case when pg_temp.pick(visit, 19, 2) = 0 then pg_temp.skewed(visit, 20, 0.5 * %(customers)s) end,
        kind,
        case kind when 'page_view' then '/products/' || pg_temp.skewed(i, 21, %(products)s)
            else '/' || kind end,
        date_trunc('month', now()) - interval '180 days' * (1 - (i - 1) / %(events)s::float8)
    from (
        select i, (i - 1) / %(events_per_visit)s,
            pg_temp.one_of(i, 22, 'page_view page_view page_view page_view page_view search cart checkout')
        from generate_series(1, %(events)s) i
    ) as happened (i, visit, kind)
    """,
    """
    insert into shop.audit_log (actor, action, table_name, row_key, change, recorded_at)
    select pg_temp.one_of(i, 23, 'import import import support buyer'), 'update', 'products',
        pg_temp.skewed(i, 24, %(products)s), jsonb_build_object('stock', pg_temp.pick(i, 25, 9000)),
        pg_temp.moment((i - 1) / %(audit_log)s::float8)
    from generate_series(1, %(audit_log)s) i
    """,
)

# After the rows, since one pass over a table is cheaper than a look for each of its rows.
_KEYS: LiteralString = """
create unique index customers_live_email_key on shop.customers (lower(email)) where deleted_at is null;
create index products_search_idx on shop.products using gin (to_tsvector('simple', title));
create index orders_customer_id_placed_at_idx on shop.orders (customer_id, placed_at);
create index orders_open_idx on shop.orders (customer_id, placed_at) where status = 'open';
create index orders_placed_at_idx on shop.orders (placed_at);
create index order_items_product_id_order_id_idx on shop.order_items (product_id, order_id);
create index payments_order_id_idx on shop.payments (order_id);
create index payments_paid_at_idx on shop.payments (paid_at) include (amount);
create index events_session_id_idx on shop.events (session_id, occurred_at);
create index events_customer_id_idx on shop.events (customer_id);
alter table shop.orders add foreign key (customer_id) references shop.customers;
alter table shop.order_items add foreign key (order_id) references shop.orders;
alter table shop.order_items add foreign key (product_id) references shop.products;
alter table shop.payments add foreign key (order_id) references shop.orders;
alter table shop.events add foreign key (customer_id) references shop.customers;
drop function pg_temp.moment, pg_temp.skewed, pg_temp.one_of, pg_temp.pick;
"""


def load(connection: psycopg.Connection) -> None:
    """Create the shop in the current, empty database: all of it or, where a statement fails, nothing.

    Needs an autocommit connection of a superuser, since it ends with VACUUM (ANALYZE) and creates the
    extension pg_stat_statements, which does not count the load. Raises ValueError without autocommit, and
    psycopg.errors.DuplicateSchema where there is a shop already.
    """
    if not connection.autocommit:
        raise ValueError("load needs an autocommit connection, got one that opens transactions")
    connection.execute("set pg_stat_statements.track to none")
    try:
        with connection.transaction():
            connection.execute("set local timezone to 'UTC'")
            connection.execute("set local jit to off")
            connection.execute("set local work_mem to '64MB'")  # nothing spills into temporary files,
            connection.execute("set local max_parallel_maintenance_workers to 0")  # as parallel builds would
            connection.execute(_SCHEMA)
            for statement in _FILL:
                connection.execute(statement, {**ROWS, "events_per_visit": _EVENTS_PER_VISIT})
            connection.execute(_KEYS)
        connection.execute(
            "vacuum (analyze) shop.customers, shop.products, shop.orders, shop.order_items, shop.payments,"
            " shop.events, shop.audit_log, public.alembic_version"
        )
    finally:
        if not connection.closed:
            connection.execute("reset pg_stat_statements.track")


@dataclass(frozen=True)
class Statement:
    """One statement of the shop's application; of a thousand calls ``weight`` are this one."""

    name: str
    weight: int
    sql: LiteralString
    parameters: Callable[[Random], dict[str, object]]


def _skewed(rng: Random, choices: int) -> Int8:
    """Draw a number from 1 to ``choices``, distributed as pg_temp.skewed does in the rows.

    Keys are always sent as bigint: by their size, one statement would become several in pg_stat_statements.
    """
    return Int8(1 + int(choices * rng.random() ** 2))


def _customer(rng: Random) -> dict[str, object]:
    return {"customer_id": _skewed(rng, ROWS["customers"])}


def _order(rng: Random) -> dict[str, object]:
    return {"order_id": Int8(rng.randint(1, ROWS["orders"]))}


def _product(rng: Random) -> dict[str, object]:
    return {"product_id": _skewed(rng, ROWS["products"])}


def _visit(rng: Random) -> dict[str, object]:
    return {"session_id": uuid.UUID(int=rng.getrandbits(128))}


def _earlier_visit(rng: Random) -> dict[str, object]:
    """Name a session of the last month that the rows know."""
    visits = ROWS["events"] // _EVENTS_PER_VISIT
    visit = rng.randrange(visits * 5 // 6, visits)
    return {"session_id": uuid.UUID(hashlib.md5(f"session {visit}".encode()).hexdigest())}


def _basket(rng: Random) -> dict[str, object]:
    products = [_skewed(rng, ROWS["products"]) for _ in range(rng.randint(1, 3))]
    return {**_customer(rng), **_visit(rng), "product_ids": products}


# Each is one transaction and locks one row at most for writing, so that they never deadlock.
STATEMENTS: tuple[Statement, ...] = (
    Statement("customer by e-mail", 180, """
        select id, full_name, country from shop.customers
        where lower(email) = lower(%(email)s) and deleted_at is null""",
        lambda rng: {"email": f"customer{_skewed(rng, ROWS['customers'])}@example.com"}),
    Statement("latest orders of a customer", 50, """
        select id, status, total, placed_at from shop.orders
        where customer_id = %(customer_id)s order by placed_at desc limit 5""",
        _customer),
    Statement("open orders of a customer", 80, """
        select id, total, placed_at from shop.orders
        where customer_id = %(customer_id)s and status = 'open' order by placed_at""",
        _customer),
    Statement("order with its items", 130, """
        select line_number, title, quantity, unit_price
        from shop.order_items join shop.products on products.id = product_id
        where order_id = %(order_id)s order by line_number""",
        _order),
    Statement("payments of an order", 60, """
        select payment_method, amount, paid_at from shop.payments
        where order_id = %(order_id)s order by id""",
        _order),
    Statement("product page", 190, """
        select id, title, price, stock from shop.products where sku = %(sku)s""",
        lambda rng: {"sku": f"SKU-{_skewed(rng, ROWS['products']):05}"}),
    Statement("product search", 60, """
        select sku, title, price from shop.products
        where to_tsvector('simple', title) @@ plainto_tsquery('simple', %(words)s)
        order by price, id limit 20""",
        lambda rng: {"words": rng.choice(("oak lamp", "wool rug", "steel shelf", "glass bowl"))}),
    Statement("latest sales of a product", 20, """
        select order_id, placed_at from shop.order_items join shop.orders on orders.id = order_id
        where product_id = %(product_id)s order by order_id desc limit 10""",
        _product),
    Statement("best sellers of an hour", 3, """
        select product_id, sum(quantity) as sold
        from shop.orders join shop.order_items on order_id = orders.id
        where placed_at >= date_trunc('month', now()) - make_interval(hours => %(hours_ago)s)
            and placed_at < date_trunc('month', now()) - make_interval(hours => %(hours_ago)s - 1)
        group by product_id order by sold desc, product_id limit 10""",
        lambda rng: {"hours_ago": rng.randint(1, 700)}),
    Statement("revenue of a month", 2, """
        select date_trunc('day', paid_at) as day, sum(amount) as revenue from shop.payments
        where paid_at >= date_trunc('month', now()) - make_interval(months => %(months_ago)s)
            and paid_at < date_trunc('month', now()) - make_interval(months => %(months_ago)s - 1)
        group by day order by day""",
        lambda rng: {"months_ago": rng.randint(1, 6)}),
    Statement("place an order", 40, """
        with placed as (
            insert into shop.orders (customer_id, status, total)
            select id, 'paid', (select sum(price) from shop.products where id = any(%(product_ids)s))
            from shop.customers where id = %(customer_id)s and deleted_at is null
            returning id, customer_id, total
        ), filled as (
            insert into shop.order_items (order_id, line_number, product_id, quantity, unit_price)
            select placed.id, row_number() over (order by products.id), products.id, 1, price
            from placed cross join shop.products where products.id = any(%(product_ids)s)
        ), paid as (
            insert into shop.payments (order_id, payment_method, amount) select id, 'card', total from placed
        )
        insert into shop.events (session_id, customer_id, kind, url_path)
        select %(session_id)s, customer_id, 'checkout', '/checkout' from placed""",
        _basket),
    Statement("take from stock", 44, """
        update shop.products set stock = stock - 1 where id = %(product_id)s and stock > 0""",
        _product),
    Statement("page view", 111, """
        insert into shop.events (session_id, kind, url_path) values (%(session_id)s, 'page_view', '/')""",
        _visit),
    Statement("events of a session", 25, """
        select kind, url_path, occurred_at from shop.events
        where session_id = %(session_id)s and occurred_at >= now() - interval '2 months'
        order by occurred_at""",
        _earlier_visit),
    Statement("close an account", 5, """
        with closed as (
            update shop.customers set deleted_at = now() where id = %(customer_id)s and deleted_at is null
            returning id
        )
        insert into shop.audit_log (actor, action, table_name, row_key, change)
        select 'support', 'close', 'customers', id, '{}' from closed""",
        _customer),
)  # fmt: skip


def run_workload(
    dsn: str, *, seconds: float | None = None, calls: int | None = None, clients: int = 2, seed: int = 1
) -> int:
    """Run the statements by weight, each client on its own connection, and return how many were executed.

    Ends after ``seconds`` or after ``calls`` statements of all clients, whichever is first; the same seed,
    calls and clients draw the same statements. Raises ValueError where both are missing, and psycopg.Error
    where a statement fails.
    """
    if seconds is None and calls is None:
        raise ValueError("run_workload needs seconds or calls, got neither")
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    stop = threading.Event()

    def serve(client: int) -> int:
        rng = Random(f"{seed}/{client}")
        turns = itertools.count() if calls is None else range(client, calls, clients)
        executed = 0
        try:
            with _connect(dsn) as connection:
                for _ in turns:
                    if stop.is_set() or time.monotonic() >= deadline:
                        break
                    _execute_one(connection, rng)
                    executed += 1
        except psycopg.Error:
            stop.set()
            raise
        return executed

    with ThreadPoolExecutor(clients) as pool:
        try:
            return sum(pool.map(serve, range(clients)))
        finally:
            stop.set()


@contextlib.contextmanager
def workload(dsn: str, *, clients: int = 2, seed: int = 1) -> Iterator[None]:
    """Run the statements in the background until the block ends, below a hundred a second and client.

    A client that is refused, cancelled, terminated or cut off tries again, as an application does; at the end
    of the block whatever still waits is cancelled. Raises psycopg.OperationalError where no connection can be
    had at the start.
    """
    stop = threading.Event()
    connections: list[psycopg.Connection] = []

    def serve(client: int) -> None:
        rng = Random(f"{seed}/{client}")
        while not stop.wait(_PAUSE_S):
            try:
                if connections[client].closed:
                    connections[client] = _connect(dsn)
                _execute_one(connections[client], rng)
            except psycopg.Error:  # the fault that someone is making just now, and theirs to report
                stop.wait(_RETRY_S)
        connections[client].close()

    threads: list[threading.Thread] = []
    try:
        for client in range(clients):
            connections.append(_connect(dsn))
            threads.append(threading.Thread(target=serve, args=[client], daemon=True))
            threads[client].start()
        yield
    finally:
        stop.set()
        _stop(threads, connections)


def _stop(threads: list[threading.Thread], connections: list[psycopg.Connection]) -> None:
    """Cancel what still runs, again and again since a statement may just be on its way."""
    deadline = time.monotonic() + _STOP_S
    for client, thread in enumerate(threads):
        thread.join(2 * _PAUSE_S)
        while thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.Error):
                connections[client].cancel_safe(timeout=1)
            thread.join(0.1)


def _connect(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, application_name="shop", connect_timeout=5)


def _execute_one(connection: psycopg.Connection, rng: Random) -> None:
    statement = rng.choices(STATEMENTS, [each.weight for each in STATEMENTS])[0]
    connection.execute(statement.sql, statement.parameters(rng))
