"""Rates: how often somebody may ask, as token buckets in this process.

What is kept of a bucket is when it will be full again; a full one need not be kept at all. So
refusing costs a look into a dictionary, and there are never more than a few thousand entries.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from api.errors import Problem

_MOST = 20_000


class Rates:
    """Buckets of `burst` requests that fill up again at `per_s`; 0 of them: no limit."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each_s = 1 / per_s if per_s else 0.0
        self._slack_s = self._each_s * (burst - 1)
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        """Whether this key has asked lately."""
        return key in self._full_at

    def take(self, key: str) -> None:
        """Count a request. Raises `Problem` when there were too many."""
        self.require(key)
        self.count(key)

    def require(self, key: str) -> None:
        """Raise `Problem` when there were too many requests."""
        now = self._clock()
        if (wait_s := self._full_at.get(key, now) - now - self._slack_s) > 0:
            raise _too_many(wait_s)

    def count(self, key: str) -> None:
        """Count a request, also one too many: it was under way when the others were counted."""
        now = self._clock()
        full_at = max(now, self._full_at.get(key, now)) + self._each_s
        self._full_at[key] = min(full_at, now + self._slack_s + self._each_s)
        self._full_at.move_to_end(key)
        if len(self._full_at) > _MOST:
            self._full_at.popitem(last=False)

    def forget(self, key: str) -> None:
        """Know nothing of it any more."""
        self._full_at.pop(key, None)


def neighbourhood(address: str) -> str:
    """Whose address it is, as far as that can be told: of IPv6 everybody has a whole network."""
    try:
        peer = ip_address(address)
    except ValueError:
        return address
    if isinstance(peer, IPv6Address):
        return str(peer.ipv4_mapped or ip_network((peer, 64), strict=False))
    return str(peer)


def _too_many(wait_s: float) -> Problem:
    later = {"Retry-After": str(math.ceil(wait_s))}
    return Problem(429, "rate-limited", "too many requests: ask again later", later)
