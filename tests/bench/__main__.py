"""`make bench [ROWS="convert export"]`: ours beside its floor, in one run, as a ratio.

Prints a table and writes `build/bench.json`: a list of {"row", "unit", "runs", "ours", "peer",
"peer_name", "ratio"} with medians; `size` where cost might grow with it. Nothing here asserts.
Every row runs in a process of its own: what one has imported and set is not the next one's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deployments.lab.scratch import scratch
from tests.bench import bytes as of_bytes
from tests.bench import captures, deploys, engine, lists, networks, uploads, vsphere
from tests.bench.measuring import Row

OUT = Path("build/bench.json")
ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "export": of_bytes.bench_export,
    "convert": of_bytes.bench_convert,
    "clone": of_bytes.bench_clone,
    "capture": captures.bench_capture,
    "upload": uploads.bench_upload,
    "deploy_1": deploys.bench_deploy_1,
    "deploy_20": deploys.bench_deploy_20,
    "deploy_vsphere": vsphere.bench_deploy_vsphere,
    "dhcp": networks.bench_dhcp,
    "first_step": engine.bench_first_step,
    "steps": engine.bench_steps,
    "deploy_1000": engine.bench_deploy_1000,
    "recover": engine.bench_recover,
    "list_25k": lists.bench_list_25k,
}


def main() -> None:
    """Measure the rows that ROWS names, or all."""
    wanted = os.environ.get("ROWS", "").split() or list(ROWS)
    if unknown := set(wanted) - ROWS.keys():
        sys.exit(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    results: list[Row] = []
    for name in wanted:
        done = subprocess.run([sys.executable, "-m", "tests.bench", "--row", name], check=False)
        if done.returncode:
            sys.exit(f"row {name} ended with {done.returncode}")
        results += json.loads(_part(name).read_text())
    table = Table("row", "size", "runs", "ours s", "peer s", "peer", "ratio")
    for each in results:
        shown = ("row", "size", "runs", "ours", "peer", "peer_name", "ratio")
        told = {**each, "size": ", ".join(str(each[x]) for x in ("filter", "size") if x in each)}
        table.add_row(*(str(told.get(key, "")) for key in shown))
    Console().print(table)
    OUT.write_text(json.dumps(results, indent=1) + "\n")


def measure(name: str) -> None:
    """Measure one row."""
    with scratch("clbench") as folder:
        rows = list(ROWS[name](folder))
    OUT.parent.mkdir(exist_ok=True)
    _part(name).write_text(json.dumps(rows))


def _part(name: str) -> Path:
    return OUT.with_suffix(f".{name}.json")


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--row"] else main()
