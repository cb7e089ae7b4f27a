"""How true the what-if lab is: its plans, costs and index sizes beside those of a server that holds the data.

    python benchmarks/index_advice/fidelity.py [PROGRAMS ...]

Each workload is explained twice on the real server: as it is, and after the indexes of a list were really built there.
The lab is opened before that and gets the same indexes as what-if. PROGRAMS are the bin folders of further servers,
beside the embedded one; each is compared with a lab of its own version and with the embedded one. It writes
benchmarks/results/fidelity.md. Nothing is tuned for these workloads.
"""

import datetime
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import tpch

from pgrunbooks.lab import Index, Lab, open_lab
from pgrunbooks.sandbox import Sandbox, server_programs, temporary_sandbox
from pgrunbooks.session import open_session
from pgrunbooks.targets import Target

SCALE = 0.1
RESULTS = Path(__file__).parents[1] / "results" / "fidelity.md"
PAGE = """# How true the what-if lab is

    {command}

{day}, PostgreSQL {versions}, {cores} cores that others may use too (load {load}). The real server holds the data: a
shop of an online business with 30 statements, and TPC-H at scale {scale} with its 22 queries. The lab has statistics
only. A plan is identical where all its nodes, join types, relations and indexes are; 'same scans' counts plans that
read every relation in the same way, whatever stands above. Costs are lab / real.

| server and workload | plans identical | same scans | cost, median | least | most | explain, ms | others (cost) |
| --- | --- | --- | ---: | ---: | ---: | ---: | --- |
{plans}

Sizes of the indexes that were added, lab / real:

| server and workload | indexes | median | least | most | all together | opened in s | add, ms | off by more than 5 % |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
{sizes}

The lab is a server of the source's major version where this machine has its programs, as a distribution's packages put
them; elsewhere it is the embedded PostgreSQL 18, with the settings off that an older server lacks. Whether a plan of
that one differs because of its version, or because the lab has no data, is asked of a PostgreSQL 18 that holds the same
data, with the same settings off. Where it plans as the lab does, the planner's version is the reason: {explained}.

| server and workload | statement | cost, lab / real | cost, 18 with data / real | 18 with data plans as |
| --- | --- | ---: | ---: | --- |
{reasons}
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


def scans(tree: Any, names: dict[str, str]) -> list[list[Any]]:
    """Return only how a plan reads its relations."""
    index = tree.get("Index Name")
    words = [tree.get(word) for word in ("Node Type", "Relation Name")]
    own = [[*words, names.get(index, index)]] if index or words[1] else []
    return sorted([*own, *(it for child in tree.get("Plans", ()) for it in scans(child, names))], key=str)


def definitions(connection: psycopg.Connection) -> dict[str, str]:
    """Return index -> definition without its name, so that a real index and a what-if index compare."""
    rows = connection.execute("select indexname, regexp_replace(indexdef, 'INDEX \\S+ ON', 'INDEX ON') from pg_indexes")
    return dict(rows.fetchall())


@dataclass
class Newest:
    """What PostgreSQL 18 with the data plans while settings that an older server lacks are off, and who plans so too.

    ``plans`` is (workload, statement) -> plan; ``reasons`` are rows of the table of plans that differ.
    """

    older: Sequence[Path]
    plans: dict[tuple[str, str], Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def look(self, workload: str, real: psycopg.Connection, statements: dict[str, str]) -> None:
        """Keep the plans of a server of that version."""
        for name in _unknown_settings(real, self.older):
            real.execute(f"set {name} = off".encode())
        for name, statement in statements.items():
            self.plans[workload, name] = (explained(real, statement), definitions(real))
        for name in _unknown_settings(real, self.older):
            real.execute(f"reset {name}".encode())

    def compare(self, version: str, workload: str, name: str, lab: Any, real: Any) -> None:
        """Note whom the newest server with data agrees with; both are (plan, definitions of indexes)."""
        tree, _ = newest = self.plans[workload, name]
        costs = [each["Total Cost"] / real[0]["Total Cost"] for each in (lab[0], tree)]
        agrees = [who for who, other in (("lab", lab), (version, real)) if shape(*other) == shape(*newest)]
        self.reasons.append(
            f"| {version}, {workload} | {name} | {costs[0]:.3f} | {costs[1]:.3f} | {', '.join(agrees) or 'neither'} |"
        )


def _unknown_settings(real: psycopg.Connection, older: Sequence[Path]) -> list[str]:
    """Return the planner's switches of a server that any of the older programs lacks."""
    switches = {row[0] for row in real.execute("select name from pg_settings where name like 'enable\\_%'").fetchall()}
    unknown: set[str] = set()
    for programs in older:
        told = subprocess.run([programs / "postgres", "--describe-config"], capture_output=True, text=True, check=True)
        unknown |= switches - {line.split("\t")[0] for line in told.stdout.splitlines()}
    return sorted(unknown)


