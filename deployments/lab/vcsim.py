"""A private vCenter, or a single ESXi: govmomi's simulator, with what it lacks, on the loopback.

It speaks the real SOAP API and keeps real files, but runs no VM: nothing boots, and what a vCenter
refuses it may allow. Its sources are under `vcsim/`, laid over those of Debian's govmomi; the
binary is built once for each version of either.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import subprocess
import tempfile
from pathlib import Path

from deployments.lab import CACHE
from deployments.lab.process import Process, wait_for

_OURS = Path(__file__).with_name("vcsim")
_GOPATH = Path("/usr/share/gocode")
_THEIRS = _GOPATH / "src/github.com/vmware/govmomi/simulator"
# Their source, ours: each is there exactly so often, or the build fails.
_PATCHES: dict[str, list[tuple[str, str, int]]] = {
    "virtual_machine.go": [
        (  # a raw device mapping is a disk without a flat file
            "\t\tdiskBacking := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)\n",
            (
                "\t\tdiskBacking, isFlat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)\n"
                "\t\tif !isFlat {\n\t\t\tcontinue\n\t\t}\n"
            ),
            1,
        ),
        (
            "\t\t\tvm.Config.ExtraConfig = append(vm.Config.ExtraConfig, c)\n",
            "\t\t\tvm.setExtraConfig(c)\n",
            1,
        ),
        (
            (
                "err := vdmCreateVirtualDisk(spec.FileOperation, &types.CreateVirtualDisk_Task{\n"
                "\t\t\t\tDatacenter: &dc.Self,\n\t\t\t\tName:       info.FileName,\n\t\t\t})"
            ),
            "err := setDiskDevice(spec.FileOperation, dc.Self, x, info.FileName)",
            1,
        ),
        (
            "\t\tsnapshot.createSnapshotFiles()\n",
            (
                "\t\tsnapshot.createSnapshotFiles()\n"
                "\t\tif fault := vm.setApart(); fault != nil {\n\t\t\treturn nil, fault\n\t\t}\n"
            ),
            1,
        ),
    ],
    "snapshot.go": [
        (".removeSnapshotFiles(ctx)\n", ".removeSnapshotFiles(ctx)\n\t\t\tvm.putTogether()\n", 1)
    ],
    "http_nfc_lease.go": [  # what is uploaded is kept, and can be had
        ("dst = ioutil.Discard", "dst = uploaded(file, ioutil.Discard)", 1),
        ("f, err := os.Open(file)", "f, err := exported(file, os.Open)", 1),
        ("\t\tsrc = f\n", "\t\tsrc, dst = f, w\n", 1),
        (
            "\t_ = src.Close()\n",
            "\t_ = src.Close()\n\tif err == nil {\n\t\terr = published(dst)\n\t}\n",
            1,
        ),
    ],
    "host_datastore_browser.go": [
        (
            "s.addFile(file, &res)\n",
            "s.addFile(file, &res)\n\t\t\t\t\ttellCapacity(&res, path.Join(dir, name))\n",
            1,
        ),
    ],
}


class Vcsim:
    """One simulator; what it keeps is in `folder`."""

    def __init__(
        self, folder: Path, *, esx: bool = False, datastores: int = 1, delay_ms: int = 0
    ) -> None:
        self.folder = folder.absolute()
        self.esx = esx
        self.datastores = datastores
        self.delay_ms = delay_ms
        self.user = "cloudloom"
        self._process = Process(self.folder, "vcsim")
        self._password = self.folder / "vcsim.password"

    @property
    def password(self) -> str:
        """The one that lets `user` in."""
        return self._password.read_text()

    @property
    def address(self) -> str:
        """How its first host is reached, the way hosts' addresses are written."""
        url, fingerprint = self._told()
        host = "" if self.esx else "DC0_C0_H0"
        return f"{url.replace('https', 'vsphere')}/{host}?fingerprint={fingerprint}"

    def files(self, datastore: str = "") -> Path:
        """Where a datastore's files are."""
        name = datastore or "LocalDS_0"
        (found,) = (self.folder / "tmp").glob(f"govcsim-*-{name}-*")
        return found

    def start(self) -> str:
        """Start it, and answer its first host's address."""
        if not self._process.alive():
            binary = build()
            scratch = self.folder / "tmp"
            scratch.mkdir(parents=True, exist_ok=True)
            self._password.touch(mode=0o600)
            self._password.write_text(secrets.token_hex(8))
            environment = {
                **os.environ,
                "TMPDIR": str(scratch),
                "VCSIM_USER": self.user,
                "VCSIM_PASSWORD": self.password,
            }
            flags = [f"-datastores={self.datastores}", f"-delay={self.delay_ms}"]
            flags += ["-esx"] if self.esx else []
            self._process.log.unlink(missing_ok=True)
            self._process.spawn(binary, *flags, env=environment)
        wait_for(self._answers, 20, f"vcsim ({self._process.log})")
        return self.address

    def stop(self) -> None:
        """End it, with all that it kept; gone already is success."""
        self._process.stop()

    def _answers(self) -> bool:
        if not self._process.alive():
            raise RuntimeError(f"vcsim ended: {self._process.log.read_text()}")
        return "SHA256" in self._process.log.read_text()

    def _told(self) -> tuple[str, str]:
        log = self._process.log.read_text()
        url = re.search(r"^URL (\S+)$", log, re.MULTILINE)
        fingerprint = re.search(r"^SHA256 (\w+)$", log, re.MULTILINE)
        if url is None or fingerprint is None:
            raise RuntimeError(f"vcsim says nothing: {log}")
        return url[1], fingerprint[1]


