"""An iSCSI initiator: qemu's own, as a guest would have it."""

import subprocess

from adapters.types import Chap, Export


def image_options(port: int, export: Export, chap: Chap | None) -> str:
    """How qemu's programs reach an export, in one word."""
    options = {
        "driver": "raw",
        "file.driver": "iscsi",
        "file.transport": "tcp",
        "file.portal": f"127.0.0.1:{port}",
        "file.target": export.iqn,
        "file.lun": "1",
        "file.initiator-name": export.initiator,
    }
    if chap:
        options["file.user"] = chap.user
        options["file.password"] = chap.password.get_secret_value()
    return ",".join(f"{key}={value}" for key, value in options.items())


def qemu_io(port: int, export: Export, chap: Chap | None, *commands: str) -> str:
    """Log in, do what is asked and log out; raise `AssertionError` with what went wrong."""
    asked = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *asked, "--image-opts", image_options(port, export, chap)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    said = done.stdout + done.stderr
    if done.returncode or "failed" in said:  # it ends with 0 when a command has failed
        raise AssertionError(said)
    return said
