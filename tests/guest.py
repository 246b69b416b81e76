"""A guest that runs the appliance: what it prints, and its root shell."""

import time
from uuid import UUID

import libvirt

from adapters.hypervisors.base import Hypervisor
from deployments.lab.process import wait_for

BOOT_S = 90


class Guest:
    """One VM's serial console, read through its log and written through libvirt."""

    def __init__(self, hypervisor: Hypervisor, uri: str, vm: UUID) -> None:
        self.hypervisor = hypervisor
        self.uri = uri
        self.vm = vm

    def lines(self) -> list[str]:
        """What it has printed since its start."""
        return self.hypervisor.console(self.vm).decode(errors="replace").split("\r\n")

    def wait_for(self, start: str, timeout_s: float = BOOT_S) -> str:
        """Answer the first line that starts so."""
        found: list[str] = []

        def printed() -> list[str]:
            found[:] = [line for line in self.lines() if line.startswith(start)]
            return found

        wait_for(printed, timeout_s, f"{start!r} of VM {self.vm}", every_s=0.1)
        return found[0]

    def boot(self) -> list[str]:
        """Wait until it is ready, and answer what it has printed."""
        self.wait_for("APPLIANCE-READY")
        return self.lines()

    def tell(self, command: str, answer: str, timeout_s: float = 30) -> str:
        """Type a command into its shell; answer the line that starts with `answer`."""
        connection = libvirt.open(self.uri)
        try:
            stream = connection.newStream()
            connection.lookupByUUID(self.vm.bytes).openConsole(None, stream)
            try:
                stream.send(f"{command}\n".encode())
                time.sleep(0.1)
                return self.wait_for(answer, timeout_s)
            finally:
                stream.abort()
        finally:
            connection.close()
