"""Ours beside a floor or a peer, in runs that take turns, so that drift hits all."""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice, permutations
from typing import Any

Row = dict[str, Any]


def timed(fn: Callable[[], object]) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def in_turn(
    runs: int,
    ours: Callable[[], float],
    *peers: Callable[[], float],
    of: Callable[[Sequence[float]], float] = statistics.median,
) -> list[float]:
    """Medians of ours and of each peer; one run of each after the other, so drift hits all.

    In every order in turn: each pays for what the one before it has left the machine to do.
    `of=min` where another's work (a disk's, of what was written before) only ever adds to a run.
    """
    runners = (ours, *peers)
    for each in runners:
        each()
    samples: list[list[float]] = [[] for _ in runners]
    for order in islice(cycle(permutations(range(len(runners)))), runs):
        for which in order:
            samples[which].append(runners[which]())
    return [of(each) for each in samples]


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
