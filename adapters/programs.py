"""External programs: bounded, stoppable, and gone when the process that runs them is.

Every program runs in a session of its own behind `setpriv --pdeathsig KILL` and `prlimit`.
The kernel fires that signal when the *thread* that forked dies, so threads that live as long
as the process fork them all. What it cannot cover (a runner killed between its fork and
setpriv's first act) `end_others` does: a program's environment names its runner.
"""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from queue import SimpleQueue
from typing import BinaryIO

import psutil
import sh

from adapters.errors import AdapterError, Transient, Unsupported
from adapters.settings import settings

RUNNER = "CLOUDLOOM_RUNNER"
runner: ContextVar[str] = ContextVar("runner", default="")  # "<operation>/<epoch>" in a saga

_KILLED_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
_ANY_EXIT_CODE = tuple(range(-signal.NSIG, 256))  # we look at it ourselves
_STDERR_LINES = 1000  # a hostile image can make a tool complain without end
_SPAWNERS = 2
_LOOKS = 10  # at a program, until it is held to do nothing any more
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class ProgramFailed(AdapterError):
    """A program ended badly by itself; whoever called it knows what that means."""

    code = "program-failed"

    def __init__(self, program: str, exit_code: int, stderr: str) -> None:
        super().__init__(f"{program} ended with {exit_code}: {stderr.strip() or 'no message'}")
        self.exit_code = exit_code  # negative: the signal
        self.stderr = stderr


class Stopped(Transient):
    """A program was ended before its time: by `stop_all`, a time-out, or somebody else."""

    code = "stopped"


class _Program:
    """A program that runs or is about to; stopping it before it started keeps it from starting."""

    def __init__(self, name: str, of: str) -> None:
        self.name = name
        self.runner = of
        self.stopped = ""  # why
        self.ended = threading.Event()
        self._command: sh.RunningCommand | None = None
        self._lock = threading.Lock()

    def start(
        self, arguments: list[str], stdin: BinaryIO, stdout: int, env: dict[str, str]
    ) -> None:
        with self._lock:
            if self.stopped:
                raise Stopped(f"{self.name}: {self.stopped}")
            self._command = _setpriv()(
                *arguments,
                _in=stdin,
                _out=stdout,
                _env=env,
                _bg=True,
                _bg_exc=False,
                _new_session=True,
                _ok_code=_ANY_EXIT_CODE,
                _internal_bufsize=_STDERR_LINES,
                _no_pipe=True,
                _return_cmd=True,
            )

    def wait(self) -> tuple[int, str]:
        """The exit code and the last lines of stderr, once it has ended."""
        if self._command is None:
            return 0, ""
        self._command.wait()
        process = self._command.process
        return process.exit_code or 0, process.stderr.decode(errors="replace")

    def stop(self, why: str) -> None:
        with self._lock:
            if self.stopped:
                return
            self.stopped = why
            if self._command is not None and self._command.is_alive():
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(self._command.process.pid, signal.SIGKILL)

    def watch(self, stalled_s: float) -> None:
        """Stop it once it has done next to nothing for so long.

        It is looked at ten times: a machine that stands still, and its clock with a leap behind
        it, is no fault of the program's.
        """
        work, still = 0.0, 0
        while not self.ended.wait(stalled_s / _LOOKS):
            if (done := self._work()) >= work + 1:
                work, still = done, 0
            elif (still := still + 1) > _LOOKS:
                self.stop(f"did nothing for {stalled_s} s")
                return

    def _work(self) -> float:
        """What it has done so far: tenths of CPU seconds, and 64 KiB of data read or written."""
        if self._command is None:
            return 0.0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._command.process.pid)
            io, cpu = process.io_counters(), process.cpu_times()
            return (io.read_chars + io.write_chars) / 2**16 + (cpu.user + cpu.system) * 10
        return 0.0


class _Spawner:
    """Forks for everybody: two can look at an image at once. Its threads live as long as we do."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[None], Callable[[], None]]] = SimpleQueue()
        for number in range(_SPAWNERS):
            threading.Thread(target=self._run, name=f"spawner-{number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            future, job = self._jobs.get()
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                future.set_exception(error)
            else:
                future.set_result(None)

    def do(self, job: Callable[[], None]) -> None:
        future: Future[None] = Future()
        self._jobs.put((future, job))
        future.result()


@cache
def _setpriv() -> sh.Command:
    """Found once: looking for it is a fifth of what starting it takes."""
    return sh.Command("setpriv")


_lock = threading.Lock()
_programs: set[_Program] = set()
_spawners: list[_Spawner] = []  # one, once it is needed


def _forget_parent() -> None:
    """A forked child runs none of its parent's programs, and its spawner stayed behind."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _programs.clear()
    _spawners.clear()


