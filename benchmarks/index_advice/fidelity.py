"""How true the what-if lab is: its plans, costs and index sizes beside those of a server that holds the data.

    python benchmarks/index_advice/fidelity.py TPCH_FOLDER [PROGRAMS ...]

Each workload is explained twice on the real server: as it is, and after the indexes of a list were really built there.
The lab is opened before that and gets the same indexes as what-if. TPCH_FOLDER is made by tpch.py; PROGRAMS are the bin
folders of further servers, beside the embedded one. Nothing is tuned for these workloads.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgrunbooks.errors import LabError
from pgrunbooks.lab import Index, Lab, open_lab
from pgrunbooks.sandbox import Sandbox, temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

TPCH = """
create table region (r_regionkey int primary key, r_name char(25), r_comment varchar(152));
create table nation (n_nationkey int primary key, n_name char(25), n_regionkey int, n_comment varchar(152));
create table customer (c_custkey int primary key, c_name varchar(25), c_address varchar(40), c_nationkey int,
    c_phone char(15), c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117));
create table supplier (s_suppkey int primary key, s_name char(25), s_address varchar(40), s_nationkey int,
    s_phone char(15), s_acctbal numeric(15,2), s_comment varchar(101));
create table part (p_partkey int primary key, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25),
    p_size int, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23));
create table partsupp (ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2),
    ps_comment varchar(199), primary key (ps_partkey, ps_suppkey));
create table orders (o_orderkey int primary key, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15,2),
    o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79));
create table lineitem (l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2),
    l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1),
    l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25),
    l_shipmode char(10), l_comment varchar(44), primary key (l_orderkey, l_linenumber));
