"""The composition root: settings become adapters; one object, replaced whole in tests."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from adapters.database.addressing import Networks
from adapters.database.approvals import Approvals
from adapters.database.cards import Cards
from adapters.database.claims import Claims
from adapters.database.equipment import Equipment
from adapters.database.explanations import Explanations
from adapters.database.figures import Figures
from adapters.database.following import Following
from adapters.database.hardware import Hardware
from adapters.database.history import History
from adapters.database.inventory import Inventory
from adapters.database.journal import Journal
from adapters.database.lans import Lans
from adapters.database.ledger import Ledger
from adapters.database.library import Library
from adapters.database.operations import Operations
from adapters.database.packages import Packages
from adapters.database.persistent import PersistentTemplates
from adapters.database.places import Places
from adapters.database.plans import Plans
from adapters.database.receipts import Receipts
from adapters.database.repositories import Repositories
from adapters.database.secrets import Keyring, Secrets
from adapters.database.session import Database
from adapters.database.stories import Stories
from adapters.database.turns import Turns
from adapters.database.ways import Ways
from adapters.errors import NotAllowed, NotFound, Unsupported
from adapters.hypervisors.base import Hypervisor
from adapters.hypervisors.memory import MemoryHypervisor
from adapters.images.base import Downloads, GuestTool, ImageRepository, ImageTool
from adapters.images.memory import (
    MemoryDownloads,
    MemoryGuestTool,
    MemoryImageTool,
    MemoryRepository,
)
from adapters.lan import LinkKind
from adapters.networks.base import DhcpServer
from adapters.networks.memory import MemoryDhcp
from adapters.nodes.base import Node, Switch
from adapters.nodes.memory import MemoryNode
from adapters.nodes.memory_links import MemorySwitch
from adapters.settings import Settings, settings
from adapters.storage.base import BlockStorage
from adapters.storage.memory import MemoryStorage
from adapters.types import Chap, Family, HostFacts
from adapters.world import World
from flows.traces import handed_out

if TYPE_CHECKING:
    from adapters.vsphere.session import Session as VsphereSession

R = TypeVar("R")
_RECENT_S = 5.0


class Cloud:
    """Everything that flows act on, made when it is first needed."""

    def __init__(self) -> None:
        self._made = threading.RLock()
        self._hosts: dict[UUID, tuple[str, Hypervisor]] = {}
        self._sessions: dict[tuple[UUID, str], VsphereSession] = {}
        self._said: dict[tuple[str, UUID], tuple[float, Any]] = {}

    def become(self, settings: Settings) -> None:
        """Start anew with other settings."""
        self.__dict__.clear()
        Cloud.__init__(self)
        self.settings = settings

    @cached_property
    def settings(self) -> Settings:
        """What the operator set."""
        return settings()

    @cached_property
    def database(self) -> Database:
        """The platform database."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return Database(self.settings.database)

    @cached_property
    def operations(self) -> Operations:
        """Operations and their leases."""
        return Operations(self.database, self.settings.lease_s)

    @cached_property
    def approvals(self) -> Approvals:
        """Who decided what about operations that waited."""
        return Approvals(self.operations)

    @cached_property
    def journal(self) -> Journal:
        """The lines of operations."""
        return Journal(self.operations)

    @cached_property
    def receipts(self) -> Receipts:
        """What was found when operations had ended."""
        return Receipts(self.operations)

    @cached_property
    def stories(self) -> Stories:
        """What people are told of operations elsewhere."""
        return Stories(self.database)

    @cached_property
    def ways(self) -> Ways:
        """What is fast in which repository."""
        return Ways(self.database)

    @cached_property
    def places(self) -> Places:
        """The few places at each host and repository."""
        return Places(self.operations)

    @cached_property
    def explanations(self) -> Explanations:
        """What should be on the backends."""
        return Explanations(self.database)

    @cached_property
    def figures(self) -> Figures:
        """What monitoring asks for."""
        return Figures(self.database)

    @cached_property
    def history(self) -> History:
        """What is over."""
        return History(self.database)

    @cached_property
    def following(self) -> Following:
        """What hypervisors say becomes states."""
        return Following(self.database)

    @cached_property
    def inventory(self) -> Inventory:
        """Hosts, VMs, volumes."""
        return Inventory(self.database)

    @cached_property
    def networks(self) -> Networks:
        """Networks, their tags and addresses."""
        return Networks(self.database)

    @cached_property
    def hardware(self) -> Hardware:
        """What VMs are made of."""
        return Hardware(self.database)

    @cached_property
    def ledger(self) -> Ledger:
        """What is charged, and the limits."""
        return Ledger(self.database)

    @cached_property
    def cards(self) -> Cards:
        """NICs that come and go."""
        return Cards(self.database)

    @cached_property
    def lans(self) -> Lans:
        """What DHCP servers are to know."""
        return Lans(self.database, self.inventory.installation)

    @cached_property
    def plans(self) -> Plans:
        """What was shown, and may be carried out."""
        return Plans(self.database)

    @cached_property
    def equipment(self) -> Equipment:
        """What templates wish for."""
        return Equipment(self.database)

    @cached_property
    def packages(self) -> Packages:
        """What was packed, and waits to be fetched."""
        return Packages(self.database)

    @cached_property
    def repositories(self) -> Repositories:
        """Remote repositories."""
        return Repositories(self.database)

    @cached_property
    def persistent(self) -> PersistentTemplates:
        """Templates whose disks are volumes."""
        return PersistentTemplates(self.database)

    @cached_property
    def library(self) -> Library:
        """Templates and conversions."""
        return Library(self.database)

    @cached_property
    def claims(self) -> Claims:
        """Who needs which shared thing."""
        return Claims(self.database)

    @cached_property
    def secrets(self) -> Secrets:
        """Passwords."""
        from flows.witness import witness

        return Secrets(self.database, Keyring(self.settings), witness)

    @cached_property
    def world(self) -> World:
        """The memory adapters' world."""
        return World(self.settings.simulation or self.settings.home / "world.sqlite")

    @cached_property
    @handed_out
    def images(self) -> ImageTool:
        """The tool that reads and converts images."""
        if self.settings.image_tool == "memory":
            return MemoryImageTool(self.world)
        from adapters.images.qemu_img import QemuImg

        return QemuImg()

    @cached_property
    def downloads(self) -> Downloads:
        """Files of other people's servers."""
        if self.settings.image_tool == "memory":
            return MemoryDownloads(self.world)
        from adapters.images.addresses import networks
        from adapters.images.downloads import HttpDownloads, Route

        said = self.settings
        allowed = networks(said.listed(said.download_networks))
        ways = (said.download_connect_s, said.download_silence_s, said.download_proxy, allowed)
        return HttpDownloads(Route(*ways))

    @cached_property
    @handed_out
    def guest_tool(self) -> GuestTool:
        """The tool that makes guests ready for KVM."""
        if self.settings.image_tool == "memory":
            return MemoryGuestTool(self.world)
        from adapters.images.virt_v2v import VirtV2v

        return VirtV2v()

    @handed_out
    def repository(self, datacenter: UUID) -> ImageRepository:
        """A datacenter's image repository."""
        root, marker = self._recently(self.inventory.repository, datacenter)
        if self.settings.image_tool == "memory":
            return MemoryRepository(self.world, Path(root), marker)
        from adapters.images.repository import DirectoryRepository

        return DirectoryRepository(Path(root), marker)

    def _recently(self, ask: Callable[[UUID], R], key: UUID) -> R:
        """What the inventory said some seconds ago is good enough for where things are."""
        now = time.monotonic()
        said = self._said.get((ask.__name__, key))
        if said is None or now - said[0] > _RECENT_S:
            said = self._said[ask.__name__, key] = now, ask(key)
        answer: R = said[1]
        return answer

    def hypervisor(self, host: UUID) -> Hypervisor:
        """A host's hypervisor, connected once per process and address."""
        record = self._recently(self.inventory.host, host)
        with self._made:
            address, hypervisor = self._hosts.get(host, ("", None))
            if hypervisor is None or address != record.address:
                hypervisor = self.hypervisor_at(record.family, record.address, host)
                self._hosts[host] = record.address, hypervisor
            return hypervisor

    @handed_out
    def hypervisor_at(
        self, family: Family, address: str, host: UUID, login: Chap | None = None
    ) -> Hypervisor:
        """A hypervisor by what reaches it: how a host is found before it is one of ours."""
        installation = self.inventory.installation
        if family is Family.VSPHERE:
            from adapters.hypervisors.vsphere import VsphereHypervisor

            return VsphereHypervisor(self._session(address, host, login), installation)
        if login is not None:
            raise Unsupported(f"{family} hosts are asked without a login")
        if family is Family.MEMORY:
            facts = HostFacts(cpu=64, ram_mib=256 * 1024, version="memory 1")
            return MemoryHypervisor(self.world, host, installation, facts, address)
        if family is not Family.KVM:
            raise Unsupported(f"no adapter for hypervisors of family {family}")
        from adapters.hypervisors.kvm import KvmHypervisor

        consoles = str(self.settings.home.absolute() / "consoles")
        domain_type, release_s = self.settings.domain_type, self.settings.release_s
        return KvmHypervisor(address, installation, domain_type, consoles, release_s=release_s)

    def _session(self, address: str, host: UUID, login: Chap | None) -> "VsphereSession":
        """A login at a vSphere server, shared by all that is asked of the host."""
        from adapters.vsphere.session import Session

        if login is not None:
            return Session(address, lambda: login)
        with self._made:
            key = (host, address)
            if key not in self._sessions:
                self._sessions[key] = Session(address, lambda: self._login(host))
            return self._sessions[key]

    def _login(self, host: UUID) -> Chap:
        try:
            return self.secrets.read(host)
        except NotFound as error:
            text = "the host wants a user and a password"
            raise NotAllowed(text, code="login-missing") from error

    @handed_out
    def node(self, host: UUID) -> Node:
        """Access to a host's files."""
        record = self._recently(self.inventory.host, host)
        if record.family is Family.MEMORY:
            return MemoryNode(self.world, host)
        if record.family is Family.VSPHERE:
            from adapters.nodes.vsphere import VsphereNode

            return VsphereNode(self._session(record.address, host, None))
        from adapters.nodes.local import LocalNode

        return LocalNode()

    @handed_out
    def switch(self, host: UUID) -> Switch:
        """A host's layer 2."""
        record = self._recently(self.inventory.host, host)
        if record.family is Family.MEMORY:
            return MemorySwitch(self.world, host)
        if record.family is Family.VSPHERE:
            from adapters.nodes.vsphere_links import VsphereSwitch

            return VsphereSwitch(self._session(record.address, host, None), record.link_kind)
        from adapters.nodes.bridges import Bridges
        from adapters.nodes.openvswitch import OpenVswitch

        namespace = (record.uplink or "").rpartition("/")[0]
        if record.link_kind is LinkKind.OVS:
            database, root = self.settings.ovs_database, self.settings.host_root
            return OpenVswitch(namespace, database, root)
        return Bridges(namespace, self.settings.host_root)

    @handed_out
    def dhcp(self, server: UUID) -> DhcpServer:
        """A DHCP server."""
        record = self._recently(self.lans.server, server)
        return self.dhcp_at(record.kind, record.address, server)

    @handed_out
    def dhcp_at(
        self, kind: str, address: str, server: UUID, login: Chap | None = None
    ) -> DhcpServer:
        """A DHCP server by what reaches it; a login that is not said is the secret of its id."""
        installation = self.inventory.installation
        if kind == "memory":
            return MemoryDhcp(self.world, server, installation)
        if kind == "dnsmasq":
            from adapters.networks.dnsmasq import Dnsmasq

            return Dnsmasq(Path(address), installation)
        if kind != "kea":
            raise Unsupported(f"no adapter for DHCP servers of kind {kind}")
        from adapters.networks.kea import Kea, KeaAgent, KeaSocket

        if not address.startswith(("http://", "https://")):
            return Kea(KeaSocket(Path(address)), installation)
        turns = Turns(self.database, self.settings.home)
        agent = KeaAgent(
            address, lambda: login or self._login_of(server), lambda: turns.at(server)
        )
        return Kea(agent, installation)

    def _login_of(self, server: UUID) -> Chap | None:
        with suppress(NotFound):
            return self.secrets.read(server)
        return None

    @handed_out
    def storage(self, pool: UUID) -> BlockStorage:
        """A storage pool."""
        record = self.inventory.pool(pool)
        if record.technology == "memory":
            return MemoryStorage(self.world, pool, record.total_mib)
        if record.technology != "directory":
            raise Unsupported(f"no adapter for storage of technology {record.technology}")
        from adapters.storage.directory import DirectoryStorage
        from adapters.storage.tgt import Tgt

        tgt = Tgt(record.control, record.host, record.port)
        return DirectoryStorage(Path(record.directory), tgt, limit_mib=record.total_mib)


cloud = Cloud()
