"""The peer of `list_25k`: FastAPI and PyMySQL with nothing between, answering the same VMs."""

import json
import os
from typing import Any

import pymysql
from fastapi import FastAPI, Request
from sqlalchemy import make_url

_URL = make_url(os.environ["BENCH_DATABASE"])
_PAGE = """
SELECT vms.* FROM vms
JOIN appliances ON appliances.id = vms.appliance_id
JOIN virtual_datacenters ON virtual_datacenters.id = appliances.virtual_datacenter_id
WHERE virtual_datacenters.enterprise_id = %s {where}
ORDER BY vms.name, vms.id LIMIT 101
"""
_FIELDS = ("name", "state", "host_id", "template_id", "appliance_id")
connection = pymysql.connect(
    host=_URL.host,
    port=_URL.port or 3306,
    user=_URL.username,
    database=_URL.database,
    autocommit=True,
    cursorclass=pymysql.cursors.DictCursor,
)
app = FastAPI()


@app.get("/vms")
async def vms(request: Request, enterprise: str) -> list[dict[str, Any]]:
    """A page of VMs with their disks and interfaces: three statements."""
    asked = [
        (field, request.query_params[field]) for field in _FIELDS if field in request.query_params
    ]
    where = "".join(f" AND vms.{field} = %s" for field, _ in asked)
    rows = _all(_PAGE.format(where=where), [enterprise, *(value for _, value in asked)])[:100]
    if not rows:
        return []
    ids = [row["id"] for row in rows]
    marks = ", ".join(["%s"] * len(ids))
    parts: dict[str, dict[str, list[Any]]] = {}
    for table in ("disks", "nics"):
        parts[table] = {}
        for each in _all(f"SELECT * FROM {table} WHERE vm_id IN ({marks})", ids):
            parts[table].setdefault(each["vm_id"], []).append(each)
    for row in rows:
        row["depends_on"] = json.loads(row["depends_on"])
        row.update({table: found.get(row["id"], []) for table, found in parts.items()})
    return rows


def _all(statement: str, values: list[Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())
