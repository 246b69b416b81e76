"""Stills on an ESXi host: a snapshot, under which a VM's own disks are as they were at one moment.

They keep their names, and what the guest writes goes to files of the snapshot's; so they are sent
as those of a VM that is off, and removing the snapshot puts together what it has set apart.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

from pyVmomi import vim

from adapters.stills import Stills
from adapters.vsphere.session import Session


class VsphereStills:
    """The snapshots of one host's VMs that are ours; the session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def open(self, vm: UUID, there: Any) -> Stills:
        """Take the snapshot anew; VMware's tools, where they run, have the guest write first."""
        self.close(vm, there)
        path = "guest.toolsRunningStatus"
        tools = self._session.properties([there], path)[there].get(path) == "guestToolsRunning"
        if tools:
            with suppress(vim.fault.SnapshotFault, vim.fault.ToolsUnavailable):
                self._take(vm, there, quiesce=True)
                return Stills(socket="", quiet=True)
        self._take(vm, there, quiesce=False)
        return Stills(socket="", quiet=False)

    def are_there(self, vm: UUID, there: Any) -> bool:
        """Whether the VM has the snapshot."""
        return bool(self._find(vm, there))

    def close(self, vm: UUID, there: Any) -> None:
        """Remove the snapshot; absent is success."""
        for snapshot in self._find(vm, there):
            self._session.wait(snapshot.RemoveSnapshot_Task(removeChildren=False))

    def _take(self, vm: UUID, there: Any, *, quiesce: bool) -> None:
        task = there.CreateSnapshot_Task(
            name=_name(vm), description="", memory=False, quiesce=quiesce
        )
        self._session.wait(task)

    def _find(self, vm: UUID, there: Any) -> list[Any]:
        path = "snapshot.rootSnapshotList"
        roots = self._session.properties([there], path)[there].get(path, [])
        return [each.snapshot for each in _all(roots) if each.name == _name(vm)]


def _all(trees: Iterable[Any]) -> Iterable[Any]:
    for tree in trees:
        yield tree
        yield from _all(tree.childSnapshotList)


def _name(vm: UUID) -> str:
    return f"stills-{vm}"
