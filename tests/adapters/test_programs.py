import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from adapters import programs
from adapters.errors import Transient, Unsupported
from adapters.programs import ProgramFailed, Stopped

PATIENCE_S = 60.0


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def number_in(path):
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def start(target):
    """Run `target` in a thread; join it to get what it raised."""
    errors = []

    def catch():
        try:
            target()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()

    def join():
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        return errors[0] if errors else None

    return join


def sleeper(pid_file, runner="", *, seconds=60, detached_child=False):
    """Run a shell that notes its pid (or that of a child of its) and sleeps."""
    programs.runner.set(runner)
    what = f"echo $$ >{pid_file}; exec sleep {seconds}"
    programs.run("sh", "-c", f"sh -c '{what}' & wait" if detached_child else what)


def test_answers_what_a_program_prints():
    assert programs.run("printf", "%s-%s", "one", Path("two")) == "one-two"


def test_stdin_reaches_the_program_and_no_command_line():
    script = "cat /dev/stdin; tr '\\0' ' ' </proc/$$/cmdline | grep -c secret"
    with pytest.raises(ProgramFailed) as failure:  # grep finds nothing
        programs.run("sh", "-c", script.replace("secret", "[s]ecret"), stdin="secret")
    assert failure.value.exit_code == 1
    assert programs.run("cat", "/dev/stdin", stdin="secret") == "secret"


def test_the_environment_is_bare_but_for_what_is_given(monkeypatch):
    monkeypatch.setenv("CLOUDLOOM_SECRET_KEYS", "not for programs")
    programs.runner.set("op/3")
    told = dict(line.split("=", 1) for line in programs.run("env", env={"A": "b"}).splitlines())
    programs.runner.set("")
    assert told["CLOUDLOOM_RUNNER"] == "op/3"
    assert told["LC_ALL"] == "C"
    assert told["A"] == "b"
    assert "CLOUDLOOM_SECRET_KEYS" not in told


def test_a_failure_has_its_exit_code_and_what_was_said():
    with pytest.raises(ProgramFailed, match="alas") as failure:
        programs.run("sh", "-c", "echo alas >&2; exit 7")
    assert (failure.value.exit_code, failure.value.stderr) == (7, "alas\n")
    assert not isinstance(failure.value, Transient)


def test_a_crash_of_its_own_is_not_worth_a_retry():
    with pytest.raises(ProgramFailed) as failure:
        programs.run("sh", "-c", "kill -SEGV $$")
    assert failure.value.exit_code == -signal.SIGSEGV


def test_being_killed_is():
    with pytest.raises(Stopped):
        programs.run("sh", "-c", "kill -KILL $$")


def test_a_program_that_is_not_there():
    with pytest.raises(Unsupported, match="no-such-program"):
        programs.run("no-such-program")


def test_output_comes_line_by_line_while_the_program_runs(tmp_path):
    go_on = tmp_path / "go-on"
    lines = []

    def take(line):
        lines.append(line)
        go_on.touch()  # the program would not end without

    script = f"printf '10%%\\r'; while ! [ -e {go_on} ]; do sleep 0.01; done; printf '20%%\\nx'"
    assert programs.run("sh", "-c", script, on_output=take, timeout_s=PATIENCE_S) == ""
    assert lines == ["10%\r", "20%\n", "x"]


def test_an_error_of_the_reader_ends_the_program(tmp_path):
    pid = tmp_path / "pid"

    def refuse(line):
        raise ValueError(line)

    with pytest.raises(ValueError, match="now"):
        programs.run("sh", "-c", f"echo $$ >{pid}; echo now; exec sleep 3600", on_output=refuse)
    assert not alive(number_in(pid))


def test_a_timeout_ends_the_program_and_its_children(tmp_path):
    pid = tmp_path / "pid"
    script = f"sh -c 'echo $$ >{pid}; exec sleep 60' & wait"
    with pytest.raises(Stopped, match=r"0\.5 s"):
        programs.run("sh", "-c", script, timeout_s=0.5)
    until(lambda: not alive(number_in(pid)))


