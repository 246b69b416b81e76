"""A session at a vCenter or an ESXi: its errors sorted, its tasks awaited."""

import http.client
import math
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from xml.parsers.expat import ExpatError

from pyVmomi import SoapStubAdapter, vim, vmodl

from adapters.errors import (
    AdapterError,
    Conflict,
    InUse,
    NotAllowed,
    NotFound,
    OutOfSpace,
    Refused,
    Transient,
    Unsupported,
)
from adapters.types import Chap
from adapters.vsphere.address import Address, PinnedConnection, context_for

_VERSION = "vim.version.version11"  # of vSphere 6.5: what every server since then speaks
_IDLE_S = 60.0  # a session that was idle for longer may have ended
_WHO = "config.instanceUuid"
_KNOWN = 10_000  # VMs, of which is remembered where they were found
_LOOK_S = 20  # how long one question for news of a task may wait
_MEANINGS: tuple[tuple[str, type[AdapterError]], ...] = (  # the first that fits
    ("vim.fault.NotAuthenticated", Transient),
    ("vim.fault.InvalidLogin", NotAllowed),
    ("vim.fault.NoPermission", NotAllowed),
    ("vim.fault.HostConnectFault", Transient),
    ("vim.fault.Timedout", Transient),
    ("vim.fault.FileLocked", Transient),
    ("vim.fault.TaskInProgress", Transient),
    ("vim.fault.ConcurrentAccess", Transient),
    ("vmodl.fault.HostCommunication", Transient),
    ("vmodl.fault.ManagedObjectNotFound", Transient),  # it went while we were at it: ask anew
    ("vmodl.fault.SystemError", Transient),
    ("vim.fault.NoDiskSpace", OutOfSpace),
    ("vim.fault.InsufficientResourcesFault", OutOfSpace),
    ("vim.fault.FileAlreadyExists", Conflict),
    ("vim.fault.DuplicateName", Conflict),
    ("vim.fault.AlreadyExists", Conflict),
    ("vim.fault.FileNotFound", NotFound),
    ("vim.fault.InvalidDatastore", NotFound),
    ("vim.fault.NotFound", NotFound),
    ("vim.fault.ResourceInUse", InUse),
    ("vmodl.fault.MethodNotFound", Unsupported),
    ("vmodl.fault.NotImplemented", Unsupported),
    ("vmodl.fault.NotSupported", Unsupported),
)


