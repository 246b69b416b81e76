"""`python -m deployments.tables [--write]`: the READMEs' tables and prefect.yaml, from the code.

Without `--write` it prints them. A test holds that the files show what is printed.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import yaml

import adapters
from adapters.forms import Form
from adapters.privileges import STOCK, Privilege, Stock
from adapters.settings import Settings
from api.codes import MEANINGS
from api.metrics import METRICS
from deployments.codes import codes
from flows.catalog import CATALOG
from flows.outline import Steps, steps_of
from flows.policies.conversion import DIETS
from flows.policies.guests import BUSES
from flows.policies.nics import MODELS
from flows.registration import FIRST_OF_SCHEDULES
from flows.steps import Effect, Step

README = Path(__file__).parent.parent / "README.md"
API_README = README.parent / "api" / "README.md"
PREFECT = Path(__file__).with_name("prefect.yaml")
_NOTE = """\
# Made by `python -m deployments.tables --write`. A worker registers these by itself at its start,
# in the pool of its datacenter (CLOUDLOOM_DATACENTER): nobody has to deploy them.
"""
_SHOWN = {
    Effect.MAKES: "{}",
    Effect.REMOVES: "**{}**",
    Effect.TEMPORARY: "*{}*",
    Effect.STAYS: "{}+",
    Effect.ONCE: "{}!",
}


def flows_table() -> str:
    """Every operation: what it does, its steps in order, and whether there is a way back."""
    rows = ["| operation | what it does | steps | way back |", "|---|---|---|---|"]
    for flow in CATALOG:
        steps = steps_of(flow.body)
        shown = " → ".join(map(_shown, steps)) or "those of that operation, backwards"
        rows.append(
            f"| `{flow.kind}` | {_sentence(flow.summary)} | {shown} | {_way_back(steps)} |"
        )
    return "\n".join(rows)


def adapters_table() -> str:
    """Every adapter of every port, in its own words, and what only some of them can do."""
    rows = ["| port | adapter | what | can |", "|---|---|---|---|"]
    for package in pkgutil.iter_modules(adapters.__path__, "adapters."):
        ports = list(_ports(package.name)) if package.ispkg else []
        for port in ports:
            for adapter in _adapters(package.name, port):
                module = inspect.getmodule(adapter)
                what = _sentence(inspect.getdoc(module) or "").removesuffix(".")
                can = ", ".join(sorted(getattr(adapter, "capabilities", ())))
                link = f"[`{adapter.__name__}`]({adapter.__module__.replace('.', '/')}.py)"
                rows.append(f"| {port.__name__} | {link} | {what} | {can} |")
    return "\n".join(rows)


def formats_table() -> str:
    """What each family of hypervisors boots, what it is given otherwise, and why."""
    rows = ["| family | boots as it is | else becomes | why |", "|---|---|---|---|"]
    for family, diet in DIETS.items():
        boots = ", ".join(f"`{form.value}`" for form in Form if form in diet.boots)
        rows.append(f"| `{family}` | {boots} | `{diet.becomes.value}` | {diet.why} |")
    return "\n".join(rows)


def guests_table() -> str:
    """What each family's VMs can be made of, the fastest first."""
    rows = ["| family | buses of disks | network cards |", "|---|---|---|"]
    for family, buses in BUSES.items():
        shown = [", ".join(f"`{each}`" for each in some) for some in (buses, MODELS[family])]
        rows.append(f"| `{family}` | {shown[0]} | {shown[1]} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric of the API's `/metrics`."""
    rows = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for name, (kind, labels, text) in METRICS.items():
        rows.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |")
    return "\n".join(rows)


def codes_table() -> str:
    """Every problem's code, with the statuses that it comes with; some only operations have."""
    rows = ["| code | status | what it means |", "|---|---|---|"]
    for code, statuses in codes().items():
        shown = ", ".join(map(str, sorted(statuses))) or "in operations"
        rows.append(f"| `{code}` | {shown} | {MEANINGS[code]} |")
    return "\n".join(rows)


def privileges_table() -> str:
    """Every privilege, and which stock roles have it."""
    rows = [f"| privilege | {' | '.join(Stock)} | to |", f"|---|{'---|' * len(Stock)}---|"]
    for each in Privilege:
        has = " | ".join("✓" if each in STOCK[stock] else "" for stock in Stock)
        rows.append(f"| `{each}` | {has} | {each.meaning} |")
    return "\n".join(rows)


def _shown(step: Step[Any, Any]) -> str:
    return _SHOWN[step.effect].format(step.name) if step.question else f"({step.name})"


def _way_back(steps: Steps) -> str:
    acting = [step for step in steps if step.question]
    destructive = [step for step in acting if step.effect is Effect.REMOVES]
    if all(step.effect is Effect.ONCE for step in acting) and acting:
        return "none: begun at most once"
    if not destructive:
        return "undone" if acting else ""
    return "forward-only" if acting[0] in destructive else f"undone, until {destructive[0].name}"


def _ports(package: str) -> Iterator[type]:
    try:
        base = importlib.import_module(f"{package}.base")
    except ModuleNotFoundError:  # the database is no port: there is one schema, on two servers
        return
    for thing in vars(base).values():
        own = isinstance(thing, type) and thing.__module__ == base.__name__
        if own and Protocol in thing.__bases__:
            yield thing


def _adapters(package: str, port: type) -> Iterator[type]:
    promised = {name for name in vars(port) if not name.startswith("_")}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        for thing in vars(importlib.import_module(module.name)).values():
            own = isinstance(thing, type) and thing.__module__ == module.name and thing is not port
            if own and promised <= set(dir(thing)):
                yield thing


def _sentence(text: str) -> str:
    """The first one."""
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0]


TABLES = {
    README: {
        "flows": flows_table,
        "adapters": adapters_table,
        "formats": formats_table,
        "guests": guests_table,
        "metrics": metrics_table,
        "privileges": privileges_table,
    },
    API_README: {"codes": codes_table},
}


def with_tables(page: Path) -> str:
    """A page whose marked places hold its tables."""
    text = page.read_text()
    for name, table in TABLES[page].items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        text = f"{before}{start}\n{table()}\n{end}{after}"
    return text


def prefect_yaml() -> str:
    """The deployments that a worker registers."""
    pool = Settings.model_fields["datacenter"].default
    deployments = [
        {
            "name": pool,
            "flow_name": flow.flow.name,
            "version": flow.version[:12],
            "description": flow.summary,
            "tags": ["cloudloom"],
            "work_pool": {"name": pool, "work_queue_name": str(flow.role)},
            "schedules": [_schedule(flow.schedule)] if flow.schedule else [],
        }
        for flow in CATALOG
    ]
    listed = {"name": "cloudloom", "deployments": deployments}
    return _NOTE + yaml.safe_dump(listed, sort_keys=False, width=99)


def _schedule(every: timedelta) -> dict[str, Any]:
    return {
        "interval": int(every.total_seconds()),
        "anchor_date": FIRST_OF_SCHEDULES.isoformat(),
    }


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        for page in TABLES:
            page.write_text(with_tables(page))
        PREFECT.write_text(prefect_yaml())
    else:
        tables = [table() for tables in TABLES.values() for table in tables.values()]
        print("\n\n".join([*tables, prefect_yaml()]))