"""
TPCH_INDEXES = [
    Index("public.lineitem", ("l_shipdate",)),
    Index("public.lineitem", ("l_partkey", "l_quantity")),
    Index("public.lineitem", ("l_suppkey",), include=("l_extendedprice", "l_discount")),
    Index("public.lineitem", ("l_orderkey",), where="l_commitdate < l_receiptdate"),
    Index("public.lineitem", ("l_receiptdate",), method="brin"),
    Index("public.orders", ("o_custkey",)),
    Index("public.orders", ("o_orderdate", "o_orderkey")),
    Index("public.customer", ("c_nationkey",)),
    Index("public.customer", ("c_mktsegment", "c_custkey")),
    Index("public.partsupp", ("ps_suppkey",)),
    Index("public.part", ("p_type text_pattern_ops", "p_size")),
    Index("public.supplier", ("s_nationkey",)),
]
OLTP = """
select * from shop.orders where id = 77
select * from shop.orders where customer_id = 5
select * from shop.orders where customer_id = 5 order by placed_at desc limit 10
select * from shop.orders where status = 'open' order by placed_at limit 50
select * from shop.orders where status = 'cancelled' and total > 900
select * from shop.orders where total between 100 and 105
select * from shop.orders where placed_at >= now() - interval '40 days' and status = 'refunded'
select count(*) from shop.orders where placed_at >= now() - interval '60 days'
select * from shop.customers where email = 'someone@example.org'
select * from shop.customers where lower(email) = 'someone@example.org'
select * from shop.customers where email like 'customer1%' order by email limit 20
select * from shop.customers where country = 'DE' order by created_at desc limit 20
select * from shop.customers where deleted_at is not null
select * from shop.customers where deleted_at is null and full_name = 'Ada'
select * from shop.products where sku = 'x'
select * from shop.products where stock = 0
select * from shop.products where price < 5 order by price
select * from shop.order_items where order_id = 55
select * from shop.order_items where product_id = 55
select sum(quantity) from shop.order_items where product_id = 55
select * from shop.payments where order_id = 55
select * from shop.payments where amount < 0 order by paid_at desc limit 10
select payment_method, sum(amount) from shop.payments where paid_at > now() - interval '30 days' group by 1
select * from shop.events where session_id = '00000000-0000-0000-0000-000000000000'
select * from shop.events where occurred_at >= now() - interval '35 days' order by occurred_at desc limit 20
select o.id, sum(quantity) from shop.orders o join shop.order_items on order_id = o.id where customer_id = 9 group by 1
select c.id, o.id from shop.customers c join shop.orders o on o.customer_id = c.id where c.email like 'customer12%'
select o.* from shop.orders o where not exists (select from shop.payments p where p.order_id = o.id) limit 10
update shop.orders set status = 'paid' where id = 99
delete from shop.payments where order_id = 99
""".strip().splitlines()
OLTP_INDEXES = [
    Index("shop.orders", ("total",)),
    Index("shop.orders", ("status", "placed_at")),
    Index("shop.orders", ("placed_at",), method="brin"),
    Index("shop.customers", ("lower(email)",)),
    Index("shop.customers", ("email text_pattern_ops",)),
    Index("shop.customers", ("country", "created_at desc")),
    Index("shop.customers", ("full_name",), where="deleted_at is null"),
    Index("shop.products", ("price",)),
    Index("shop.order_items", ("product_id",), include=("quantity",)),
    Index("shop.payments", ("order_id",)),
    Index("shop.payments", ("paid_at",), where="amount < 0"),
    Index("shop.events", ("session_id",)),
    Index("shop.events", ("occurred_at",)),
]
SHOP = [f"shop.{it}" for it in ("customers", "products", "orders", "order_items", "payments", "events", "audit_log")]


def shape(tree: Any, names: dict[str, str]) -> list[Any]:
    """Return what a plan does: node types, join types, relations and indexes, each index by its definition."""
    index = tree.get("Index Name")
    words = [tree.get(word) for word in ("Node Type", "Join Type", "Relation Name", "Strategy")]
    return [*words, names.get(index, index), [shape(child, names) for child in tree.get("Plans", ())]]


def definitions(connection: psycopg.Connection) -> dict[str, str]:
    """Return index -> definition without its name, so that a real index and a what-if index compare."""
    rows = connection.execute("select indexname, regexp_replace(indexdef, 'INDEX \\S+ ON', 'INDEX ON') from pg_indexes")
    return dict(rows.fetchall())


def compare(title: str, lab: Lab, real: psycopg.Connection, statements: dict[str, str]) -> None:
    """Print how many plans are the same and how the costs relate; name the statements whose plan differs."""
    theirs, ours = definitions(real), definitions(lab._owner)
    ratios, different, milliseconds = [], [], []
    for name, statement in statements.items():
        tree = real.execute(f"explain (format json, verbose) {statement}".encode()).fetchone()[0][0]["Plan"]
        start = time.perf_counter()
        try:
            plan = lab.explain(statement)
        except LabError as error:
            different.append(f"{name} ({error})")
            continue
        milliseconds.append((time.perf_counter() - start) * 1000)
        ratios.append(plan.cost / tree["Total Cost"])
        if shape(plan.tree, ours) != shape(tree, theirs):
            different.append(f"{name} ({plan.cost / tree['Total Cost']:.3f})")
    same = len(statements) - len(different)
    print(
        f"{title}: {same} of {len(statements)} plans identical; cost lab / real:"
        f" median {statistics.median(ratios):.4f}, least {min(ratios):.3f}, most {max(ratios):.3f};"
        f" explain {statistics.median(milliseconds):.2f} ms"
    )
    if different:
        print(f"    differ (cost ratio): {'; '.join(different)}")


def measure(
    title: str, server: Sandbox, database: str, tables: list[str], statements: dict[str, str], indexes: list[Index]
) -> None:
    """Compare a workload as it is, then with the indexes: what-if in the lab, really built on the server."""
    with server.connect(database) as real, open_session(Target(name="real", dsn=server.url(database))) as session:
        real.execute("set jit = off")
        start = time.perf_counter()
        with open_lab(session, tables) as lab:
            print(
                f"{title}: opened in {time.perf_counter() - start:.2f} s; left out: {dict(lab.left_out) or 'nothing'}"
            )
            compare(f"{title}, as it is", lab, real, statements)
            start = time.perf_counter()
            handles = [lab.add(index) for index in indexes]
            spent = (time.perf_counter() - start) / len(indexes) * 1000
            ratios = []
            for number, (handle, index) in enumerate(zip(handles, indexes, strict=True)):
                real.execute(index.statement(f"real_{number}", concurrently=False).encode())
                schema = index.table.split(".")[0]
                row = real.execute(
                    "select sum(pg_relation_size(relid)) from pg_partition_tree(%s) where isleaf",
                    [f"{schema}.real_{number}"],
                ).fetchone()
                row = (
                    row
                    if row and row[0]
                    else real.execute("select pg_relation_size(%s)", [f"{schema}.real_{number}"]).fetchone()
                )
                ratios.append(lab.size_bytes(handle) / float(row[0]))
            compare(f"{title}, with {len(indexes)} more indexes", lab, real, statements)
            sizes = ", ".join(f"{it:.2f}" for it in sorted(ratios))
            print(
                f"    index size lab / real: median {statistics.median(ratios):.2f}; all: {sizes}; add {spent:.1f} ms"
            )


@contextmanager
def loaded(folder: Path, programs: Path | None) -> Iterator[Sandbox]:
    """Start a server with the shop, and TPC-H in a database of its own."""
    with temporary_sandbox({"autovacuum": "off", "fsync": "off"}, programs=programs) as server:
        with server.connect("postgres") as connection:
            connection.execute("create database tpch")
        with server.connect("tpch") as connection:
            connection.execute(TPCH)
            for path in sorted(folder.glob("*.csv")):
                with connection.cursor().copy(f"copy {path.stem} from stdin (format csv)".encode()) as copy:
                    copy.write(path.read_bytes())
            connection.execute("vacuum analyze")
        yield server


def main() -> None:
    """Run both workloads on every server."""
    folder = Path(sys.argv[1])
    queries = {
        path.stem: path.read_text(encoding="utf-8").strip().rstrip(";") for path in sorted(folder.glob("q*.sql"))
    }
    tables = [f"public.{path.stem}" for path in sorted(folder.glob("*.csv"))]
    for programs in (None, *map(Path, sys.argv[2:])):
        with loaded(folder, programs) as server, server.connect() as connection:
            connection.execute("vacuum analyze")
            version = f"PostgreSQL {connection.info.server_version // 10000}"
            measure(f"{version}, OLTP", server, "shop", SHOP, dict(zip(OLTP, OLTP, strict=True)), OLTP_INDEXES)
            measure(f"{version}, TPC-H", server, "tpch", tables, queries, TPCH_INDEXES)


if __name__ == "__main__":
    main()
