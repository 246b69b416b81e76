"""The row about DHCP servers: `dhcp`."""

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from uuid import uuid4

from tests.bench.measuring import Row, in_turn, row, timed

_RUNS = 7
_SIZES = (1, 100, 1000)


def bench_dhcp(folder: Path) -> Iterator[Row]:
    """Reserve addresses in Kea, beside setting the configuration that comes of it, once."""
    from adapters.lan import Reservation, Subnet
    from adapters.networks.kea import Kea, KeaSocket
    from deployments.lab.kea import Kea as LabKea
    from deployments.lab.vlans import Vlans

    installation = uuid4()
    vlans = Vlans(folder / "vlans")
    lab = LabKea(folder / "kea", vlans.servers[0])
    try:
        vlans.start()
        lab.start()
        channel = KeaSocket(lab.socket)
        server = Kea(channel, installation)
        network = IPv4Network("10.64.0.0/16")
        subnet = Subnet(id=uuid4(), number=1, range=network, installation=installation)
        for size in _SIZES:
            nics = [
                Reservation(
                    id=uuid4(),
                    subnet=subnet.id,
                    mac=f"52:54:00:00:{n // 256:02x}:{n % 256:02x}",
                    address=network.network_address + 10 + n,
                    hostname=f"vm-{n}",
                )
                for n in range(size)
            ]
            server.ensure_reservations(nics, [subnet])
            with_them = channel.ask({"command": "config-get"})["arguments"]
            with_them.pop("hash", None)
            server.delete_reservations(nics, [subnet.id])

            def ours(nics: list[Reservation] = nics) -> float:
                spent = timed(partial(server.ensure_reservations, nics, [subnet]))
                server.delete_reservations(nics, [subnet.id])
                return spent

            def bare(wanted: object = with_them) -> float:
                command = {"command": "config-set", "arguments": wanted}
                spent = timed(partial(channel.ask, command))
                server.delete_reservations(server.content()[1].values(), [subnet.id])
                return spent

            spent = in_turn(_RUNS, ours, bare)
            yield row("dhcp", _RUNS, *spent, "config-set", size=size)
    finally:
        lab.stop()
        vlans.stop()
