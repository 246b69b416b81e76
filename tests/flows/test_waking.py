"""Bells of workers: several in one folder, and those of dead workers."""

import os
import select
import socket
from pathlib import Path

import pytest

from flows import waking
from flows.waking import Bell


@pytest.fixture(params=["short", "long" * 50])
def folder(request, tmp_path: Path) -> Path:
    """Also one whose name alone is longer than a socket's path may be."""
    return tmp_path / request.param


def rung(bell: Bell) -> bool:
    return bool(select.select([bell.fileno()], [], [], 0)[0])


def test_a_ring_wakes_every_worker_and_is_heeded_once(folder, monkeypatch):
    bells = []
    for pid in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        bells.append(Bell(folder))
        bells[-1].hang_up()
    assert waking.wake(folder) == 2
    assert waking.wake(folder) == 2
    assert all(rung(bell) for bell in bells)
    for bell in bells:
        bell.heed()
    assert not any(rung(bell) for bell in bells)
    for bell in bells:
        bell.take_down()
    assert waking.wake(folder) == 0


def test_a_dead_workers_bell_is_taken_away(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "13"))
    assert waking.wake(tmp_path) == 0
    assert not list(tmp_path.iterdir())


def test_a_worker_that_hears_nothing_holds_nobody_up(tmp_path):
    bell = Bell(tmp_path)
    bell.hang_up()
    assert {waking.wake(tmp_path) for _ in range(1000)} == {1}
    bell.take_down()


def test_nobody_is_there_yet(tmp_path):
    assert waking.wake(tmp_path / "nowhere") == 0
    assert not waking.ring(tmp_path / "nowhere", "14")