os.register_at_fork(after_in_child=_forget_parent)


def _spawner() -> _Spawner:
    with _lock:
        if not _spawners:
            _spawners.append(_Spawner())
        return _spawners[0]


def run(
    program: str,
    *arguments: str | os.PathLike[str],
    on_output: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float | None = None,
    stalled_s: float | None = None,
    cpu_s: float | None = None,
    memory_mib: int | None = None,
) -> str:
    r"""Run a program to its end and answer what it printed.

    `on_output` is given each line (ended by \n or \r) as it comes, in the caller's thread. The
    program sees a bare environment, `env` and its runner; secrets go through `stdin`, a file in
    memory. One that neither computes nor moves data for `stalled_s` is ended: qemu would wait for
    a lost iSCSI target for ever. Raises `ProgramFailed`, `Stopped`, and `Unsupported` where the
    program is not installed.
    """
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise Unsupported(f"{program} is not installed")
    limits = settings()
    cpu = int(cpu_s or limits.program_timeout_s) or 1
    memory = (memory_mib or limits.program_memory_mib) * 2**20
    wrapped = ["--pdeathsig", "KILL", "--", "prlimit", f"--as={memory}", f"--cpu={cpu}:{cpu + 5}"]
    wrapped += ["--core=0", "--", path, *(os.fspath(argument) for argument in arguments)]
    environment = {
        "PATH": _PATH,
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C",
        "MALLOC_ARENA_MAX": "2",  # an arena a thread would eat the address space
        **(env or {}),
        RUNNER: runner.get(),
    }
    running = _Program(program, environment[RUNNER])
    with _lock:
        _programs.add(running)
    timer = threading.Timer(timeout_s or 0, running.stop, [f"ended after {timeout_s} s"])
    output: list[str] = []
    try:
        if timeout_s is not None:
            timer.start()
        if stalled_s is not None:
            threading.Thread(target=running.watch, args=[stalled_s], daemon=True).start()
        for line in _lines(running, wrapped, stdin, environment):
            (on_output or output.append)(line)
        exit_code, stderr = running.wait()
    except BaseException:
        running.stop("its caller gave up")
        running.wait()
        raise
    finally:
        running.ended.set()
        timer.cancel()
        with _lock:
            _programs.discard(running)
    if running.stopped:
        raise Stopped(f"{program}: {running.stopped}")
    if exit_code in _KILLED_FROM_OUTSIDE:
        raise Stopped(f"{program}: ended by {signal.Signals(-exit_code).name}")
    if exit_code:
        raise ProgramFailed(program, exit_code, stderr)
    return "".join(output)


def _lines(
    running: _Program, wrapped: list[str], stdin: str, environment: dict[str, str]
) -> Iterator[str]:
    """Start the program and give its output, line by line, until it closes it."""
    readable, writable = os.pipe()
    try:
        try:
            with open(os.memfd_create("stdin"), "w+b") as source:  # noqa: PTH123 - it has no path
                source.write(stdin.encode())
                source.seek(0)
                _spawner().do(lambda: running.start(wrapped, source, writable, environment))
        finally:
            os.close(writable)
        rest = ""
        while chunk := os.read(readable, 65536):
            *lines, rest = re.split(r"(?<=[\r\n])", rest + chunk.decode(errors="replace"))
            yield from lines
        if rest:
            yield rest
    finally:
        os.close(readable)


def stop_all(runner_text: str) -> None:
    """Kill every program that this process runs for that runner; their callers get `Stopped`.

    What is started afterwards runs: whoever stops an operation raises its flag first.
    """
    with _lock:
        programs = [program for program in _programs if program.runner == runner_text]
    for program in programs:
        program.stop("its operation was stopped")


def end_others(operation_id: str, keep_epoch: int, *, within_s: float = 10.0) -> None:
    """Kill what older runners of an operation have left running on this machine, and wait.

    Raises `Transient` when something of it is still there after `within_s`.
    """
    if keep_epoch <= 1:  # the first runner has no older ones; all processes are many to look at
        return
    deadline = time.monotonic() + within_s
    left: set[psutil.Process] = set()
    while left := {process for process in left if _is_alive(process)} | {
        process
        for process in psutil.process_iter()
        if _is_older(process, operation_id, keep_epoch)
    }:
        if time.monotonic() > deadline:
            pids = sorted(process.pid for process in left)
            raise Transient(f"programs of {operation_id} do not end: {pids}")
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    """Whether it may still act, without a wait that would take its end from its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_older(process: psutil.Process, operation_id: str, keep_epoch: int) -> bool:
    try:
        text = process.environ().get(RUNNER, "")
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended, or not ours
        return False
    operation, _, epoch = text.rpartition("/")
    return operation == operation_id and epoch.isdecimal() and int(epoch) < keep_epoch
