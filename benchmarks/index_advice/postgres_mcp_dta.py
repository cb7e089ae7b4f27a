"""Ask postgres-mcp's DTA: a database's URI, a file of weighted statements and a budget in MB in, statements out.

Run with the interpreter of the folder that postgres-mcp is installed in.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from postgres_mcp.index.dta_calc import DatabaseTuningAdvisor
from postgres_mcp.sql import DbConnPool, SqlDriver


async def advised(pool: DbConnPool, asked: list[dict], budget_mb: int) -> dict:
    """Return what it recommends for these statements, its seconds, and the error that stopped it."""
    workload = [
        {"query": it["text"], "queryid": number, "calls": it["weight"], "avg_exec_time": it["mean_ms"]}
        for number, it in enumerate(asked)
    ]
    start = time.monotonic()
    result = await DatabaseTuningAdvisor(SqlDriver(conn=pool), budget_mb).analyze_workload(
        workload=workload, min_calls=0, min_avg_time_ms=0, limit=100, max_index_size_mb=budget_mb
    )
    found = [it.definition for it in result.recommendations]
    return {"seconds": time.monotonic() - start, "indexes": found, "error": result.error, "without": []}


async def main(url: str, file: str, budget_mb: int) -> None:
    """Print what it recommends as JSON; where one statement stops it, without those that stop it alone."""
    pool = DbConnPool(url)
    await pool.pool_connect()
    asked = json.loads(Path(file).read_text(encoding="utf-8"))
    answer = await advised(pool, asked, budget_mb)
    if answer["error"]:
        stopping = [it for it in asked if (await advised(pool, [it], budget_mb))["error"]]
        answer = await advised(pool, [it for it in asked if it not in stopping], budget_mb)
        answer["without"] = [it["name"] for it in stopping]
    print(json.dumps(answer))
    await pool.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
