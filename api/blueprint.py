"""Blueprints: an appliance as one document, JSON or YAML, read with suspicion."""

import json
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.guests import Bus, Firmware
from adapters.lan import WaitFor
from adapters.types import MOST_DISKS, Value
from api.dependencies import Name, Reference
from api.errors import Invalid, Problem
from api.labelling import Labels
from api.settings import BOOT, BootOrder, Password
from api.user_data import USER_DATA, UserData

_YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH = 20
_MAX_VMS = 1000
WAIT_FOR = (
    "`lease`: deployments succeed only once guests have been told their addresses; what is said "
    "of a deployment itself goes before."
)


class WantedVolume(BaseModel):
    """A volume: an existing one of this name that is detached, else a new one of this size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    size_mib: Annotated[int, Field(gt=0, le=2**31 - 1)] | None = None
    tier: Name = "default"
    labels: Labels = Field(default_factory=dict, description="Of a new one.")


class WantedDisk(BaseModel):
    """An empty disk, beside those of the template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_mib: int = Field(gt=0, le=2**31 - 1, examples=[1024])


class WantedNic(BaseModel):
    """A network that a VM is in, and what is said of its card there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    address: IPv4Address | None = Field(None, description="Else the next one that is free.")
    default: bool = Field(default=False, description="Its gateway is the VM's; else the first's.")
    model: str | None = Field(None, max_length=32, examples=["e1000"])


class WantedVm(BaseModel):
    """A VM, or `replicas` of it, called `name-1`, `name-2`, ..., volumes likewise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    template: Reference
    cpu: int | None = Field(None, gt=0, le=1024)
    ram_mib: int | None = Field(None, gt=0, le=2**24)
    replicas: int = Field(1, ge=1, le=_MAX_VMS)
    depends_on: list[Name] = Field(default_factory=list, max_length=_MAX_VMS)
    volumes: list[WantedVolume] = Field(default_factory=list, max_length=MOST_DISKS - 1)
    disks: list[WantedDisk] = Field(default_factory=list, max_length=MOST_DISKS - 1)
    networks: list[Name | WantedNic] = Field(default=["default"], max_length=8)
    tier: Name | None = Field(None, description="Of the datastore that its disks are to be on.")
    affinity: Name | None = Field(
        None, description="VMs of the appliance with one such word are placed near each other."
    )
    anti_affinity: Name | None = Field(
        None, description="VMs of the appliance with one such word are placed on different hosts."
    )
    protected: bool = Field(
        default=False, description="What destroys it is refused, until it is protected no more."
    )
    labels: Labels = Field(default_factory=dict)
    user_data: UserData | None = Field(None, description=USER_DATA)
    boot: BootOrder | None = Field(None, description=BOOT)
    vnc_password: Password | None = None
    firmware: Firmware | None = Field(None, description="Unless said, as the template wishes.")
    bus: Bus | None = Field(
        None,
        description="Of its disks and volumes. Unless said, as the template wishes for its first "
        "disk. What the hypervisors of the virtual datacenter have not becomes `sata`.",
    )
    wait_for: WaitFor | None = Field(None, description=f"{WAIT_FOR} Else as the appliance says.")

    @property
    def cards(self) -> list[WantedNic]:
        """Its networks, each with all that is said of it."""
        return [WantedNic(name=x) if isinstance(x, str) else x for x in self.networks]


class Blueprint(BaseModel):
    """An appliance: VMs made from templates, with volumes and networks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    appliance: Name
    virtual_datacenter: Reference
    approval: bool = Field(default=False, description="Deployments wait until somebody approves.")
    labels: Labels = Field(default_factory=dict)
    wait_for: WaitFor | None = Field(None, description=WAIT_FOR)
    vms: list[WantedVm] = Field(min_length=1, max_length=_MAX_VMS)


class PlannedVm(Value):
    """One VM that a blueprint stands for."""

    name: str
    depends_on: tuple[str, ...]
    wanted: Any
    volumes: tuple[Any, ...]


EXAMPLE = """\
appliance: shop
virtual_datacenter: demo
vms:
  - name: db
    template: tiny-linux
    cpu: 1
    ram_mib: 128
    labels: {owner: ada}
    volumes: [{name: data, size_mib: 64, tier: default}]
    networks: [default]
  - name: web
    template: tiny-linux
    replicas: 2
    depends_on: [db]
"""


def read(content: bytes, content_type: str) -> Blueprint:
    """The blueprint in a request's body. Raises `Problem`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _YAML:
        document = _from_yaml(content)
    elif kind == "application/json":
        document = _from_json(content)
    else:
        text = "a blueprint is application/json or application/yaml"
        raise Problem(415, "unsupported-media-type", text)
    try:
        return Blueprint.model_validate(document)
    except ValidationError as error:
        raise Invalid(error.errors()) from error


def planned(blueprint: Blueprint, there: Collection[str] = ()) -> list[PlannedVm]:
    """Every VM, replicas one by one; they may depend on those that are there already.

    Raises `Problem` on names that do not work out.
    """
    new = {vm.name: _names(vm.name, vm.replicas) for vm in blueprint.vms}
    if len(new) < len(blueprint.vms):
        raise Problem(422, "duplicate-name", "two VMs have the same name")
    names = {name: [name] for name in there} | new
    vms = [each for vm in blueprint.vms for each in _replicas(vm, names)]
    _require_distinct("VMs", [vm.name for vm in vms])
    _require_distinct("volumes", [volume.name for vm in vms for volume in vm.volumes])
    if len(there) + len(vms) > _MAX_VMS:
        raise Problem(422, "too-many-vms", f"an appliance has at most {_MAX_VMS} VMs")
    return vms


def _replicas(vm: WantedVm, names: dict[str, list[str]]) -> Iterator[PlannedVm]:
    if unknown := sorted(set(vm.depends_on) - set(names)):
        text = f"{vm.name} depends on {', '.join(unknown)}, not in this appliance"
        raise Problem(422, "unknown-dependency", text)
    if vm.replicas > 1 and any(card.address for card in vm.cards):
        text = f"{vm.name} is {vm.replicas} VMs, which cannot all have one address"
        raise Problem(422, "address-of-many", text)
    if sum(card.default for card in vm.cards) > 1:
        text = f"{vm.name} has several default networks, and one gateway"
        raise Problem(422, "several-defaults", text)
    before = tuple(dict.fromkeys(each for name in vm.depends_on for each in names[name]))
    for number, name in enumerate(names[vm.name]):
        volumes = tuple(
            volume.model_copy(update={"name": _names(volume.name, vm.replicas)[number]})
            for volume in vm.volumes
        )
        yield PlannedVm(name=name, depends_on=before, wanted=vm, volumes=volumes)


def _names(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _require_distinct(what: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Problem(422, "duplicate-name", f"two {what} are called {', '.join(twice)}")


def _from_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "invalid-json", str(error)) from error


def _from_yaml(content: bytes) -> Any:
    try:
        text = content.decode()
        _require_plain(text)
        return yaml.load(text, _LOADER)  # noqa: S506 - a safe loader, from C where there is one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Problem(400, "invalid-yaml", str(error)) from error


def _require_plain(text: str) -> None:
    """Refuse aliases, which a few lines can blow up to gigabytes, and deep nesting."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise Problem(400, "invalid-yaml", "anchors and aliases are not read")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise Problem(400, "invalid-yaml", f"nested deeper than {_MAX_DEPTH}")