def build(folder: Path = CACHE) -> Path:
    """Answer the binary, built once for each version of our sources, theirs, and Go."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "vcsim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes ask at the same moment
        ours = {path.relative_to(_OURS): path for path in sorted(_OURS.rglob("*.go"))}
        go = subprocess.run(["go", "version"], check=True, capture_output=True).stdout
        theirs = [path.read_bytes() for path in sorted(_THEIRS.glob("*.go"))]
        made_from = (go, Path(__file__).read_bytes(), *map(Path.read_bytes, ours.values()))
        key = hashlib.sha256(b"\0".join((*made_from, *theirs))).hexdigest()[:16]
        binary = folder / f"vcsim-{key}"
        if not binary.exists():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".vcsim-") as scratch:
                _compile(Path(scratch), folder / "go").rename(binary)
    return binary


def _compile(scratch: Path, cache: Path) -> Path:
    """Compile in GOPATH mode, as Debian's packages are made to be; nothing is downloaded."""
    laid = {str(_THEIRS / path.name): str(path) for path in (_OURS / "simulator").glob("*.go")}
    for name, changes in _PATCHES.items():
        text = (_THEIRS / name).read_text()
        for old, new, times in changes:
            if text.count(old) != times:
                raise RuntimeError(f"govmomi's {name} is another than this was made for")
            text = text.replace(old, new)
        (scratch / name).write_text(_with_mapped_disks(text))
        laid[str(_THEIRS / name)] = str(scratch / name)
    overlay, binary = scratch / "overlay.json", scratch / "vcsim"
    overlay.write_text(json.dumps({"Replace": laid}))
    environment = {
        **os.environ,
        "GOPATH": str(_GOPATH),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOCACHE": str(cache),
    }
    subprocess.run(
        ["go", "build", "-overlay", overlay, "-o", binary, _OURS / "main.go"],
        check=True, env=environment, cwd=_OURS,
    )  # fmt: skip
    return binary


def _with_mapped_disks(text: str) -> str:
    """Two more unchecked type assertions, in cloning, that a raw device mapping trips over."""
    return re.sub(
        r"^(\t*)(disk\.Backing\.\(\*types\.VirtualDiskFlatVer2BackingInfo\))\.(\w+) = (.*)$",
        r"\1if b, ok := \2; ok {\n\1\tb.\3 = \4\n\1}",
        text,
        flags=re.MULTILINE,
    )