def explained(real: psycopg.Connection, statement: str) -> Any:
    """Return the plan of a server that holds the data."""
    return real.execute(f"explain (format json, verbose) {statement}".encode()).fetchone()[0][0]["Plan"]


def compare(
    version: str, workload: str, lab: Lab, real: psycopg.Connection, statements: dict[str, str], newest: Newest
) -> Iterator[str]:
    """Yield a row of the table: how many plans are the same and how the costs relate; then the plans that differ."""
    if real.info.server_version >= 180000:
        newest.look(workload, real, statements)
    version = _labelled(version, lab)
    theirs, ours = definitions(real), definitions(lab._owner)
    ratios, different, milliseconds = [], [], []
    other_scans = 0
    for name, statement in statements.items():
        tree = explained(real, statement)
        start = time.perf_counter()
        plan = lab.explain(statement)
        milliseconds.append((time.perf_counter() - start) * 1000)
        ratios.append(plan.cost / tree["Total Cost"])
        other_scans += scans(plan.tree, ours) != scans(tree, theirs)
        if shape(plan.tree, ours) != shape(tree, theirs):
            different.append(f"{name} ({ratios[-1]:.3f})")
            newest.compare(version, workload, name, (plan.tree, ours), (tree, theirs))
    count = len(statements)
    same = count - len(different)
    yield (
        f"| {version}, {workload} | {same} of {count} ({same / count:.0%}) | {count - other_scans} of {count} | "
        f"{statistics.median(ratios):.4f} | {min(ratios):.3f} | {max(ratios):.3f} | "
        f"{statistics.median(milliseconds):.1f} | {'; '.join(different)} |"
    )


def _labelled(version: str, lab: Lab) -> str:
    return f"{version}, lab of {lab.major}"


def measure(
    version: str,
    workload: str,
    server: Sandbox,
    database: str,
    tables: list[str],
    statements: dict[str, str],
    indexes: list[Index],
    newest: Newest,
) -> tuple[list[str], list[str]]:
    """Compare a workload as it is, then with the indexes: what-if in the labs, really built on the server.

    Returns rows of the table of plans and of the table of sizes.
    """
    plans, sizes = [], []
    with (
        server.connect(database) as real,
        open_session(Target(name="real", dsn=server.url(database))) as session,
        ExitStack() as held,
    ):
        real.execute("set jit = off")
        labs, opened = [], []
        for programs in dict.fromkeys([server.programs, server_programs()]):
            start = time.perf_counter()
            labs.append(held.enter_context(open_lab(session, tables, [programs])))
            opened.append(time.perf_counter() - start)
        for lab in labs:
            plans += compare(version, f"{workload}, as it is", lab, real, statements, newest)
        for number, index in enumerate(indexes):
            real.execute(index.statement(f"real_{number}", concurrently=False).encode())
        for table in sorted({it.table for it in indexes if any("(" in key for key in it.keys)}):
            real.execute(f"analyze {table}".encode())  # the lab takes the expressions of a new index as analyzed
        for lab, seconds in zip(labs, opened, strict=True):
            sizes.append(_sizes(_labelled(version, lab) + f", {workload}", lab, real, indexes, seconds))
            more = f"{workload}, with {len(indexes)} more indexes"
            plans += compare(version, more, lab, real, statements, newest)
    return plans, sizes


