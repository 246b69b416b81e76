"""The demo's network: whole, or not at all; and what a killed demo leaves of it."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deployments.lab.lan import Lan
from deployments.lab.sweep import sweep
from deployments.stages import RealStage

pytestmark = pytest.mark.lab


@pytest.fixture
def portal() -> Iterator[int]:
    """A port of the loopback where somebody says who he is."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def say() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed
                    return
                with connection:
                    connection.sendall(b"the portal")

        threading.Thread(target=say, daemon=True).start()
        yield listener.getsockname()[1]


def is_there(namespace: str) -> bool:
    return Path("/run/netns", namespace).exists()


def test_the_host_reaches_the_portal_by_the_port_that_it_has_outside(tmp_path, portal):
    lan = Lan(tmp_path)
    try:
        lan.start(portal)
        inside = [
            "ip",
            "netns",
            "exec",
            lan.namespace,
            "socat",
            "-u",
            f"TCP:127.0.0.1:{portal}",
            "-",
        ]
        assert subprocess.run(inside, check=True, capture_output=True).stdout == b"the portal"
        assert (lan.networks(), lan.links()) == ([], [])
        assert lan.answers("192.168.0.254")
    finally:
        lan.stop()
    assert not is_there(lan.namespace)
    assert not is_there(lan.switch)
    assert sweep(tmp_path) == []


def test_a_sweep_ends_all_of_it(tmp_path, portal):
    lan = Lan(tmp_path)
    lan.start(portal)
    swept = [Path(each).name for each in sweep(tmp_path)]
    assert sorted(swept) == ["kea.pid", "netns", "netns", "socat-here.pid", "socat-there.pid"]
    assert not is_there(lan.namespace)
    assert not is_there(lan.switch)
    assert sweep(tmp_path) == []


@pytest.mark.parametrize("program", ["ip", "socat", "kea-dhcp4"])
def test_where_a_network_cannot_be_the_host_has_none_and_it_is_said_why(
    tmp_path, monkeypatch, program
):
    broken = tmp_path / "bin" / program
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    (tmp_path / "s").mkdir()
    stage = RealStage(tmp_path / "s")
    try:
        stage.starts()["iSCSI server and libvirt host"]()
        assert stage.uplink is None
        assert program in stage.without
        assert "no such luck" in stage.without
        asked = ["virsh", "-c", stage.address, "uri"]
        assert subprocess.run(asked, check=True, capture_output=True).returncode == 0
        assert not is_there(stage.lan.namespace)
        assert not is_there(stage.lan.switch)
    finally:
        stage.stop()
    assert sweep(tmp_path) == []
