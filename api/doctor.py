"""What this machine lacks for Cloudloom, and how to get it.

It asks the machine, never the API: it is for the hour before the first start, and for the one
in which nothing starts any more.
"""

import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import httpx
from sqlalchemy.exc import SQLAlchemyError

from adapters.database.schema import differences
from adapters.database.session import Database
from adapters.settings import Settings

_PYTHON = (3, 11)
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_MIB = 2**20


class State(StrEnum):
    """How it is: as wished; Cloudloom runs, but something does not; it does not run."""

    WELL = "well"
    LIMITED = "limited"
    ILL = "ill"


class Finding(NamedTuple):
    """One thing looked at, and what to do about it where it is not well."""

    what: str
    state: State
    detail: str
    remedy: str = ""


class Need(NamedTuple):
    """A program: Debian's package of it, and what does not work without it."""

    program: str
    package: str
    purpose: str
    without: State = State.LIMITED


_DRIVERS = "guests of other hypervisors are given drivers for KVM"
_GUEST_TOOLS = (("virt-v2v", "virt-v2v"), ("nbdkit", "nbdkit"), ("nbdcopy", "libnbd-bin"))
NEEDS = (
    Need("setpriv", "util-linux", "no external program outlives its runner", State.ILL),
    Need("prlimit", "util-linux", "external programs are bounded", State.ILL),
    Need("qemu-img", "qemu-utils", "images are inspected and converted", State.ILL),
    Need("qemu-system-x86_64", "qemu-system-x86", "this machine can be a KVM host"),
    *(Need(program, package, _DRIVERS) for program, package in _GUEST_TOOLS),
    Need("libvirtd", "libvirt-daemon-system", "this machine can be a KVM host"),
    Need("tgtd", "tgt", "this machine can be an iSCSI server"),
    Need("tgtadm", "tgt", "this machine can be an iSCSI server"),
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, in the order in which it is needed."""
    yield _python()
    yield from (_program(need, settings) for need in NEEDS)
    yield _libvirt_python()
    yield _iscsi_driver()
    yield _emulation(settings)
    yield _home(settings)
    yield from _space(settings)
    yield from _keys(settings)
    yield _database(settings)
    yield _port(settings.host, settings.port, "API", "/health/live", "CLOUDLOOM_PORT")
    yield _prefect(settings)


def _python() -> Finding:
    version = ".".join(str(x) for x in sys.version_info[:3])
    if sys.version_info < _PYTHON:
        return Finding("Python", State.ILL, version, "apt-get install python3 python3-venv")
    return Finding("Python", State.WELL, version)


def _program(need: Need, settings: Settings) -> Finding:
    if found := shutil.which(need.program, path=_PATH):
        return Finding(need.program, State.WELL, found)
    pretended = need.program == "qemu-img" and settings.image_tool == "memory"
    state = State.LIMITED if pretended else need.without
    remedy = f"apt-get install --no-install-recommends {need.package}"
    return Finding(need.program, state, f"missing; with it {need.purpose}", remedy)


def _libvirt_python() -> Finding:
    if find_spec("libvirt"):
        return Finding("libvirt-python", State.WELL, "KVM hosts can be reached")
    remedy = "apt-get install libvirt-dev pkg-config gcc python3-dev; then make the venv anew"
    return Finding("libvirt-python", State.LIMITED, "missing; no KVM host can be reached", remedy)


def _iscsi_driver() -> Finding:
    folders = ("lib/*/qemu", "lib/qemu", "lib64/qemu", "lib64/qemu-kvm")
    if any(any(Path("/usr").glob(f"{each}/block-iscsi.so")) for each in folders):
        return Finding("QEMU's iSCSI driver", State.WELL, "volumes can be connected and filled")
    detail = "not found as a module; unless QEMU has it built in, no volume can be connected"
    remedy = "apt-get install --no-install-recommends qemu-block-extra"
    return Finding("QEMU's iSCSI driver", State.LIMITED, detail, remedy)


def _emulation(settings: Settings) -> Finding:
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    if settings.domain_type != "kvm":
        detail = "guests are emulated (CLOUDLOOM_DOMAIN_TYPE=qemu)"
        if usable:
            return Finding("/dev/kvm", State.WELL, f"{detail}; kvm would be faster")
        return Finding("/dev/kvm", State.WELL, f"not there, and not needed: {detail}")
    if usable:
        return Finding("/dev/kvm", State.WELL, "guests run on the processor")
    detail = "CLOUDLOOM_DOMAIN_TYPE is kvm, but it cannot be opened"
    remedy = "modprobe kvm_intel (or kvm_amd), or turn virtualisation on in the firmware"
    return Finding("/dev/kvm", State.LIMITED, detail, remedy)


def _home(settings: Settings) -> Finding:
    home = settings.home.absolute()
    there = next(each for each in (home, *home.parents) if each.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("home", State.WELL, str(home))
    remedy = "CLOUDLOOM_HOME=<a folder of this user>"
    return Finding("home", State.ILL, f"{home} cannot be written by this user", remedy)


def _space(settings: Settings) -> Iterator[Finding]:
    home = settings.home.absolute()
    there = next(each for each in (home, *home.parents) if each.exists())
    usage = shutil.disk_usage(there)
    percent = 100 * usage.free / usage.total
    detail = f"{usage.free // _MIB} MiB free ({percent:.0f} %)"
    if percent < settings.low_space_percent:
        yield Finding("disk space", State.LIMITED, detail, f"make room on the disk of {there}")
    else:
        yield Finding("disk space", State.WELL, detail)


def _keys(settings: Settings) -> Iterator[Finding]:
    key = settings.home / "secret.key"
    if settings.secret_keys is not None or not key.exists():
        return
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield Finding("secret key", State.LIMITED, "others can read it", f"chmod 600 {key}")
    else:
        yield Finding("secret key", State.WELL, str(key))


def _database(settings: Settings) -> Finding:
    if not settings.database_url and not (settings.home / "cloudloom.sqlite").exists():
        return Finding("database", State.WELL, "SQLite, made by the first start")
    database = Database(settings.database)
    kind = database.engine.dialect.name
    try:
        with database.engine.connect() as connection:
            apart = differences(connection)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or type(error).__name__)
        remedy = "look at the database server, and at CLOUDLOOM_DATABASE_URL"
        return Finding("database", State.ILL, f"{kind}: {reason}", remedy)
    finally:
        database.engine.dispose()
    if apart:
        detail = f"{kind}: its tables are of another version ({len(apart)} differences)"
        return Finding(
            "database", State.LIMITED, detail, "`cloudloom serve` brings them up to date"
        )
    return Finding("database", State.WELL, f"{kind}, its tables up to date")


def _prefect(settings: Settings) -> Finding:
    if not settings.prefect_url:
        where = ("127.0.0.1", settings.prefect_port, "Prefect", "/api/health")
        return _port(*where, "CLOUDLOOM_PREFECT_PORT")
    if _answers(f"{settings.prefect_url.rstrip('/')}/health"):
        return Finding("Prefect", State.WELL, f"answers at {settings.prefect_url}")
    detail = f"does not answer at {settings.prefect_url}; operations are accepted, and wait"
    return Finding("Prefect", State.LIMITED, detail, "look at it, and at CLOUDLOOM_PREFECT_URL")


def _port(host: str, port: int, who: str, path: str, setting: str) -> Finding:
    if _answers(f"http://{host}:{port}{path}"):
        return Finding(who, State.WELL, f"answers at port {port}")
    try:
        with socket.create_server((host, port)):
            return Finding(who, State.WELL, f"not started; port {port} is free for it")
    except OSError as error:
        detail = f"port {port} of {host}: {error.strerror}"
        return Finding(who, State.ILL, detail, f"{setting}=<a free port>")


def _answers(url: str) -> bool:
    try:
        with httpx.Client(trust_env=False, timeout=2.0) as client:
            return client.get(url).is_success
    except httpx.HTTPError:
        return False