def _sizes(title: str, lab: Lab, real: psycopg.Connection, indexes: Sequence[Index], opened: float) -> str:
    """Add the indexes in the lab too, and return a row of the table of sizes."""
    start = time.perf_counter()
    handles = [lab.add(index) for index in indexes]
    spent = (time.perf_counter() - start) / len(indexes) * 1000
    sizes = []
    for number, (handle, index) in enumerate(zip(handles, indexes, strict=True)):
        name = f"{index.table.split('.')[0]}.real_{number}"
        row = real.execute(
            "select sum(pg_relation_size(i.oid)) from pg_class as i where i.relkind = 'i'"
            " and (i.oid = %s::regclass or i.oid in (select relid from pg_partition_tree(%s::regclass)))",
            [name, name],
        ).fetchone()
        sizes.append((float(row[0]), lab.size_bytes(handle) / float(row[0]), index.statement(concurrently=False)))
    total = sum(size * ratio for size, ratio, _ in sizes) / sum(size for size, _, _ in sizes)
    off = [f"`{it[2]}` {it[1]:.2f} of {it[0] / 2**20:.2f} MB" for it in sizes if not 0.95 <= it[1] <= 1.05]
    ratios = [it[1] for it in sizes]
    row = f"| {title} | {len(sizes)} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} | "
    return f"{row}{total:.3f} | {opened:.2f} | {spent:.0f} | {'; '.join(off)} |"


@contextmanager
def loaded(folder: Path, programs: Path | None) -> Iterator[Sandbox]:
    """Start a server with the shop, and TPC-H in a database of its own."""
    with temporary_sandbox({"autovacuum": "off", "fsync": "off"}, programs=programs) as server:
        with server.connect("postgres") as connection:
            connection.execute("create database tpch")
        with server.connect("tpch") as connection:
            connection.execute(tpch.SCHEMA)
            for path in sorted(folder.glob("*.csv")):
                with connection.cursor().copy(f"copy {path.stem} from stdin (format csv)".encode()) as copy:
                    copy.write(path.read_bytes())
            connection.execute("vacuum analyze")
        yield server


def main() -> None:
    """Run both workloads on every server, and write the page."""
    folder = tpch.generated(SCALE)
    queries = tpch.queries(folder)
    tables = [f"public.{path.stem}" for path in sorted(folder.glob("*.csv"))]
    plans: list[str] = []
    sizes: list[str] = []
    versions = []
    older = [Path(it) for it in sys.argv[1:]]
    newest = Newest(older)
    for programs in (None, *older):
        with loaded(folder, programs) as server, server.connect() as connection:
            connection.execute("vacuum analyze")
            version = f"PostgreSQL {connection.info.server_version // 10000}"
            versions.append(connection.info.parameter_status("server_version"))
            for found in (
                measure(version, "OLTP", server, "shop", SHOP, {it: it for it in OLTP}, OLTP_INDEXES, newest),
                measure(version, "TPC-H", server, "tpch", tables, queries, TPCH_INDEXES, newest),
            ):
                plans += found[0]
                sizes += found[1]
    text = PAGE.format(
        command=" ".join(["python benchmarks/index_advice/fidelity.py", *sys.argv[1:]]),
        day=datetime.date.today(),
        versions=", ".join(map(str, versions)),
        load=f"{os.getloadavg()[1]:.1f}",
        cores=os.cpu_count(),
        scale=SCALE,
        plans="\n".join(plans),
        sizes="\n".join(sizes),
        explained=f"so it is for {sum('| lab |' in it for it in newest.reasons)} of {len(newest.reasons)} plans",
        reasons="\n".join(newest.reasons),
    )
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
