"""Write TPC-H as CSV files, one a table, and its queries as q01.sql to q22.sql, for fidelity.py.

python -m venv aside && aside/bin/pip install duckdb==1.5.5 duckdb-extension-tpch==1.5.5
aside/bin/python benchmarks/index_advice/tpch.py FOLDER SCALE
"""

import sys
from pathlib import Path

import duckdb
import duckdb_extension_tpch


def main(folder: Path, scale: float) -> None:
    """Generate the tables at a scale and write them."""
    folder.mkdir(parents=True, exist_ok=True)
    extension = next(Path(duckdb_extension_tpch.__file__).parent.rglob("tpch.duckdb_extension"))
    connection = duckdb.connect()
    connection.execute(f"load '{extension}'")
    connection.execute(f"call dbgen(sf = {scale})")
    for (table,) in connection.execute("show tables").fetchall():
        connection.execute(f"copy {table} to '{folder / table}.csv' (header false)")
    for number, query in connection.execute("select query_nr, query from tpch_queries()").fetchall():
        (folder / f"q{number:02}.sql").write_text(query, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), float(sys.argv[2]))
