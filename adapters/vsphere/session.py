"""A session at a vCenter or an ESXi: its certificate pinned, its errors sorted, its tasks awaited.

An address says all that a host is reached and known by:
`vsphere://SERVER[:PORT]/[HOST][?fingerprint=SHA256]`. HOST is its name in the server's inventory,
and may be left out where there is only one. With a fingerprint, that certificate is believed and
no other; without one, those that the system believes. User and password are not in it: they are
asked for at each login, and kept nowhere.
"""

import hashlib
import http.client
import math
import re
import ssl
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
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

_VERSION = "vim.version.version11"  # of vSphere 6.5: what every server since then speaks
_ANSWER_S = 60.0  # the longest that one call may take
_IDLE_S = 60.0  # a session that was idle for longer may have ended
_LOOK_S = 20  # how long one question for news of a task may wait
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
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


@dataclass(frozen=True)
class Address:
    """Where a host is, and by what it is known."""

    server: str
    port: int
    host: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address. Raises `Refused`."""
        try:
            url = urlsplit(text)
            port = url.port or 443
        except ValueError as error:
            raise Refused(f"{text!r} is no address of a vSphere host") from error
        asked = parse_qs(url.query)
        fingerprint = asked.pop("fingerprint", [""])[0].replace(":", "").lower()
        strange = url.username or url.fragment or asked
        if url.scheme != "vsphere" or not url.hostname or strange:
            raise Refused(f"{text!r} is no address like vsphere://server/host?fingerprint=...")
        if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
            raise Refused("the fingerprint is no SHA-256: 64 hexadecimal digits")
        return cls(url.hostname, port, url.path.strip("/"), fingerprint)


class _PinnedConnection(http.client.HTTPSConnection):
    """HTTPS that goes on only with the certificate that it was told to expect."""

    def __init__(self, server: str, port: int, pin: str) -> None:
        self._pin = pin
        super().__init__(server, port, timeout=_ANSWER_S, context=_context(pin))

    def connect(self) -> None:
        super().connect()
        if self._pin:
            certificate = cast("ssl.SSLSocket", self.sock).getpeercert(binary_form=True) or b""
            digest = hashlib.sha1 if len(self._pin) == 40 else hashlib.sha256  # noqa: PLR2004 - hex digits; older servers tell SHA-1 of each other
            if digest(certificate).hexdigest() != self._pin:
                self.close()
                raise _other_certificate(self.host)


def _context(pin: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if pin:  # the one certificate that is believed is compared whole
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _other_certificate(server: str) -> NotAllowed:
    text = f"{server} has another certificate than its fingerprint says"
    return NotAllowed(text, code="other-certificate")


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
        self._browsers: dict[str, Any] = {}
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

    def find(self, vm: UUID) -> Any:
        """Answer the VM that has this as its instance's UUID, wherever it is; or None."""
        return self._content.searchIndex.FindByUuid(None, str(vm), True, True)  # noqa: FBT003 - a VM, by its instanceUuid

    @property
    def content(self) -> Any:
        """What the service has; it has to be speaking."""
        return self._content

    @property
    def host(self) -> Any:
        """The host itself. Raises `NotFound`, `Refused` where it is one of several."""
        if self._host is None:
            names = self.properties(self._all(vim.HostSystem), "name")
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
    def folder(self) -> Any:
        """Where VMs are in the inventory."""
        return self.datacenter.vmFolder

    @cached_property
    def pool(self) -> Any:
        """What VMs of the host take CPU and RAM from."""
        return self.host.parent.resourcePool

    def browser(self, datastore: str) -> Any:
        """What looks for files on a datastore of the host. Raises `NotFound`."""
        if datastore not in self._browsers:
            self._browsers[datastore] = self.datastore(datastore).browser
        return self._browsers[datastore]

    def datastore(self, name: str) -> Any:
        """A datastore of the host. Raises `NotFound`."""
        names = self.properties(self.host.datastore, "name")
        found = [store for store, has in names.items() if has["name"] == name]
        if not found:
            raise NotFound(f"the host has no datastore {name}")
        return found[0]

    def create(self, spec: Any) -> None:
        """Make a VM on the host."""
        self.wait(self.folder.CreateVM_Task(spec, self.pool, self.host))

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
        collector = self._content.propertyCollector.CreatePropertyCollector()
        try:
            collector.CreateFilter(
                kinds.FilterSpec(
                    propSet=[kinds.PropertySpec(type=type(thing), pathSet=list(paths))],
                    objectSet=[kinds.ObjectSpec(obj=thing)],
                ),
                False,  # noqa: FBT003 - whole values
            )
            version = ""
            while time.monotonic() < end:
                news = collector.WaitForUpdatesEx(
                    version, kinds.WaitOptions(maxWaitSeconds=_LOOK_S)
                )
                if news is None:
                    continue
                version = news.version
                for each in news.filterSet:
                    for changed in (change for x in each.objectSet for change in x.changeSet):
                        has[changed.name] = changed.val
                if enough(has):
                    return has
        finally:
            with suppress(vmodl.MethodFault):
                collector.DestroyPropertyCollector()
        raise Transient(f"{self.address.server} is still at it")

    def cookie(self) -> str:
        """What its files are asked for with."""
        name_and_value: str = self._stub.cookie.split(";")[0]
        return name_and_value

    def connection(self) -> _PinnedConnection:
        """Open HTTPS to the server."""
        address = self.address
        return _PinnedConnection(address.server, address.port, address.fingerprint)

    def connection_to(self, url: str, pin: str) -> tuple[_PinnedConnection, dict[str, str]]:
        """Open HTTPS to where the server says, and what to tell there.

        That may be one of its hosts, whose certificate it tells; our session is not for those.
        """
        where = urlsplit(url)
        if where.hostname in {"*", self.address.server}:
            return self.connection(), {"Cookie": self.cookie()}
        if where.hostname is None:
            raise Refused(f"{self.address.server} names no host: {url}")
        pin = pin.replace(":", "").lower()
        return _PinnedConnection(where.hostname, where.port or 443, pin), {}

    def _forget(self) -> None:
        """What was there may be somewhere else: look for all of it again."""
        self._host, self._browsers = None, {}
        for name in ("datacenter", "folder", "pool"):
            self.__dict__.pop(name, None)

    def _all(self, kind: Any) -> list[Any]:
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
            sslContext=_context(pin),
        )
        stub.scheme = lambda host, port, **_: _PinnedConnection(host, port, pin)
        weakref.finalize(self, stub.DropConnections)
        self._content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        self._log_in()
        self._stub = stub

    def _log_in(self) -> None:
        chap = self._credentials()
        self._content.sessionManager.Login(chap.user, chap.password.get_secret_value())


def _sorted(error: Any) -> AdapterError:
    text = str(getattr(error, "msg", "") or type(error).__name__)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    meaning = next((meaning for name, meaning in _MEANINGS if name in kinds), Refused)
    return meaning(f"{text} ({type(error).__name__})")
