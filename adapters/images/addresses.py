"""Which addresses may be connected to for somebody else, and a connection to none but these.

A name is resolved once: the addresses that were looked at are those that are connected to, so that
a name which means another machine a moment later gains nothing. TLS still proves the name.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

import httpcore

from adapters.errors import NotAllowed, Transient

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], list[str]]

_GLOBAL = ip_network("2000::/3")
_CLOSED = [  # what a machine is told in some clouds, and what Python's versions disagree about
    ip_network(each) for each in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
]
_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_LOOK_S = 1.0  # how often a silent connection is asked whether it is still wanted


def networks(said: Sequence[str]) -> list[Network]:
    """The networks that a setting lists."""
    return [ip_network(each) for each in said]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises `Transient`: a name may be known later."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"the name {host} is not known: {getattr(error, 'strerror', error)}"
        raise Transient(text, code="source-unreachable") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_open(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether it is in a network that is allowed, or public with all that is written within it."""
    if any(address in network for network in allowed):
        return True
    within = [*_within(address)]
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return all(is_open(each, allowed) for each in within)
    public = address.is_global and not (address.is_multicast or address.is_reserved)
    public = public and not any(address in network for network in _CLOSED)
    if isinstance(address, IPv6Address):
        public = public and address in _GLOBAL
        public = public or any(address in each for each in _NAT64[:1])
    return public and all(is_open(each, allowed) for each in within)


def _within(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that a gateway would make of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return
    teredo = address.teredo or ()
    for each in (address.ipv4_mapped, address.sixtofour, *teredo):
        if each is not None:
            yield each
    if any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & 0xFFFFFFFF)


class OpenAddresses:
    """The addresses of names, of which none is closed to us."""

    def __init__(self, allowed: Sequence[Network] = (), resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve

    def of(self, host: str, port: int) -> list[str]:
        """Where a name may be connected to. Raises `NotAllowed` where any of it is closed."""
        addresses = self._resolve(host, port)
        for each in addresses:
            self._require(host, each)
        if not addresses:
            raise Transient(f"the name {host} has no address", code="source-unreachable")
        return addresses

    def require_name(self, host: str) -> None:
        """Refuse what is no name but a closed address, or this machine: a proxy resolves names."""
        bare = host.rstrip(".").lower()
        if bare == "localhost" or bare.endswith(".localhost"):
            self._require(host, "127.0.0.1")
        try:
            text = (
                str(ip_address(bare))
                if ":" in bare
                else socket.inet_ntoa(
                    socket.inet_aton(
                        bare
                    )  # also of one number, or in octal, as a resolver takes them
                )
            )
        except (OSError, ValueError):
            return
        self._require(host, text)

    def _require(self, host: str, address: str) -> None:
        if not is_open(ip_address(address), self._allowed):
            text = f"{host} is at an address that nothing is downloaded from"
            raise NotAllowed(text, code="source-forbidden")


class OpenBackend(httpcore.NetworkBackend):
    """Connections to such addresses, which end as soon as `check` raises.

    Without `addresses`, to whatever is asked for: a proxy that the operator has set.
    """

    def __init__(self, addresses: OpenAddresses | None, check: Callable[[], None]) -> None:
        self._addresses = addresses
        self._check = check
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *more: Any, **named: Any
    ) -> httpcore.NetworkStream:
        """Connect to the first of the name's addresses that answers."""
        places = [host] if self._addresses is None else self._addresses.of(host, port)
        for place in places[:-1]:
            self._check()
            try:
                return self._connected(place, port, timeout, *more, **named)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        self._check()
        return self._connected(places[-1], port, timeout, *more, **named)

    def _connected(self, *where: Any, **named: Any) -> httpcore.NetworkStream:
        return _Heeding(self._plain.connect_tcp(*where, **named), self._check)


class _Heeding(httpcore.NetworkStream):
    """A connection that somebody may want no more while it waits for the other side."""

    def __init__(self, stream: httpcore.NetworkStream, check: Callable[[], None]) -> None:
        self._stream = stream
        self._check = check

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = time.monotonic() + (timeout or 0.0)
        while True:
            self._check()
            left = until - time.monotonic()
            try:
                return self._stream.read(max_bytes, max(min(left, _LOOK_S), 0.01))
            except httpcore.ReadTimeout:
                if left <= _LOOK_S:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._check()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *how: Any, **named: Any) -> httpcore.NetworkStream:
        return _Heeding(self._stream.start_tls(*how, **named), self._check)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
