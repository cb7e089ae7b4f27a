"""TPC-H for the benchmarks of index advice: tables as CSV files, queries as q01.sql to q22.sql, made once and kept.

DuckDB generates them. It lives in an environment of its own below the user's cache folder, which is made when it is
needed; nothing of it comes near the project's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ("duckdb==1.5.5", "duckdb-extension-tpch==1.5.5")
SCHEMA = """
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
_WRITE = """
import sys
from pathlib import Path

import duckdb
import duckdb_extension_tpch

folder, scale = Path(sys.argv[1]), float(sys.argv[2])
connection = duckdb.connect()
connection.execute(f"load '{next(Path(duckdb_extension_tpch.__file__).parent.rglob('tpch.duckdb_extension'))}'")
connection.execute(f"call dbgen(sf = {scale})")
for (table,) in connection.execute("show tables").fetchall():
    connection.execute(f"copy {table} to '{folder / table}.csv' (header false)")
for number, query in connection.execute("select query_nr, query from tpch_queries()").fetchall():
    (folder / f"q{number:02}.sql").write_text(query, encoding="utf-8")
"""


def generated(scale: float) -> Path:
    """Return the folder with the tables and queries of a scale, generated if nobody did."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgrunbooks"
    folder = cache / f"tpch-{scale:g}"
    if not (folder / "q22.sql").exists():
        python = cache / "tpch-environment" / "bin" / "python"
        if not python.exists():
            venv.create(python.parent.parent, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, "-c", _WRITE, folder, str(scale)], check=True)
    return folder


def queries(folder: Path) -> dict[str, str]:
    """Return name -> text of the queries."""
    paths = sorted(folder.glob("q*.sql"))
    return {path.stem: path.read_text(encoding="utf-8").strip().rstrip(";") for path in paths}


if __name__ == "__main__":
    print(generated(float(sys.argv[1])))
