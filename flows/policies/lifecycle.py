"""The only place that knows which state allows what.

| operation | VM states that allow it |
|---|---|
| deploy | NOT_ALLOCATED |
| undeploy | any but NOT_ALLOCATED |
| power on | CONFIGURED, OFF, PAUSED |
| power off | ON, PAUSED |
| power paused | ON |
| reset | ON |
| persist, export | CONFIGURED, OFF |
| capture | CONFIGURED, ON, OFF, PAUSED |
| seed, set up | NOT_ALLOCATED |
| redefine | CONFIGURED, OFF |
| grow | ON |
| resize, grow a volume of, add a disk to, delete a disk of | NOT_ALLOCATED, CONFIGURED, OFF |
| attach a NIC to, detach a NIC of | NOT_ALLOCATED, CONFIGURED, ON, OFF |
| capture a volume of | NOT_ALLOCATED, CONFIGURED, OFF |
| attach, detach | NOT_ALLOCATED, CONFIGURED, ON, OFF |

To seed is to say what a guest reads when it boots first; to set up, what the VM starts from and
what opens its screen: one that is deployed has to be redefined for that. To grow is to be resized
to more while it is on, where its host can do that, as with volumes and NICs that come and go; a
paused guest could not release one.

A VM under an operation is LOCKED, and allows nothing. A protected one allows nothing that destroys
(`DESTROYS`): what its disks hold, or what its guest has not saved.

| operation's state | becomes |
|---|---|
| waiting | accepted (approved); cancelled (rejected, timed out, cancelled): it never began |
| accepted | running; unwinding (cancelled before it began) |
| running | succeeded; failed (partly deployed, the rest is kept); unwinding; stuck |
| unwinding | failed; cancelled; stuck |
| stuck | running (resume), unwinding (unwind, cancel), abandoned |

No flow run exists while it waits; it has its locks, and its `due_at` is when it is timed out.
"""

from collections.abc import Iterable

from adapters.errors import Conflict
from adapters.types import ApplianceState, Power, VmState

_TOLD = 3  # as many names as a sentence takes
_STILL = frozenset({VmState.CONFIGURED, VmState.OFF})
_ALLOWED = {
    "deploy": frozenset({VmState.NOT_ALLOCATED}),
    "undeploy": frozenset(VmState) - {VmState.NOT_ALLOCATED, VmState.LOCKED},
    "power on": _STILL | {VmState.PAUSED},
    "power off": frozenset({VmState.ON, VmState.PAUSED}),
    "power paused": frozenset({VmState.ON}),
    "reset": frozenset({VmState.ON}),
    "persist": _STILL,
    "seed": frozenset({VmState.NOT_ALLOCATED}),
    "set up": frozenset({VmState.NOT_ALLOCATED}),
    "redefine": _STILL,
    "export": _STILL,
    "capture": _STILL | {VmState.ON, VmState.PAUSED},
    "grow": frozenset({VmState.ON}),
    "resize": _STILL | {VmState.NOT_ALLOCATED},
    "grow a volume of": _STILL | {VmState.NOT_ALLOCATED},
    "capture a volume of": _STILL | {VmState.NOT_ALLOCATED},
    "add a disk to": _STILL | {VmState.NOT_ALLOCATED},
    "delete a disk of": _STILL | {VmState.NOT_ALLOCATED},
    "attach a NIC to": _STILL | {VmState.NOT_ALLOCATED, VmState.ON},
    "detach a NIC of": _STILL | {VmState.NOT_ALLOCATED, VmState.ON},
    "attach": _STILL | {VmState.NOT_ALLOCATED, VmState.ON},
    "detach": _STILL | {VmState.NOT_ALLOCATED, VmState.ON},
}
DESTROYS = frozenset({"undeploy", "delete", "reset", "delete a disk of"})
_OF_POWER = {Power.ON: VmState.ON, Power.OFF: VmState.OFF, Power.PAUSED: VmState.PAUSED}


def require(what: str, name: str, state: VmState) -> None:
    """Refuse what the state does not allow, as a `Conflict` with code `wrong-state`."""
    if state not in _ALLOWED[what]:
        raise Conflict(f"cannot {what} VM {name}: it is {state}", code="wrong-state")


def require_unprotected(deed: str, protected: Iterable[str]) -> None:
    """Refuse what destroys any of these VMs, as a `Conflict` that names them."""
    names = sorted(protected)
    if deed in DESTROYS and names:
        told = ", ".join(names[:_TOLD]) + (", ..." if names[_TOLD:] else "")
        refusal = Conflict(f"cannot {deed} what is protected: {told}", code="protected")
        refusal.details = {"vms": names}
        raise refusal


def state_of(power: Power) -> VmState:
    """The state of a deployed VM whose hypervisor says this."""
    return _OF_POWER[power]


def seen_as(state: VmState, power: Power | None) -> VmState:
    """The state of a deployed VM that nobody works on, when it is seen so, or not at all."""
    if power is None:
        return VmState.UNKNOWN
    return state if power is Power.OFF and state is VmState.CONFIGURED else state_of(power)


def power_of(state: VmState) -> Power:
    """What the hypervisor says of a deployed VM in this state."""
    return next((power for power, each in _OF_POWER.items() if each is state), Power.OFF)


def appliance_state(vms: Iterable[VmState], *, leaving: bool = False) -> ApplianceState:
    """An appliance's state, derived from its VMs' (LOCKED ones as such); does any leave?"""
    states = set(vms)
    if VmState.UNKNOWN in states:
        return ApplianceState.UNKNOWN
    if VmState.LOCKED in states:
        return ApplianceState.LOCKED
    if states <= {VmState.NOT_ALLOCATED}:
        return ApplianceState.NOT_DEPLOYED
    if leaving or states & {VmState.NOT_ALLOCATED, VmState.ALLOCATED}:
        return ApplianceState.NEEDS_SYNC
    return ApplianceState.DEPLOYED
