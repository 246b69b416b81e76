"""Volumes of a VM on vSphere: the host logs in, its VM is given the LUN as it is."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pyVmomi import vim

from adapters.errors import Refused, Transient
from adapters.types import Chap, Connection
from adapters.vsphere.session import Session

_HBA = vim.host.InternetScsiHba


class VsphereVolumes:
    """The software initiator of one host; the session has to be speaking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def initiator(self) -> str:
        """The host's iSCSI name; the software initiator is switched on where it is off."""
        return str(self._adapter().iScsiName)

    def log_in(self, connection: Connection, chap: Chap) -> str:
        """Have the host see the volume: its device. Raises `Transient` when it is not let in."""
        adapter = self._adapter()
        target = _static(connection)
        if _known(target) not in map(_known, adapter.configuredStaticTarget):
            self._storage.AddInternetScsiStaticTargets(adapter.device, [target])
        login = _HBA.AuthenticationProperties(
            chapAuthEnabled=True,
            chapName=chap.user,
            chapSecret=chap.password.get_secret_value(),
            chapAuthenticationType="chapRequired",
            chapInherited=False,
        )
        these = _HBA.TargetSet(staticTargets=[target])
        self._storage.UpdateInternetScsiAuthenticationProperties(adapter.device, login, these)
        device = self._seen(adapter, [connection]).get(connection.target.iqn)
        if device is None:
            self.log_out([connection])
            raise Transient(f"volume {connection.volume} does not let the host in")
        return device

    def require(self, connections: list[Connection]) -> None:
        """Raise `Transient` when a volume is not to be had now."""
        if not connections:
            return
        seen = self._seen(self._adapter(), connections)
        for each in connections:
            if each.target.iqn not in seen:
                raise Transient(f"volume {each.volume} does not let the host in")

    def log_out(self, connections: Iterable[Connection]) -> None:
        """Have the host forget the volumes; forgotten already is success."""
        adapter = self._find()
        if adapter is None:
            return
        configured = {_known(each) for each in adapter.configuredStaticTarget}
        forgotten = False
        for each in map(_static, connections):
            if _known(each) in configured:
                with suppress(vim.fault.NotFound):
                    self._storage.RemoveInternetScsiStaticTargets(adapter.device, [each])
                forgotten = True
        if forgotten:
            self._storage.RescanHba(adapter.device)

    def _seen(self, adapter: Any, connections: list[Connection]) -> dict[str, str]:
        """Look again for LUNs: the device of each of these targets that lets the host in."""
        self._storage.RescanHba(adapter.device)
        wanted = {each.target.iqn: each.target.lun for each in connections}
        info = self._storage.storageDeviceInfo
        devices = {each.key: each.deviceName for each in info.scsiLun}
        found = {}
        for interface in info.scsiTopology.adapter:
            for target in interface.target:
                iqn = getattr(target.transport, "iScsiName", "")
                for lun in target.lun if iqn in wanted else ():
                    if lun.lun == wanted[iqn] and lun.scsiLun in devices:
                        found[iqn] = devices[lun.scsiLun]
        return found

    def _adapter(self) -> Any:
        adapter = self._find()
        if adapter is None:
            self._storage.UpdateSoftwareInternetScsiEnabled(True)  # noqa: FBT003 - its only argument
            adapter = self._find()
        if adapter is None:
            raise Refused("the host has no software iSCSI adapter")
        return adapter

    def _find(self) -> Any:
        adapters = self._storage.storageDeviceInfo.hostBusAdapter
        ours = (x for x in adapters if isinstance(x, _HBA) and x.isSoftwareBased)
        return next(ours, None)

    @property
    def _storage(self) -> Any:
        return self._session.host.configManager.storageSystem


def _static(connection: Connection) -> Any:
    target = connection.target
    return _HBA.StaticTarget(address=target.host, port=target.port, iScsiName=target.iqn)


def _known(target: Any) -> tuple[str, int, str]:
    """What tells one static target from another."""
    return target.address, target.port, target.iScsiName
