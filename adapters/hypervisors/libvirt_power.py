"""What libvirt says of a domain's power, and how one is switched off."""

import time

import libvirt

from adapters.hypervisors.libvirt_session import says
from adapters.types import Power

_POLL_S = 0.05
_PRESS_AGAIN_S = 3.0  # a guest that is still booting does not hear the power button
_POWER = {
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Power.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.OFF,
    libvirt.VIR_DOMAIN_CRASHED: Power.OFF,
}


def power_of(domain: libvirt.virDomain) -> Power:
    """Whether it is on."""
    return _POWER.get(domain.state()[0], Power.ON)


def switch_off(domain: libvirt.virDomain, timeout_s: float) -> None:
    """Press the power button, again for a guest that boots; pull the plug in the end."""
    press = time.monotonic()
    end = press + timeout_s
    try:
        while domain.isActive() and time.monotonic() < end:
            if time.monotonic() >= press:
                if power_of(domain) is Power.PAUSED:
                    domain.resume()  # a paused guest hears nothing
                domain.shutdown()
                press += _PRESS_AGAIN_S
            time.sleep(_POLL_S)
        domain.destroy()
    except libvirt.libvirtError as error:
        if not says(error, libvirt.VIR_ERR_OPERATION_INVALID) or domain.isActive():
            raise
