"""Every code that the source can answer or record, with its statuses; found, not listed."""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.errors import AdapterError
from api.errors import PLAIN, status_of

ROOT = Path(__file__).parent.parent
_CLIENTS = {
    "cli.py",
    "client.py",
    "command_line.py",
    "infrastructure_verbs.py",
    "terminal.py",
}  # what they say, no server does
_PROBLEMS = {"Problem", "problem"}
_SHAPE = re.compile(r"[a-z*]+(-[a-z0-9*]+)*")
Found = Iterator[tuple[str, int | None]]


def codes() -> dict[str, set[int]]:
    """The codes; `*` stands for what is only known at run time, such as a noun."""
    found: dict[str, set[int]] = defaultdict(set)
    for status, code in PLAIN.items():
        found[code].add(status)
    for package in ("api", "flows", "adapters"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name not in _CLIENTS and "migrations" not in path.parts:
                for code, status in _codes_of(path):
                    found[code] |= {status} - {None}
    return {code: found[code] for code in sorted(found) if _SHAPE.fullmatch(code)}


def _codes_of(path: Path) -> Found:
    tree = ast.parse(path.read_text())
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in ast.walk(tree):
        for text, status in _told(node, vars(module)):
            yield from ((code, status) for code in _texts(text, tree))


def _told(node: ast.AST, names: dict[str, Any]) -> Iterator[tuple[ast.expr, int | None]]:
    """The expressions in a place where a code is, and the status that goes with them."""
    match node:
        case ast.Call(func=ast.Name(id=called), args=args, keywords=named):
            yield from ((k.value, _status(names.get(called))) for k in named if k.arg == "code")
            if called in _PROBLEMS and isinstance(args[0], ast.Constant):
                yield args[1], args[0].value
        case ast.ClassDef(name=name, body=body):
            lines = [line for line in body if isinstance(line, ast.Assign)]
            status = _status(names.get(name))
            yield from ((x.value, status) for x in lines if _name(x.targets[0]) == "code")
        case ast.Assign(targets=[ast.Name(id="_CODES")], value=ast.Dict(values=values)):
            yield from ((value, None) for value in values)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield value, None


def _texts(node: ast.expr, tree: ast.Module) -> Iterator[str]:
    """What an expression can be; of a variable called `code`, what this module assigns to one."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in parts)
        case ast.IfExp(body=body, orelse=other):
            yield from _texts(body, tree)
            yield from _texts(other, tree)
        case ast.Name(id="code"):
            for each in ast.walk(tree):
                if isinstance(each, ast.Assign) and _name(each.targets[0]) == "code":
                    yield from _texts(each.value, tree)


def _name(target: ast.expr) -> str:
    return target.id if isinstance(target, ast.Name) else ""


def _status(kind: object) -> int | None:
    if not (isinstance(kind, type) and issubclass(kind, AdapterError)):
        return None
    return status_of(kind.__new__(kind))
