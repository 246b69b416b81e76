"""Looks at hostile files with hardly any CPU time and memory, each in a process of its own.

`python -m tests.refusing` reads lines of JSON (`path`, `format`, `folder`) and answers, for each,
a line with the code of the refusal; `""` is none, and a signal's name how the process ended.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from adapters.errors import AdapterError
from adapters.images.base import ImageTool
from adapters.images.inspect import inspect
from adapters.images.ova import take_apart
from adapters.packages import PACKAGE
from adapters.types import Format

CPU_S = 5
MEMORY_BYTES = 400 * 10**6
MAX_VIRTUAL_MIB = 1024 * 1024
OURS = cast(ImageTool, SimpleNamespace(inspect=inspect))  # no program has a second look


def look(path: Path, form: str, folder: Path) -> str:
    """The code with which it is refused."""
    try:
        if form == PACKAGE:
            take_apart(path, folder, OURS, max_virtual_mib=MAX_VIRTUAL_MIB)
        else:
            inspect(path, Format(form), max_virtual_mib=MAX_VIRTUAL_MIB)
    except AdapterError as error:
        str(error).encode()  # it can be told
        return error.code
    return ""


class Refusing:
    """That process, as tests ask it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.refusing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def ask(self, path: Path, form: str, folder: Path) -> str:
        assert self._process.stdin
        assert self._process.stdout
        asked = {"path": str(path), "form": form, "folder": str(folder)}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return str(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=30)


def _limited(asked: dict[str, Any]) -> str:
    reads, writes = os.pipe()
    if not (child := os.fork()):
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        try:
            code = look(Path(asked["path"]), asked["form"], Path(asked["folder"]))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            code = f"{type(error).__name__}: {error}"
        os.write(writes, code.encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as answer:
        code = answer.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(status).name if os.WIFSIGNALED(status) else code


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(_limited(json.loads(line)))}\n")
        sys.stdout.flush()