class Session:
    """One login, for all threads of a process; it is renewed when the server has ended it."""

    def __init__(self, address: str, credentials: Callable[[], Chap]) -> None:
        self.address = Address.parse(address)
        self._credentials = credentials
        self._turn = threading.RLock()
        self._stub: Any = None
        self._content: Any = None
        self._used_at = -math.inf
        self._host: Any = None
        self._datastores: dict[str, dict[str, Any]] = {}
        self._vms: dict[UUID, Any] = {}
        self.turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextmanager
    def speaking(self) -> Iterator[Any]:
        """Hand out the service's content, logged in; sort what goes wrong."""
        try:
            yield self._live()
        except AdapterError:
            raise
        except vim.fault.NotAuthenticated as error:
            self._used_at = -math.inf
            raise Transient("the session had ended") from error
        except vmodl.MethodFault as error:
            if isinstance(error, vmodl.fault.ManagedObjectNotFound):
                self._forget()
            raise _sorted(error) from error
        except (OSError, http.client.HTTPException, ExpatError) as error:
            raise Transient(f"{self.address.server}: {error}") from error

    def look_at(self, vm: UUID, *paths: str) -> tuple[Any, dict[str, Any]] | None:
        """Answer the VM that has this as its instance's UUID, wherever it is, and what it has.

        One that was found before is asked at once, who it is among the rest.
        """
        if (known := self._vms.get(vm)) is not None:
            with suppress(vmodl.fault.ManagedObjectNotFound):
                has = self.properties([known], _WHO, *paths).get(known, {})
                if has.get(_WHO) == str(vm):
                    return known, has
            self._vms.pop(vm, None)
        there = self._content.searchIndex.FindByUuid(None, str(vm), True, True)  # noqa: FBT003 - a VM, by its instanceUuid
        if there is None:
            return None
        self.know(vm, there)
        return there, self.properties([there], *paths)[there]

    def know(self, vm: UUID, there: Any) -> None:
        """Remember where a VM was found."""
        if len(self._vms) >= _KNOWN:
            self._vms.clear()
        self._vms[vm] = there

    @property
    def content(self) -> Any:
        """What the service has; it has to be speaking."""
        return self._content

    @property
    def host(self) -> Any:
        """The host itself. Raises `NotFound`, `Refused` where it is one of several."""
        if self._host is None:
            names = self.properties(self.inventory(vim.HostSystem), "name")
            wanted = [
                host for host, has in names.items() if self.address.host in {"", has["name"]}
            ]
            if len(wanted) > 1:
                raise Refused(f"{self.address.server} has several hosts: name one in the address")
            if not wanted:
                raise NotFound(f"{self.address.server} has no host {self.address.host}")
            self._host = wanted[0]
        return self._host

    @cached_property
    def datacenter(self) -> Any:
        """The datacenter in the server's inventory that the host is in."""
        above = self.host
        while not isinstance(above, vim.Datacenter):
            above = above.parent
        return above

    @cached_property
    def datacenter_path(self) -> str:
        """Where in the inventory that datacenter is: below folders, maybe."""
        path, above = [], self.datacenter
        while above != self._content.rootFolder:
            path.append(above.name)
            above = above.parent
        return "/".join(reversed(path))

    @cached_property
    def folder(self) -> Any:
        """Where VMs are in the inventory."""
        return self.datacenter.vmFolder

    @cached_property
    def pool(self) -> Any:
        """What VMs of the host take CPU and RAM from."""
        return self.host.parent.resourcePool

    @cached_property
    def network(self) -> Any:
        """A network of the host, for cards that lead nowhere. Raises `Refused` without any."""
        for network in self.host.network:
            return network
        raise Refused("the host has no network, not even for cards that lead nowhere")

    @cached_property
    def network_name(self) -> str:
        """What it is called."""
        return str(self.network.name)

    def browser(self, datastore: str) -> Any:
        """What looks for files on a datastore of the host. Raises `NotFound`."""
        return self._datastore(datastore)["browser"]

    def datastore(self, name: str) -> Any:
        """A datastore of the host. Raises `NotFound`."""
        return self._datastore(name)["itself"]

    def _datastore(self, name: str) -> dict[str, Any]:
        if name not in self._datastores:
            found = self.properties(self.host.datastore, "name", "browser")
            every = {has["name"]: {**has, "itself": store} for store, has in found.items()}
            self._datastores = every
        if name not in self._datastores:
            raise NotFound(f"the host has no datastore {name}")
        return self._datastores[name]

    def create(self, spec: Any) -> Any:
        """Make a VM on the host, and answer it."""
        return self.wait(self.folder.CreateVM_Task(spec, self.pool, self.host))

    def child(self, name: str) -> Any:
        """The VM of that name, or None."""
        return self._content.searchIndex.FindChild(self.folder, name)

    def properties(self, objects: Iterable[Any], *paths: str) -> dict[Any, dict[str, Any]]:
        """Ask for properties of objects of one kind, at once."""
        wanted = list(objects)
        if not wanted:
            return {}
        kind = type(wanted[0])
        collector = vmodl.query.PropertyCollector
        spec = collector.FilterSpec(
            propSet=[collector.PropertySpec(type=kind, pathSet=list(paths))],
            objectSet=[collector.ObjectSpec(obj=each) for each in wanted],
        )
        return self._retrieve(spec)

    def vms(self, *paths: str) -> dict[Any, dict[str, Any]]:
        """Ask for properties of all VMs of the host, at once: none can go in between."""
        wanted, of = vms_of(self.host, *paths)
        collector = vmodl.query.PropertyCollector
        return self._retrieve(collector.FilterSpec(propSet=[wanted], objectSet=[of]))

    def _retrieve(self, spec: Any) -> dict[Any, dict[str, Any]]:
        found = self._content.propertyCollector.RetrieveContents([spec])
        return {each.obj: {p.name: p.val for p in each.propSet} for each in found}

    def wait(self, task: Any, *, timeout_s: float = 3600.0) -> Any:
        """Answer the task's result; raise its fault, or `Transient` when it takes too long.

        Never `task.info` whole: its entity may be of a kind that pyVmomi does not accept there.
        """
        paths = ("info.state", "info.error", "info.result")
        ended = {"success", "error"}
        has = self.until(task, paths, lambda has: has.get("info.state") in ended, timeout_s)
        if has["info.state"] == "error":
            raise has["info.error"]
        return has.get("info.result")

    def until(
        self,
        thing: Any,
        paths: tuple[str, ...],
        enough: Callable[[dict[str, Any]], bool],
        timeout_s: float,
    ) -> dict[str, Any]:
        """Wait for news of a thing until they are enough; what it has then."""
        has = self.properties([thing], *paths)[thing]
        if enough(has):
            return has
        end = time.monotonic() + timeout_s
        kinds = vmodl.query.PropertyCollector
        wanted = kinds.PropertySpec(type=type(thing), pathSet=list(paths))
        with self.news(wanted, kinds.ObjectSpec(obj=thing)) as heard:
            while time.monotonic() < end:
                for each in heard(_LOOK_S):
                    has |= {changed.name: changed.val for changed in each.changeSet}
                if enough(has):
                    return has
        raise Transient(f"{self.address.server} is still at it")

    @contextmanager
    def news(self, wanted: Any, of: Any) -> Iterator[Callable[[float], list[Any]]]:
        """Hand out what waits for news, so many seconds at most: what has changed since.

        The first answer, at once, is what there is.
        """
        kinds = vmodl.query.PropertyCollector
        collector = self._content.propertyCollector.CreatePropertyCollector()
        version = ""

        def heard(timeout_s: float) -> list[Any]:
            nonlocal version
            longest = kinds.WaitOptions(maxWaitSeconds=math.ceil(timeout_s))
            if (news := collector.WaitForUpdatesEx(version, longest)) is None:
                return []
            version = news.version
            return [each for one in news.filterSet for each in one.objectSet]

        try:
            spec = kinds.FilterSpec(propSet=[wanted], objectSet=[of])
            collector.CreateFilter(spec, False)  # noqa: FBT003 - whole values
            yield heard
        finally:
            with suppress(vmodl.MethodFault, OSError, http.client.HTTPException):
                collector.DestroyPropertyCollector()

    def cookie(self) -> str:
        """What its files are asked for with."""
        name_and_value: str = self._stub.cookie.split(";")[0]
        return name_and_value

    def connection(self) -> PinnedConnection:
        """Open HTTPS to the server."""
        address = self.address
        return PinnedConnection(address.server, address.port, address.fingerprint)

    def connection_to(self, url: str, pin: str) -> tuple[PinnedConnection, dict[str, str]]:
        """Open HTTPS to where the server says, and what to tell there.

        That may be one of its hosts, whose certificate it tells; our session is not for those.
        """
        where = urlsplit(url)
        if where.hostname in {"*", self.address.server}:
            return self.connection(), {"Cookie": self.cookie()}
        if where.hostname is None:
            raise Refused(f"{self.address.server} names no host: {url}")
        pin = pin.replace(":", "").lower()
        return PinnedConnection(where.hostname, where.port or 443, pin), {}

    def _forget(self) -> None:
        """What was there may be somewhere else: look for all of it again."""
        self._host, self._datastores, self._vms = None, {}, {}
        for name in ("datacenter", "datacenter_path", "folder", "pool", "network", "network_name"):
            self.__dict__.pop(name, None)

    def inventory(self, kind: Any) -> list[Any]:
        """All of a kind that the server has; it has to be speaking."""
        view = self._content.viewManager.CreateContainerView(
            self._content.rootFolder,
            [kind],
            True,  # noqa: FBT003 - however deep
        )
        try:
            return list(view.view)
        finally:
            view.DestroyView()

    def _live(self) -> Any:
        with self._turn:
            now = time.monotonic()
            if self._stub is None:
                self._connect()
            elif now - self._used_at > _IDLE_S and not self._is_logged_in():
                self._log_in()
            self._used_at = now
            return self._content

    def _is_logged_in(self) -> bool:
        with suppress(vim.fault.NotAuthenticated):
            return self._content.sessionManager.currentSession is not None
        return False

    def _connect(self) -> None:
        """Connect and log in; nothing is sent before the certificate was compared.

        Not by pyVmomi's own `thumbprint`: it compares on the first connection only, and changes
        the context so that all others are believed.
        """
        pin = self.address.fingerprint
        stub = SoapStubAdapter(
            host=self.address.server,
            port=self.address.port,
            version=_VERSION,
            sslContext=context_for(pin),
        )
        stub.scheme = lambda host, port, **_: PinnedConnection(host, port, pin)
        weakref.finalize(self, stub.DropConnections)
        self._content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        self._log_in()
        self._stub = stub

    def _log_in(self) -> None:
        chap = self._credentials()
        self._content.sessionManager.Login(chap.user, chap.password.get_secret_value())


def vms_of(host: Any, *paths: str) -> tuple[Any, Any]:
    """What is to be told of each VM that a host has, or has from now on; and of what."""
    kinds = vmodl.query.PropertyCollector
    each_vm = kinds.TraversalSpec(type=vim.HostSystem, path="vm", skip=False)
    return (
        kinds.PropertySpec(type=vim.VirtualMachine, pathSet=list(paths)),
        kinds.ObjectSpec(obj=host, skip=True, selectSet=[each_vm]),
    )


def _sorted(error: Any) -> AdapterError:
    text = str(getattr(error, "msg", "") or type(error).__name__)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    meaning = next((meaning for name, meaning in _MEANINGS if name in kinds), Refused)
    return meaning(f"{text} ({type(error).__name__})")
