"""Ours beside a floor or a peer: medians of runs that take turns, so that drift hits all."""

import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def timed(fn: Callable[[], object]) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def in_turn(runs: int, ours: Callable[[], float], *peers: Callable[[], float]) -> list[float]:
    """Medians of ours and of each peer; one run of each after the other, so drift hits all."""
    for each in (ours, *peers):
        each()
    samples = [[each() for each in (ours, *peers)] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def row(name: str, runs: int, ours: float, peer: float, peer_name: str, **more: Any) -> Row:
    return {
        "row": name,
        "unit": "s",
        "runs": runs,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 2),
        **more,
    }