def test_a_program_that_does_nothing_any_more_is_ended():
    with pytest.raises(Stopped, match="did nothing"):
        programs.run("sh", "-c", "echo started; exec sleep 60", stalled_s=0.3)


def test_a_program_that_works_is_not():
    busy = "i=0; while [ $i -lt 800000 ]; do i=$((i+1)); done; echo done"
    assert programs.run("sh", "-c", busy, stalled_s=0.6) == "done\n"


def test_address_space_is_limited():
    allocate = "head -c 200M /dev/zero | tail -c 200M | wc -c"  # tail keeps it all
    assert programs.run("sh", "-c", allocate, memory_mib=1024).strip() == str(200 * 2**20)
    assert programs.run("sh", "-c", f"{allocate} 2>&1", memory_mib=100).strip() != str(200 * 2**20)


def test_cpu_time_is_limited():
    with pytest.raises(ProgramFailed) as failure:
        programs.run("sh", "-c", "while :; do :; done", cpu_s=1)
    assert failure.value.exit_code == -signal.SIGXCPU


def test_stop_all_ends_one_runners_programs_promptly(tmp_path):
    ours, others = tmp_path / "ours", tmp_path / "others"
    join_ours = start(lambda: sleeper(ours, "a/1", detached_child=True))
    join_others = start(lambda: sleeper(others, "b/1"))
    pid, other_pid = number_in(ours), number_in(others)
    programs.stop_all("a/1")
    assert isinstance(join_ours(), Stopped)
    until(lambda: not alive(pid))
    assert alive(other_pid)
    programs.stop_all("b/1")
    assert isinstance(join_others(), Stopped)


def test_a_runner_may_go_on_after_a_stop():
    programs.stop_all("")
    assert programs.run("echo", "on") == "on\n"


def test_programs_are_forked_by_a_thread_that_outlives_them(monkeypatch):
    """Setpriv's signal comes when the forking thread dies, which a caller's may do early."""
    real, forkers = os.fork, []

    def fork():
        forkers.append(threading.current_thread())
        return real()

    monkeypatch.setattr(os, "fork", fork)
    for _ in range(4):
        assert start(lambda: programs.run("true"))() is None
    assert len(forkers) == 4
    for forker in forkers:
        assert forker.daemon
        assert forker.is_alive()


def test_programs_are_started_beside_each_other(monkeypatch):
    """Next to a small image each start counts, so two look at it at once."""
    real, both = os.fork, threading.Barrier(2, timeout=60)

    def fork():
        both.wait()  # breaks if nobody else is starting one
        return real()

    monkeypatch.setattr(os, "fork", fork)
    first, second = (start(lambda: programs.run("true")) for _ in range(2))
    assert first() is None
    assert second() is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_killed_runner_leaves_no_program(tmp_path):
    """Also a fork of a process that has a spawner: the child must get one of its own."""
    programs.run("true")
    pid_file = tmp_path / "pid"
    child = os.fork()
    if not child:
        try:
            sleeper(pid_file, "d/1")
        finally:
            os._exit(1)
    try:
        pid = number_in(pid_file)
        assert psutil.Process(pid).ppid() == child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    until(lambda: not alive(pid))


def test_end_others_ends_older_runners_only(tmp_path):
    files = {text: tmp_path / text.replace("/", "-") for text in ("e/1", "e/2", "e/3", "f/1")}
    joins = {text: start(lambda t=text: sleeper(files[t], t)) for text in files}
    pids = {text: number_in(file) for text, file in files.items()}
    programs.end_others("e", 3)
    assert {text for text, pid in pids.items() if alive(pid)} == {"e/3", "f/1"}
    for text in ("e/3", "f/1"):
        programs.stop_all(text)
    assert all(isinstance(join(), Stopped) for join in joins.values())
