"""The demo, run as a user runs it: it comes to its end, or is interrupted, and leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.lab.namespace import Namespace
from deployments.lab.sweep import sweep

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts everything: a short path, for it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as made:
        try:
            yield Path(made)
        finally:
            sweep(Path(made), f"TMPDIR={made}")


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "api.cli", "demo", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,
    )


def deploying(demo: "subprocess.Popen[str]", folder: Path) -> set[str]:
    """Let it come to where it deploys; the network namespaces that it has by then."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Deploy an appliance"):
            break
    names = {Namespace(record.parent).name for record in folder.rglob("netns") if record.is_file()}
    assert len(names) == 2  # a host's, and a switch's
    return names


def left_of(folder: Path, namespaces: set[str]) -> list[str]:
    """What is still there: files, mounts, networks, and processes started in the folder."""
    left = [name for name in namespaces if Path("/run/netns", name).exists()]
    left += [str(each) for each in folder.rglob("*")]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            left.append(f"{process.pid} {process.cmdline()}")
    return left


def test_an_image_becomes_a_running_appliance_and_goes_without_a_trace(folder: Path) -> None:
    with start(folder) as demo:
        told, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, told
    for sentence in (
        "db sees its volume of 131072 sectors",
        "db has address 192.168.0.1",
        "and answers there: ping 192.168.0.2",
        "and that it booted from it: ROOT ",
        "libvirt knows no domain",
        "the host has no bridge",
        "Kea knows no network",
        "exactly the library remains",
        "deploy-appliance shop",
    ):
        assert sentence in told
    namespaces = set(re.findall(r"cloudloom-[0-9a-f]{12}", told))
    assert namespaces
    assert left_of(folder, namespaces) == []


def test_interrupted_in_the_middle_of_a_deployment_it_leaves_nothing(folder: Path) -> None:
    with start(folder) as demo:
        namespaces = deploying(demo, folder)
        demo.send_signal(signal.SIGINT)
        told, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130, told
    assert left_of(folder, namespaces) == []


def test_what_a_killed_one_leaves_is_ended_by_make_clean(folder: Path) -> None:
    with start(folder) as demo:
        namespaces = deploying(demo, folder)
        demo.kill()
    assert left_of(folder, namespaces) != []
    words = [sys.executable, "-m", "deployments.lab.scratch", "cloudloom-demo"]
    subprocess.run(words, check=True, env={**os.environ, "TMPDIR": str(folder)}, timeout=300)
    assert left_of(folder, namespaces) == []


def test_without_anything_real_it_tells_the_same_story_of_a_pretended_host(folder: Path) -> None:
    with start(folder, "--pretended") as demo:
        told, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, told
    for sentence in (
        "the pretended host runs db and web",
        "no vm is left",
        "no volume is left",
        "no link is left",
    ):
        assert sentence in told
    assert left_of(folder, set()) == []
